"""The store in ZooKeeper, through kazoo.

A candidate is an ephemeral, sequential node below `PREFIX/leader`; the lowest number leads, everybody else
watches the one before. The fence is that node: every transaction checks it, and it ends with the session.
SUSPENDED (no connection) means to stop acting, LOST (the session is over) that somebody else may lead.

A value is a node `PREFIX/data/BUCKET/NAME`, where NAME is the key quoted and BUCKET one of 256: a list of ten
thousand names would be more than ZooKeeper sends in one answer. A revision is the node's version and one: 0
for no node. kazoo calls back on threads of its own, where nothing may block; everything here is handed to the
event loop.
"""

import asyncio
import logging
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

from kazoo.client import KazooClient, KazooState
from kazoo.exceptions import (
    BadVersionError,
    ConnectionClosedError,
    KazooException,
    NodeExistsError,
    NoNodeError,
    RolledBackError,
    RuntimeInconsistency,
)
from kazoo.handlers.threading import KazooTimeoutError

from executor.framework.store.interface import (
    ConflictError,
    Entry,
    FencedError,
    Leadership,
    Put,
    StoreError,
    Txn,
)

log = logging.getLogger(__name__)

_BUCKETS = 256
_ANSWER_TIMEOUT = 10.0
_AT_ONCE = 200


@dataclass(slots=True)
class _Node:
    """Leadership by an ephemeral node."""

    store: "ZookeeperStore"
    path: str
    token: int
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    suspended: bool = False

    @property
    def certain(self) -> bool:
        return not self.suspended and not self.lost.is_set()

    async def resign(self) -> None:
        self.lost.set()
        with suppress(StoreError, NoNodeError):  # it ends with the session
            await self.store.ask(lambda client: client.delete_async(self.path))


