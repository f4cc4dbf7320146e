"""The promises of a store, each kept by all three: SQLite, and a real etcd and ZooKeeper."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from executor.framework.store import sqlite, zookeeper
from executor.framework.store.etcd import EtcdStore
from executor.framework.store.interface import (
    MAX_VALUE,
    ConflictError,
    Delete,
    Expect,
    FencedError,
    Put,
    Store,
    StoreError,
    Txn,
)
from executor.framework.store.tests import servers
from executor.framework.store.tests.servers import Server

Opener = Callable[[], Awaitable[Store]]


@pytest.fixture(scope="module")
def etcd_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with servers.etcd(tmp_path_factory.mktemp("etcd") / "one") as server:
        yield server


@pytest.fixture(scope="module")
def zookeeper_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with servers.zookeeper(tmp_path_factory.mktemp("zookeeper") / "one") as server:
        yield server


#: Seconds that a leadership outlives its silence, where that is not the subject: a busy machine is silent.
LONG = 20.0


@pytest.fixture(params=["sqlite", "etcd", "zookeeper"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    """Opens a store that is empty for this test; opened twice, it is the same store."""
    prefix = f"/{abs(hash(request.node.name))}"
    if request.param == "sqlite":
        return lambda: sqlite.open_store(tmp_path / "store" / "state.db")
    if request.param == "etcd":
        server: Server = request.getfixturevalue("etcd_server")

        async def open_etcd() -> Store:
            return EtcdStore([server.address], prefix, lease=LONG)

        return open_etcd
    keeper: Server = request.getfixturevalue("zookeeper_server")
    return lambda: zookeeper.open_store(keeper.address, prefix, session=LONG)


@asynccontextmanager
async def opened(opener: Opener) -> AsyncIterator[Store]:
    store = await opener()
    try:
        yield store
    finally:
        await store.close()


def test_what_was_written_is_read_again(opener: Opener) -> None:
    async def scenario() -> None:
        async with opened(opener) as store:
            lead = await store.campaign("here:1")
            await store.commit(
                Txn((Put("apps/web", b"1"), Put("apps/web2", b"\x00\xff"), Put("tasks/a", b""))), lead
            )
            assert await store.leader() == "here:1"
            await lead.resign()
        async with opened(opener) as store:
            found = await store.get("apps/web2")
            assert found is not None and found.value == b"\x00\xff"
            assert [entry.key for entry in await store.entries("apps/")] == ["apps/web", "apps/web2"]
            assert await store.get("apps/nothing") is None

    asyncio.run(scenario())


def test_a_delete_is_of_one_key_never_of_a_prefix(opener: Opener) -> None:
    async def scenario() -> None:
        async with opened(opener) as store:
            lead = await store.campaign("")
            keys = ("apps/web", "apps/web2", "apps/web/canary")
            await store.commit(Txn(tuple(Put(key, b"x") for key in keys)), lead)
            await store.commit(Txn((Delete("apps/web"), Delete("apps/absent"))), lead)
            assert [entry.key for entry in await store.entries("apps/")] == ["apps/web/canary", "apps/web2"]

    asyncio.run(scenario())


def test_a_condition_that_does_not_hold_changes_nothing(opener: Opener) -> None:
    async def scenario() -> None:
        async with opened(opener) as store:
            lead = await store.campaign("")
            await store.commit(Txn((Put("a", b"1"),), (Expect("a", 0),)), lead)
            first = await store.get("a")
            assert first is not None
            await store.commit(Txn((Put("a", b"2"), Put("b", b"2")), (Expect("a", first.revision),)), lead)
            with pytest.raises(ConflictError):
                await store.commit(
                    Txn((Put("a", b"3"), Put("c", b"3")), (Expect("a", first.revision),)), lead
                )
            with pytest.raises(ConflictError):
                await store.commit(Txn((Put("c", b"3"),), (Expect("b", 0),)), lead)
            with pytest.raises(ConflictError):
                await store.commit(Txn((Put("a", b"3"),), (Expect("a", 0),)), lead)
            assert [entry.value for entry in await store.entries("")] == [b"2", b"2"]

    asyncio.run(scenario())


def test_a_key_that_was_removed_may_be_made_again(opener: Opener) -> None:
    async def scenario() -> None:
        async with opened(opener) as store:
            lead = await store.campaign("")
            for _ in range(2):
                await store.commit(Txn((Put("a", b"1"),), (Expect("a", 0),)), lead)
                await store.commit(Txn((Delete("a"),)), lead)
            assert await store.get("a") is None

    asyncio.run(scenario())


def test_many_writers_lose_nothing(opener: Opener) -> None:
    async def scenario() -> None:
        async with opened(opener) as store:
            lead = await store.campaign("")
            await asyncio.gather(
                *(store.commit(Txn((Put(f"k/{number:03}", b"x" * 100),)), lead) for number in range(300))
            )
            assert len(await store.entries("k/")) == 300

    asyncio.run(scenario())


def test_odd_keys_are_keys(opener: Opener) -> None:
    async def scenario() -> None:
        async with opened(opener) as store:
            lead = await store.campaign("")
            keys = ["tasks/ü%2F .x", "tasks/a b", "tasks/'\"", "tasks/" + "x" * 250]
            await store.commit(Txn(tuple(Put(key, key.encode()) for key in keys)), lead)
            assert sorted(entry.key for entry in await store.entries("tasks/")) == sorted(keys)

    asyncio.run(scenario())


def test_what_no_store_would_take_is_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        Txn((Put("a", b"x" * (MAX_VALUE + 1)),))
    with pytest.raises(ValueError, match="at most"):
        Txn(tuple(Put(str(number), b"") for number in range(101)))


@pytest.fixture(params=["etcd", "zookeeper"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Opener, Server]:
    """A store that several instances share, and its server, which a test may stop."""
    prefix = f"/{abs(hash(request.node.name))}"
    server: Server = request.getfixturevalue(f"{request.param}_server")
    if request.param == "etcd":

        async def open_etcd() -> Store:
            return EtcdStore([server.address], prefix, lease=2.0)

        return open_etcd, server
    return (lambda: zookeeper.open_store(server.address, prefix, session=2.0)), server


def test_the_second_leads_when_the_first_resigns_and_the_first_writes_no_more(
    shared: tuple[Opener, Server],
) -> None:
    async def scenario() -> None:
        async with opened(shared[0]) as one, opened(shared[0]) as two:
            first = await one.campaign("one:1")
            waiting = asyncio.create_task(two.campaign("two:2"))
            await asyncio.sleep(0.5)
            assert not waiting.done()
            await one.commit(Txn((Put("a", b"1"),)), first)
            await first.resign()
            second = await asyncio.wait_for(waiting, 20)
            assert second.token > first.token
            first.lost.clear()  # as if it had not noticed
            with pytest.raises(FencedError):
                await one.commit(Txn((Put("a", b"2"),)), first)
            await two.commit(Txn((Put("a", b"3"),)), second)
            found = await one.get("a")
            assert found is not None and found.value == b"3"
            assert await one.leader() == "two:2"

    asyncio.run(scenario())


def test_who_gave_up_waiting_and_waits_again_does_not_wait_for_itself(shared: tuple[Opener, Server]) -> None:
    async def scenario() -> None:
        async with opened(shared[0]) as one, opened(shared[0]) as two:
            first = await one.campaign("one:1")
            waiting = asyncio.create_task(two.campaign("two:2"))
            await asyncio.sleep(0.3)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            again = asyncio.create_task(two.campaign("two:2"))
            await asyncio.sleep(0.3)
            await first.resign()
            second = await asyncio.wait_for(again, 20)
            await two.commit(Txn((Put("a", b"1"),)), second)

    asyncio.run(scenario())


def test_a_store_out_of_reach_is_not_certain_and_then_lost(shared: tuple[Opener, Server]) -> None:
    opener, server = shared

    async def scenario() -> None:
        async with opened(opener) as store:
            lead = await store.campaign("one:1")
            assert lead.certain
            server.pause()
            try:
                with pytest.raises((StoreError, FencedError)):
                    await store.commit(Txn((Put("a", b"1"),)), lead)
                await asyncio.wait_for(lead.lost.wait(), 30)
                assert not lead.certain
                with pytest.raises(FencedError):
                    await store.commit(Txn((Put("a", b"1"),)), lead)
            finally:
                server.resume()

    asyncio.run(scenario())


def test_an_sqlite_file_has_one_instance(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "state.db"
        store = await sqlite.open_store(path)
        with pytest.raises(StoreError, match="in use by another instance"):
            await sqlite.open_store(path)
        old = await store.campaign("")
        await store.commit(Txn((Put("a", b"1"),)), old)
        await store.close()
        again = await sqlite.open_store(path)
        new = await again.campaign("")
        assert new.token == old.token + 1
        with pytest.raises(FencedError):
            await again.commit(Txn((Put("a", b"2"),)), old)
        await again.close()

    asyncio.run(scenario())


def test_a_file_that_is_no_database_is_said(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"not a database, whatever its name says" * 100)
    with pytest.raises(StoreError, match=r"state\.db: file is not a database"):
        asyncio.run(sqlite.open_store(path))
