"""Agents that are drained, maintained, gone, silent or back."""

import asyncio
import time
from pathlib import Path

from mesos.v1 import mesos_pb2
from mesos.v1.scheduler import scheduler_pb2

from executor.framework.fake_master.master import Master
from executor.framework.fake_master.server import FakeMasterServer, Fault, serve
from executor.framework.fake_master.state import AgentEntry
from executor.framework.sdk.client import Settings as ClientSettings
from executor.framework.service import wishes
from executor.framework.service.tests.setup import QUICK, agent, app, bench, running, until
from executor.framework.service.tests.test_cluster import deployed

Call = scheduler_pb2.Call
Event = scheduler_pb2.Event
TaskStatus = mesos_pb2.TaskStatus


def test_a_drained_agent_costs_no_failure(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent(1), agent(2)) as here:
            await deployed(here, app(instances=2, constraints=[{"field": "@hostname", "operator": "unique"}]))
            here.add(agent(3))
            here.master.drain("A1", here.server.now())
            await until(lambda: sorted(item.hostname for item in here.running()) == ["host2", "host3"])
            assert here.framework.books.apps["web"].failures_in_row == 0

    asyncio.run(scenario())


def test_maintenance_moves_instances_before_it_begins_and_never_below_the_floor(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent(1)) as here:
            await deployed(here, app(instances=2, update={"floor": 1, "ceiling": 1}))
            here.add(agent(2))
            here.master.maintain("A1", 4e9)
            lowest = 2
            for _ in range(2000):
                lowest = min(lowest, len(here.tasks()))
                if [item.hostname for item in here.running()] == ["host2", "host2"] and len(
                    here.tasks()
                ) == 2:
                    break
                await asyncio.sleep(0.005)
            assert [item.hostname for item in here.running()] == ["host2", "host2"]
            assert lowest == 2
            assert here.server.calls(Call.ACCEPT_INVERSE_OFFERS)

    asyncio.run(scenario())


def test_a_gone_agent_is_replaced_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent(1)) as here:
            await deployed(here, app())
            here.add(agent(2))
            here.master.mark_gone("A1", here.server.now())
            await until(lambda: [item.hostname for item in here.running()] == ["host2"])

    asyncio.run(scenario())


def test_a_new_master_that_is_silent_about_agents_makes_nobody_start_anything(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serve(Master(QUICK)) as old:
            agents = [agent(1), agent(2)]
            for item in agents:
                old.master.register(item, old.now())
            masters = ClientSettings((old.address,), longest_delay=0.2)
            async with running(tmp_path, old, client=masters) as here:
                await deployed(here, app(instances=3))
                before = here.tasks()
                async with serve(Master(QUICK, recovered=agents)) as new:
                    old.master.leader = new.address
                    old.master.books.agents.clear()
                    old.break_streams()
                    await old.close_connections()
                    await until(lambda: new.calls(Call.SUBSCRIBE) and here.framework.books.connected)
                    await asyncio.sleep(1.0)
                    assert here.framework.books.reconciler.remaining == 3
                    assert not new.calls(Call.ACCEPT)
                    for item in agents:
                        new.master.register(item, new.now())
                    await until(lambda: here.framework.books.reconciler.remaining == 0)
                    assert sorted(task for item in agents for task in item.tasks) == before
                    assert not new.calls(Call.ACCEPT)

    asyncio.run(scenario())


def test_an_executor_that_is_gone_is_asked_about_not_concluded_from(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent()) as here:
            await deployed(here, app())
            (instance,) = here.running()
            asked = len(here.server.calls(Call.RECONCILE))
            event = Event(type=Event.FAILURE)
            event.failure.agent_id.value = "A1"
            event.failure.executor_id.value = instance.executor_id
            here.master.send(here.framework.books.framework_id, event)
            await until(lambda: len(here.server.calls(Call.RECONCILE)) > asked)
            await asyncio.sleep(0.2)
            assert here.running() == [instance]

    asyncio.run(scenario())


def test_a_machine_whose_maintenance_is_over_is_used_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent(1)) as here:
            await deployed(here, app())
            here.master.maintain("A1", 4e9)
            await until(lambda: "A1" in here.framework.books.leaving_agents)
            here.master.books.agents["A1"].unavailability = None
            await here.framework.wish(wishes.kill(here.living()[0].id))
            await here.framework.wish(wishes.scale("web", 2))
            await until(lambda: len(here.running()) == 2)
            assert not here.framework.books.leaving_agents

    asyncio.run(scenario())