class ZookeeperStore:
    """A `Store`. Open it with `open_store`."""

    def __init__(self, client: KazooClient, prefix: str, session: float) -> None:
        self._client = client
        self._session = session
        self._overdue: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._leader: _Node | None = None
        self.prefix = prefix.rstrip("/")
        self._made: set[str] = set()
        client.add_listener(self._listen)

    def _listen(self, state: str) -> None:
        """On a thread of kazoo."""
        self._loop.call_soon_threadsafe(self._state, state)

    def _state(self, state: str) -> None:
        if self._leader is None:
            return
        self._leader.suspended = state != KazooState.CONNECTED
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None
        if state == KazooState.LOST:
            self._lose("its ZooKeeper session is over")
        elif state == KazooState.SUSPENDED:
            # Only a server could say that the session is over, and none is in reach: our own clock does.
            why = f"ZooKeeper was out of reach for {self._session:g} s"
            self._overdue = self._loop.call_later(self._session, self._lose, why)

    def _lose(self, why: str) -> None:
        if self._leader is not None and not self._leader.lost.is_set():
            log.error("this instance leads no more: %s", why)
            self._leader.lost.set()

    async def ask(self, start: Callable[[KazooClient], Any]) -> Any:
        """One asynchronous request of kazoo, awaited. Raises StoreError, NoNodeError, NodeExistsError,
        BadVersionError.
        """
        future: asyncio.Future[Any] = self._loop.create_future()

        def done(result: Any) -> None:
            self._loop.call_soon_threadsafe(_settle, future, result)

        try:
            start(self._client).rawlink(done)
            async with asyncio.timeout(_ANSWER_TIMEOUT):
                return await future
        except (NoNodeError, NodeExistsError, BadVersionError):
            raise
        except (KazooException, KazooTimeoutError, TimeoutError, ConnectionClosedError, OSError) as error:
            raise StoreError(f"ZooKeeper does not answer: {error or type(error).__name__}") from error

    async def get(self, key: str) -> Entry | None:
        try:
            value, stat = await self.ask(lambda client: client.get_async(self._path(key)))
        except NoNodeError:
            return None
        return Entry(key, value, stat.version + 1)

    async def entries(self, prefix: str) -> Sequence[Entry]:
        found: list[Entry] = []
        try:
            buckets = await self.ask(lambda client: client.get_children_async(f"{self.prefix}/data"))
        except NoNodeError:
            return found
        for bucket in buckets:
            names = await self._children(f"{self.prefix}/data/{bucket}")
            keys = [key for key in map(unquote, names) if key.startswith(prefix)]
            for start in range(0, len(keys), _AT_ONCE):
                read = await asyncio.gather(*map(self.get, keys[start : start + _AT_ONCE]))
                found += [entry for entry in read if entry is not None]
        return sorted(found, key=lambda entry: entry.key)

    async def commit(self, txn: Txn, fence: Leadership) -> None:
        if fence.lost.is_set():
            raise FencedError("this instance leads no more")
        assert isinstance(fence, _Node)
        there = dict(
            zip(
                [write.key for write in txn.writes],
                await asyncio.gather(*(self.get(write.key) for write in txn.writes)),
                strict=True,
            )
        )
        for write in txn.writes:
            await self._make_bucket(write.key)
        request = self._client.transaction()
        request.check(fence.path, 0)
        for expect in txn.expects:
            if expect.revision:
                request.check(self._path(expect.key), expect.revision - 1)
            elif not any(write.key == expect.key for write in txn.writes):
                found = await self.get(expect.key)
                if found is not None:
                    raise ConflictError(f"{expect.key} is there already")
        absent = {expect.key for expect in txn.expects if not expect.revision}
        for write in txn.writes:
            known = there[write.key]
            if write.key in absent and known is not None:
                raise ConflictError(f"{write.key} is there already")
            if isinstance(write, Put) and known is None:
                request.create(self._path(write.key), write.value)
            elif isinstance(write, Put):
                request.set_data(self._path(write.key), write.value)
            elif known is not None:
                request.delete(self._path(write.key))
        self._judge(await self.ask(lambda _client: request.commit_async()), fence)

    def _judge(self, results: Sequence[Any], fence: _Node) -> None:
        """kazoo hands a transaction's failures back as its results."""
        failures = [
            (place, item)
            for place, item in enumerate(results)
            if isinstance(item, Exception) and not isinstance(item, (RolledBackError, RuntimeInconsistency))
        ]
        if not failures:
            return
        place, why = failures[0]
        if place == 0:
            fence.lost.set()
            raise FencedError("another instance leads: our node is gone")
        if isinstance(why, (BadVersionError, NodeExistsError, NoNodeError)):
            raise ConflictError(f"part {place} of the transaction was written by somebody else")
        raise StoreError(f"ZooKeeper refused a transaction: {why or type(why).__name__}")

    async def campaign(self, advertised: str) -> Leadership:
        folder = f"{self.prefix}/leader"
        await self._ensure(folder)
        path: str = await self.ask(
            lambda client: client.create_async(
                f"{folder}/candidate-", advertised.encode(), ephemeral=True, sequence=True
            )
        )
        mine = _Node(self, path, int(path.rpartition("-")[2]))
        self._leader = mine
        while not mine.lost.is_set():
            names = await self.ask(lambda client: client.get_children_async(folder))
            ahead = [name for name in names if _number(name) < mine.token]
            if not ahead:
                _, stat = await self.ask(lambda client: client.get_async(path))
                mine.token = stat.czxid
                return mine
            before = max(ahead, key=_number)
            if await self._is_ours(f"{folder}/{before}"):
                continue
            gone = asyncio.Event()

            def changed(_event: Any, gone: asyncio.Event = gone) -> None:
                self._loop.call_soon_threadsafe(gone.set)

            if await self._exists(f"{folder}/{before}", changed):
                waiting = {asyncio.ensure_future(gone.wait()), asyncio.ensure_future(mine.lost.wait())}
                try:
                    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for task in waiting:
                        task.cancel()
        raise StoreError("the ZooKeeper session ended while this instance waited to lead")

    async def _is_ours(self, candidate: str) -> bool:
        """Whether another candidate is of our own session: given up while ZooKeeper was out of reach, or made
        by a request whose answer never came. It goes; to wait for it would be to wait for ourselves.
        """
        stat = await self.ask(lambda client: client.exists_async(candidate))
        session = self._client.client_id
        if stat is None or session is None or stat.ephemeralOwner != session[0]:
            return False
        with suppress(NoNodeError):
            await self.ask(lambda client: client.delete_async(candidate))
        return True

    async def leader(self) -> str:
        try:
            names = await self.ask(lambda client: client.get_children_async(f"{self.prefix}/leader"))
            if not names:
                return ""
            first = min(names, key=_number)
            value, _ = await self.ask(lambda client: client.get_async(f"{self.prefix}/leader/{first}"))
        except NoNodeError:
            return ""
        text: str = value.decode("utf-8", "replace")
        return text

    async def close(self) -> None:
        await asyncio.to_thread(self._client.stop)
        await asyncio.to_thread(self._client.close)

    async def _make_bucket(self, key: str) -> None:
        folder = self._path(key).rpartition("/")[0]
        if folder not in self._made:
            await self._ensure(folder)
            self._made.add(folder)

    async def _children(self, path: str) -> list[str]:
        found: list[str] = await self.ask(lambda client: client.get_children_async(path))
        return found

    async def _exists(self, path: str, changed: Callable[[Any], None]) -> bool:
        return await self.ask(lambda client: client.exists_async(path, changed)) is not None

    async def _ensure(self, path: str) -> None:
        await self.ask(lambda client: client.ensure_path_async(path))

    def _path(self, key: str) -> str:
        bucket = zlib.crc32(key.encode()) % _BUCKETS
        return f"{self.prefix}/data/{bucket:02x}/{quote(key, safe='')}"


def _number(name: str) -> int:
    tail = name.rpartition("-")[2]
    return int(tail) if tail.isdigit() else 2**62


def _settle(future: "asyncio.Future[Any]", result: Any) -> None:
    if future.done():
        return
    if result.successful():
        future.set_result(result.value)
    else:
        future.set_exception(result.exception)


async def open_store(hosts: str, prefix: str = "/mesokit", session: float = 10.0) -> ZookeeperStore:
    """Connect to `host:port,…`. Raises StoreError."""
    client = KazooClient(hosts=hosts, timeout=session)
    try:
        await asyncio.to_thread(client.start, 15.0)
    except (KazooTimeoutError, KazooException, OSError) as error:
        await asyncio.to_thread(client.stop)
        raise StoreError(f"ZooKeeper at {hosts} does not answer: {error}") from error
    return ZookeeperStore(client, prefix, session)
