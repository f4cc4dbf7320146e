"""Persistent volumes and reservations, on the fake master's agents (scenarios 77, 78, 80)."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from mesos.v1 import offers_pb2
from mesos.v1.scheduler import scheduler_pb2

from executor.framework.fake_master.master import Master
from executor.framework.fake_master.options import Options
from executor.framework.fake_master.server import serve
from executor.framework.service import wishes
from executor.framework.service.claim import ClaimState
from executor.framework.service.rollout import Status
from executor.framework.service.spec import App, read_app
from executor.framework.service.tests.setup import QUICK, Bench, agent, app, bench, running, until
from executor.framework.service.wishes import WishError
from executor.local_agent.validation import DescriptionError

Call = scheduler_pb2.Call
Operation = offers_pb2.Offer.Operation
DATA = [{"name": "data", "size": 512, "path": "data"}]


def db(**keys: Any) -> App:
    return app("db", **{"volumes": DATA, "restart": {"delay": "100ms"}, **keys})


def said(here: Bench) -> list[str]:
    """The operations of every ACCEPT, in order."""
    return [
        Operation.Type.Name(operation.type)
        for call in here.server.calls(Call.ACCEPT)
        for operation in call.accept.operations
    ]


def on_disk(here: Bench) -> list[tuple[str, str]]:
    """What agents hold reserved: agent and persistence id, "" for a reservation alone."""
    return sorted(
        (name, kind.persistence)
        for name, entry in here.master.books.agents.items()
        for kind, _ in entry.agent.extra
    )


async def done(here: Bench, name: str = "db") -> None:
    apps = here.framework.books.apps
    await until(lambda: name in apps and apps[name].deployment.status is Status.DONE)


def test_a_volume_is_made_with_the_first_launch_and_used_by_every_later_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent(1), agent(2)) as here:
            await here.framework.wish(wishes.deploy(db()))
            await done(here)
            assert said(here) == ["RESERVE", "CREATE", "LAUNCH_GROUP"]
            (before,) = here.living("db")
            held = on_disk(here)
            assert [name for name, _ in held] == [before.agent_id]
            group = here.server.calls(Call.ACCEPT)[0].accept.operations[2].launch_group
            (volume,) = [item for item in group.executor.resources if item.HasField("disk")]
            assert volume.disk.volume.container_path == "data" and volume.scalar.value == 512
            assert volume.reservations[-1].role == "web" and not volume.HasField("role")
            # It dies, it is updated: the next one is where the volume is.
            await here.framework.wish(wishes.kill(before.id))
            await until(lambda: here.running("db") and here.running("db")[0].id != before.id)
            await done(here)
            await here.framework.wish(wishes.deploy(db(cmd="sleep 2000")))
            await done(here)
            assert {item.agent_id for item in here.living("db")} == {before.agent_id}
            assert said(here).count("CREATE") == 1 and on_disk(here) == held

    asyncio.run(scenario())


def test_volumes_outlive_the_app_and_are_destroyed_only_when_asked(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent(1), agent(2)) as here:
            books = here.framework.books
            await here.framework.wish(wishes.deploy(db(instances=2)))
            await done(here)
            held = on_disk(here)
            await here.framework.wish(wishes.delete("db"))
            await until(lambda: "db" not in books.apps and not here.tasks())
            assert on_disk(here) == held and len(books.claims) == 2
            await here.framework.wish(wishes.deploy(db(instances=2)))
            await done(here)
            assert on_disk(here) == held, "the new app got the old one's volumes"
            await here.framework.wish(wishes.delete("db", destroy=True))
            await until(lambda: "db" not in books.apps and not on_disk(here) and not books.claims)
            assert not await here.store.entries("claims/")
            assert {"DESTROY", "UNRESERVE"} <= set(said(here))

    asyncio.run(scenario())


@pytest.mark.parametrize("feedback", [True, False])
def test_a_volume_that_cannot_be_created_is_undone_and_tried_again(tmp_path: Path, feedback: bool) -> None:
    async def scenario() -> None:
        options = Options(
            heartbeat=0.5, allocation=0.05, retry=0.3, longest_retry=1.0, operation_feedback=feedback
        )
        async with serve(Master(options)) as server:
            server.master.register(agent(1), server.now())
            refused: list[str] = []

            def refuse_once(operation: Operation) -> str:
                if operation.type == Operation.CREATE and not refused:
                    refused.append(operation.id.value)
                    return "no"
                return ""

            server.master.operation_hook = refuse_once
            async with running(tmp_path, server) as here:
                await here.framework.wish(wishes.deploy(db()))
                await done(here)
                books = here.framework.books
                await until(lambda: len(on_disk(here)) == 1 and len(books.claims) == 1, what="leftovers")
                assert len(here.running("db")) == 1
                assert all(persistence for _, persistence in on_disk(here))

    asyncio.run(scenario())


def test_an_agent_with_the_volume_that_is_away_is_waited_for(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent(1), agent(2)) as here:
            await here.framework.wish(wishes.deploy(db()))
            await done(here)
            (before,) = here.living("db")
            away = here.master.books.agents[before.agent_id].agent
            here.master.lose(before.agent_id, here.server.now())
            await until(lambda: here.living("db")[0].state.value == "unreachable")
            await asyncio.sleep(0.3)
            assert [item.id for item in here.living("db")] == [before.id]
            away.reboot()  # the tasks are gone, the volume is not
            here.add(away)
            await until(lambda: here.running("db") and here.running("db")[0].id != before.id)
            assert here.running("db")[0].agent_id == before.agent_id
            assert said(here).count("CREATE") == 1

    asyncio.run(scenario())


def test_a_volume_that_went_with_its_agent_is_made_anew(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent(1), agent(2)) as here:
            await here.framework.wish(wishes.deploy(db()))
            await done(here)
            (before,) = here.living("db")
            here.master.mark_gone(before.agent_id, here.server.now())
            await until(lambda: here.running("db") and here.running("db")[0].agent_id != before.agent_id)
            assert said(here).count("CREATE") == 2 and len(here.framework.books.claims) == 1

    asyncio.run(scenario())


def test_with_reserve_the_place_is_kept_as_well(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent(1, cpus=1.0)) as here:
            books = here.framework.books
            await here.framework.wish(wishes.deploy(db(reserve=True, resources={"cpu": 0.5})))
            await done(here)
            await here.framework.wish(wishes.scale("db", 0))
            await until(lambda: not here.tasks())
            extra = here.master.books.agents["A1"].agent.extra
            assert extra.total("cpus") == 600 and extra.total("mem") == 64_000
            # Nobody else's instance may take it.
            await here.framework.wish(wishes.deploy(app("web", resources={"cpu": 0.5})))
            await until(lambda: books.apps["web"].why_not.counts)
            assert not here.tasks()
            await here.framework.wish(wishes.scale("db", 1))
            await until(lambda: here.running("db"))

    asyncio.run(scenario())


def test_a_framework_that_was_killed_knows_its_volumes(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serve(Master(QUICK)) as server:
            server.master.register(agent(1), server.now())
            async with running(tmp_path, server) as here:
                await here.framework.wish(wishes.deploy(db()))
                await done(here)
                held = on_disk(here)
            async with running(tmp_path, server) as here:
                await done(here)
                await here.framework.wish(wishes.kill(here.living("db")[0].id))
                before = here.living("db")[0].id
                await until(lambda: here.running("db") and here.running("db")[0].id != before)
                assert on_disk(here) == held

    asyncio.run(scenario())


def test_what_cannot_be_is_said(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent(1)) as here:
            await here.framework.wish(wishes.deploy(db()))
            await done(here)
            other = [{**DATA[0], "size": 1024}]
            with pytest.raises(WishError, match="volumes: they are other than those that the app has"):
                await here.framework.wish(wishes.deploy(db(volumes=other)))
            with pytest.raises(WishError, match="role: 'ghost': this framework has web"):
                await here.framework.wish(wishes.deploy(app("other", role="ghost")))
            (claim,) = here.framework.books.claims
            with pytest.raises(WishError, match="is in use by instance"):
                await here.framework.wish(wishes.destroy_volume(claim))
        async with bench(tmp_path / "..", agent(1), roles=("*",)) as here:
            with pytest.raises(WishError, match=r"nothing can be reserved to the role \*"):
                await here.framework.wish(wishes.deploy(db()))

    (tmp_path / "inner").mkdir()
    asyncio.run(scenario())
    for path in ("/data", "../data", "a/b", "", ".."):
        with pytest.raises(DescriptionError, match=r"volumes\[0\].path"):
            read_app(
                {
                    "version": 1,
                    "name": "db",
                    "command": {"cmd": "x"},
                    "volumes": [{"name": "data", "size": 1, "path": path}],
                },
                "test",
            )


def asked(here: Bench) -> list[tuple[str, str]]:
    """The operations of every RECONCILE_OPERATIONS: verb and agent."""
    return [
        (item.operation_id.value.split(":")[1], item.agent_id.value)
        for call in here.server.calls(Call.RECONCILE_OPERATIONS)
        for item in call.reconcile_operations.operations
    ]


def test_operations_that_nobody_told_of_are_asked_for(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent(1)) as here:
            here.master.books.agents["A1"].agent.tell_operation = lambda _id, _status: None
            await here.framework.wish(wishes.deploy(db()))
            await done(here)
            (claim,) = here.framework.books.claims.values()
            assert len(claim.operations) == 2
            here.server.break_streams()
            await until(lambda: not here.framework.books.claims[claim.id].operations)
            assert set(asked(here)) == {("reserve", "A1"), ("create", "A1")}

    asyncio.run(scenario())


def test_a_volume_whose_making_nobody_knows_of_leaves(tmp_path: Path) -> None:
    async def scenario() -> None:
        silent = agent(1, script=lambda _task: ())
        async with bench(tmp_path, silent) as here:
            silent.tell_operation = lambda _id, _status: None
            await here.framework.wish(wishes.deploy(db()))
            await until(lambda: here.living("db"))
            (claim,) = here.framework.books.claims.values()
            await until(lambda: silent.operations)
            silent.operations.clear()  # a master that refused them, and said so to nobody
            await until(
                lambda: (
                    here.framework.books.claims.get(claim.id) is None
                    or here.framework.books.claims[claim.id].state is ClaimState.LEAVING
                )
            )

    asyncio.run(scenario())


def test_operations_on_agents_that_are_away_are_waited_for(tmp_path: Path) -> None:
    async def scenario() -> None:
        silent = agent(1, script=lambda _task: ())
        async with bench(tmp_path, silent) as here:
            silent.tell_operation = lambda _id, _status: None
            await here.framework.wish(wishes.deploy(db(launch_timeout="1hrs")))
            await until(lambda: silent.operations)
            here.master.lose("A1", here.server.now())
            number = len(asked(here))
            await until(lambda: len(asked(here)) > number + 2)
            (claim,) = here.framework.books.claims.values()
            assert claim.state is ClaimState.CREATING and len(claim.operations) == 2

    asyncio.run(scenario())