def test_a_maintenance_that_is_over_but_still_in_the_schedule_moves_nobody(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent(1), refuse_busy=0.05) as here:
            await deployed(here, app())
            (first,) = here.running()
            here.master.maintain("A1", time.time() - 7200, duration=3600)
            await until(lambda: len(here.server.calls(Call.ACCEPT_INVERSE_OFFERS)) >= 2)
            await here.framework.wish(wishes.scale("web", 2))
            await until(lambda: len(here.running()) == 2)
            assert first in here.running() and not here.framework.books.leaving_agents

    asyncio.run(scenario())


def test_a_machine_that_is_asked_back_again_and_again_is_remembered_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent(1), refuse_busy=0.05) as here:
            await deployed(here, app())
            here.master.maintain("A1", 4e9)  # and nowhere to go
            await until(lambda: len(here.server.calls(Call.ACCEPT_INVERSE_OFFERS)) >= 5)
            assert list(here.framework.books.inverse.values()) == ["A1"]

    asyncio.run(scenario())


def assert_none_launched_twice(*masters: FakeMasterServer) -> None:
    launched = [
        task.task_id.value
        for master in masters
        for call in master.calls(Call.ACCEPT)
        for operation in call.accept.operations
        for task in operation.launch_group.task_group.tasks
    ]
    assert len(set(launched)) == len(launched)


def test_a_master_that_fails_in_the_middle_of_a_deployment_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """One ACCEPT was carried out and not answered, one never came; then a new master that knows no task."""

    async def scenario() -> None:
        async with serve(Master(QUICK)) as old, serve(Master(QUICK)) as new:
            agents = [agent(1), agent(2)]
            for item in agents:
                old.master.register(item, old.now())
            masters = ClientSettings((old.address,), longest_delay=0.2)
            async with running(tmp_path, old, client=masters) as here:
                old.faults.append(Fault(Call.ACCEPT, reset=True, done=True))
                await here.framework.wish(wishes.deploy(app(instances=60, resources={"cpu": 0.1, "mem": 16})))
                await until(lambda: old.calls(Call.ACCEPT))
                for item in agents:
                    new.master.books.agents[item.id] = AgentEntry(item, connected=False, recovered=True)
                old.master.leader = new.address
                old.master.books.agents.clear()
                old.break_streams()
                await until(lambda: new.calls(Call.SUBSCRIBE) and here.framework.books.connected)
                await asyncio.sleep(0.5)
                assert not new.calls(Call.ACCEPT)  # what was launched may run: nobody has said otherwise
                for item in agents:
                    new.master.register(item, new.now())
                await until(lambda: len(here.running()) == 60)
                living = [name for item in agents for name, task in item.tasks.items() if not task.ended]
                assert sorted(living) == sorted(name for item in here.living() for name in item.task_ids)
            assert_none_launched_twice(old, new)

    asyncio.run(scenario())


def test_a_leader_that_changes_again_and_again_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Back and forth between two masters, at times before anybody has subscribed, amid deployments."""

    async def scenario() -> None:
        async with serve(Master(QUICK)) as one, serve(Master(QUICK)) as other:
            agents = [agent(1), agent(2)]
            for item in agents:
                one.master.register(item, one.now())
            masters = ClientSettings((one.address, other.address), longest_delay=0.2)
            async with running(tmp_path, one, client=masters) as here:
                await here.framework.wish(wishes.deploy(app(instances=5, resources={"cpu": 0.1, "mem": 16})))
                leads, follows = other, one
                for turn in range(9):
                    for master in (leads.master, follows.master):
                        master.leader = leads.address
                    follows.master.books.agents.clear()
                    for item in agents:
                        leads.master.register(item, leads.now())
                    follows.break_streams()
                    if turn == 4:
                        await here.framework.wish(wishes.scale("web", 20))
                    await asyncio.sleep(0.02 if turn % 3 == 1 else 1.0)
                    leads, follows = follows, leads
                await until(lambda: len(here.running()) == 20)
                await until(lambda: here.framework.books.connected)
                living = [name for item in agents for name, task in item.tasks.items() if not task.ended]
                assert sorted(living) == sorted(name for item in here.living() for name in item.task_ids)
            assert_none_launched_twice(one, other)

    asyncio.run(scenario())
