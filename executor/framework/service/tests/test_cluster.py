"""What a cluster does to a framework: failing masters, agents and tasks, drains, maintenance, a store that
stalls.
"""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from mesos.v1 import mesos_pb2
from mesos.v1.scheduler import scheduler_pb2

from executor.framework.fake_master.agent import Step
from executor.framework.fake_master.server import Fault
from executor.framework.service import wishes
from executor.framework.service.instance import Instance, State, TaskState, after_update
from executor.framework.service.rollout import Status
from executor.framework.service.tests.setup import Bench, agent, app, bench, until
from executor.framework.store.interface import StoreError

Call = scheduler_pb2.Call
Event = scheduler_pb2.Event
TaskStatus = mesos_pb2.TaskStatus


async def deployed(here: Bench, *apps: object) -> None:
    """Deploy and wait until it is done."""
    for item in apps:
        await here.framework.wish(wishes.deploy(item))  # type: ignore[arg-type]
    books = here.framework.books
    await until(lambda: all(state.deployment.status is Status.DONE for state in books.apps.values()))


def launched(here: Bench) -> list[str]:
    return [
        task.task_id.value
        for call in here.server.calls(Call.ACCEPT)
        for operation in call.accept.operations
        for task in operation.launch_group.task_group.tasks
    ]


def test_offers_of_one_agent_are_combined_and_of_two_are_not(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent(1, cpus=1.0), agent(2, cpus=1.0)) as here:
            await deployed(here, app(instances=4, resources={"cpu": 0.3}))
            for call in here.server.calls(Call.ACCEPT):
                agents = {
                    task.agent_id.value
                    for operation in call.accept.operations
                    for task in operation.launch_group.task_group.tasks
                }
                assert len(agents) == 1
            assert len(here.tasks()) == 4

    asyncio.run(scenario())


def test_a_rescinded_offer_is_no_failure_of_the_app(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent()) as here:
            here.server.faults.append(Fault(Call.ACCEPT, delay=0.3))
            await here.framework.wish(wishes.deploy(app()))
            await until(lambda: here.server.calls(Call.ACCEPT))
            for offer_id in list(here.master.books.offers):
                here.master.rescind(offer_id)
            await until(here.running)
            assert here.framework.books.apps["web"].failures_in_row == 0
            assert len(here.tasks()) == 1

    asyncio.run(scenario())


def test_what_the_master_refuses_is_not_tried_for_ever(tmp_path: Path) -> None:
    def refused(_task: mesos_pb2.TaskInfo) -> Sequence[Step]:
        return (Step(0.0, mesos_pb2.TASK_ERROR, "no such user", TaskStatus.REASON_TASK_INVALID),)

    async def scenario() -> None:
        async with bench(tmp_path, agent(script=refused)) as here:
            await here.framework.wish(wishes.deploy(app(restart={"delay": "10ms"})))
            state = here.framework.books.apps["web"]
            await until(lambda: state.deployment.status is Status.FAILED)
            await asyncio.sleep(0.5)
            assert len(launched(here)) == 1
            assert "no such user" in state.deployment.message

    asyncio.run(scenario())


def test_a_launch_that_is_never_heard_of_is_asked_for_and_replaced(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent(script=lambda _task: ())) as here:
            await here.framework.wish(wishes.deploy(app(launch_timeout="300ms")))
            await until(lambda: launched(here))
            first = launched(here)[0]
            await until(lambda: here.server.calls(Call.KILL))
            asked = {
                item.task_id.value
                for call in here.server.calls(Call.RECONCILE)
                for item in call.reconcile.tasks
            }
            assert first in asked
            await until(lambda: len(set(launched(here))) > 1)

    asyncio.run(scenario())


def test_an_update_three_times_is_one_change_and_three_acknowledgements(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent()) as here:
            here.master.update_hook = lambda event: [event] * 3
            await deployed(here, app())
            (instance,) = here.running()
            await asyncio.sleep(0.3)
            uuids = [call.acknowledge.uuid for call in here.server.calls(Call.ACKNOWLEDGE)]
            assert len(uuids) >= 6 and len(set(uuids)) == 2
            kinds = [
                e.kind for e in here.framework.books.journal._kept if e.body.get("instance") == instance.id
            ]
            assert kinds.count("instance.running") == 1

    asyncio.run(scenario())


def test_updates_that_are_lost_come_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent()) as here:
            lost: list[Event] = []

            def lose(event: Event) -> list[Event]:
                if len(lost) < 3:
                    lost.append(event)
                    return []
                return [event]

            here.master.update_hook = lose
            await deployed(here, app())
            assert len(here.tasks()) == 1 and len(lost) >= 2

    asyncio.run(scenario())


def test_nothing_is_acknowledged_while_the_store_is_down(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent(), give_up_store=30.0) as here:
            await deployed(here, app())
            await until(lambda: len(here.server.calls(Call.ACKNOWLEDGE)) == 2)
            down = True
            commit = here.store.commit

            async def failing(txn: object, fence: object) -> None:
                if down:
                    raise StoreError("no answer")
                await commit(txn, fence)  # type: ignore[arg-type]

            here.store.commit = failing  # type: ignore[method-assign]
            (instance,) = here.running()
            before = 2
            entry = here.master.books.agents["A1"].agent
            task = entry.tasks[instance.task_ids[0]]
            try:
                entry.become(task, Step(0.0, mesos_pb2.TASK_FAILED, "exit 1"), here.server.now())
                await asyncio.sleep(0.8)
                assert len(here.server.calls(Call.ACKNOWLEDGE)) == before
            finally:
                down = False
            await until(lambda: len(here.server.calls(Call.ACKNOWLEDGE)) > before)
            await until(lambda: here.running() and here.running()[0].id != instance.id)

    asyncio.run(scenario())


def test_an_instance_whose_health_fails_is_not_ready_and_is_replaced_when_it_dies(tmp_path: Path) -> None:
    def sickens(_task: mesos_pb2.TaskInfo) -> Sequence[Step]:
        return (
            Step(0.0, mesos_pb2.TASK_RUNNING, healthy=True),
            Step(0.3, mesos_pb2.TASK_RUNNING, "connection refused", healthy=False),
            Step(0.3, mesos_pb2.TASK_KILLED, "killed after 3 failed health checks"),
        )

    async def scenario() -> None:
        async with bench(tmp_path, agent(script=sickens)) as here:
            check = {"type": "tcp", "tcp": {"port": 80}}
            await here.framework.wish(wishes.deploy(app(healthcheck=check, restart={"delay": "50ms"})))
            books = here.framework.books
            await until(lambda: here.running() and books.is_ready(here.running()[0]))
            first = here.running()[0].id
            await until(lambda: here.running() and not books.is_ready(here.running()[0]))
            await until(lambda: here.running() and here.running()[0].id != first)
            assert "failed health checks" in books.apps["web"].history[0].message

    asyncio.run(scenario())


def test_a_kill_that_is_not_heard_is_said_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent()) as here:
            await deployed(here, app())
            deaf = here.master.books.agents["A1"].agent
            deaf.ignores_kills = True
            await here.framework.wish(wishes.delete("web"))
            await until(lambda: len(here.server.calls(Call.KILL)) >= 3)
            deaf.ignores_kills = False
            await until(lambda: "web" not in here.framework.books.apps and not here.tasks())

    asyncio.run(scenario())


def test_a_kill_of_an_unreachable_task_is_said_when_it_returns(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent(1)) as here:
            await deployed(here, app(replace_after="never"))
            here.master.lose("A1", here.server.now())
            await until(lambda: here.living()[0].state is State.UNREACHABLE)
            await here.framework.wish(wishes.delete("web"))
            await asyncio.sleep(0.5)
            here.add(here.master.books.agents["A1"].agent)
            await until(lambda: not here.tasks() and "web" not in here.framework.books.apps)

    asyncio.run(scenario())


def test_a_rolling_update_never_goes_below_its_floor(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent(1), agent(2)) as here:
            rolling = {"floor": 0.8, "ceiling": 0.2}
            await deployed(here, app(instances=5, update=rolling))
            await here.framework.wish(wishes.deploy(app(instances=5, cmd="sleep 2000", update=rolling)))
            lowest, new = 5, app(cmd="sleep 2000").version
            for _ in range(4000):
                lowest = min(lowest, len(here.running()))
                if len(here.running(version=new)) == 5 and len(here.tasks()) == 5:
                    break
                await asyncio.sleep(0.005)
            assert len(here.running(version=new)) == 5
            assert lowest >= 4

    asyncio.run(scenario())


def test_a_version_that_does_not_come_up_is_rolled_back_and_what_runs_is_kept(tmp_path: Path) -> None:
    def by_command(task: mesos_pb2.TaskInfo) -> Sequence[Step]:
        if "bad" in task.command.value:
            return (Step(0.0, mesos_pb2.TASK_STARTING), Step(0.0, mesos_pb2.TASK_FAILED, "exit 1"))
        return (Step(0.0, mesos_pb2.TASK_STARTING), Step(0.0, mesos_pb2.TASK_RUNNING))

    async def scenario() -> None:
        async with bench(tmp_path, agent(script=by_command)) as here:
            await deployed(here, app(instances=2))
            before = here.tasks()
            careful = {"failures": 2, "on_failure": "rollback"}
            bad = app(instances=2, cmd="bad", update=careful, restart={"delay": "10ms", "factor": 1})
            await here.framework.wish(wishes.deploy(bad))
            state = here.framework.books.apps["web"]
            await until(
                lambda: "rolled back" in state.deployment.message or state.deployment.status is Status.DONE
            )
            await until(lambda: state.deployment.status is Status.DONE)
            assert set(before) <= set(here.tasks())
            assert len(here.running(version=app().version)) == 2

    asyncio.run(scenario())


@pytest.mark.parametrize("collision", ["skip", "replace", "queue"])
def test_a_schedule_runs_when_it_is_due(tmp_path: Path, collision: str) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent()) as here:
            found = app(schedule={"cron": "0 0 1 1 *", "collision": collision})
            await here.framework.wish(wishes.deploy(found))
            state = here.framework.books.apps["web"]
            await until(lambda: state.next_run is not None)
            assert not launched(here)
            state.next_run = 1.0
            await until(lambda: len(here.running()) == 1)
            first = here.running()[0]
            state.next_run = 1.0
            await asyncio.sleep(0.5)
            if collision == "replace":
                await until(lambda: here.running() and here.running()[0].id != first.id)
            else:
                assert here.running() == [first]
                assert (state.next_run == 1.0) == (collision == "queue")

    asyncio.run(scenario())


def test_a_stopped_framework_leaves_its_tasks_and_its_id(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent()) as here:
            await deployed(here, app())
            here.framework.stop()
            await until(lambda: next(iter(here.master.books.frameworks.values())).stream is None)
            assert not here.server.calls(Call.TEARDOWN)
            assert len(here.tasks()) == 1

    asyncio.run(scenario())


def test_work_that_came_while_suppressed_and_disconnected_is_placed(tmp_path: Path) -> None:
    """The subscription says again that roles are suppressed: the master has to be told otherwise."""

    async def scenario() -> None:
        async with bench(tmp_path, agent(1)) as here:
            await until(lambda: here.server.calls(Call.SUPPRESS))
            here.server.master.leader = None  # nobody leads for a while
            here.server.break_streams()
            await until(lambda: not here.framework.books.connected)
            await here.framework.wish(wishes.deploy(app()))
            here.server.master.leader = here.server.address
            await until(lambda: len(here.running()) == 1)
            assert here.server.calls(Call.SUBSCRIBE)[-1].subscribe.suppressed_roles == ["web"]

    asyncio.run(scenario())


def test_many_apps_and_one_offer_are_few_accepts(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent(1, cpus=32.0)) as here:
            await asyncio.gather(
                *(here.framework.wish(wishes.deploy(app(f"app{number}"))) for number in range(10))
            )
            await until(lambda: len(here.tasks()) == 10)
            accepts = here.server.calls(Call.ACCEPT)
            assert len(accepts) <= 3
            assert all(call.accept.filters.refuse_seconds < 5 for call in accepts)

    asyncio.run(scenario())


def test_five_hundred_at_once_lose_and_double_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, *(agent(number) for number in range(1, 101))) as here:
            await here.framework.wish(wishes.deploy(app(instances=500)))
            await until(lambda: len(here.running()) == 500, 120.0)
            ids = launched(here)
            assert len(set(ids)) == len(ids) and len(here.tasks()) == 500
            assert all(len(call.accept.operations) <= 500 for call in here.server.calls(Call.ACCEPT))

    asyncio.run(scenario())


def test_a_first_end_stays_and_what_was_lost_may_return() -> None:
    def told(state: mesos_pb2.TaskState) -> TaskStatus:
        return TaskStatus(state=state)

    one = Instance("a.1", "a", "v", "A1", "host1", "E", (TaskState("task", State.RUNNING),))
    finished = after_update(one, "task", told(mesos_pb2.TASK_FINISHED), 1.0)
    assert after_update(finished, "task", told(mesos_pb2.TASK_FAILED), 2.0) == finished
    assert after_update(finished, "task", told(mesos_pb2.TASK_RUNNING), 2.0) == finished
    lost = after_update(one, "task", told(mesos_pb2.TASK_LOST), 1.0)
    assert after_update(lost, "task", told(mesos_pb2.TASK_RUNNING), 2.0).state is State.RUNNING


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_a_clock_that_jumps_moves_nothing(
    tmp_path: Path, jump: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent(1), agent(2)) as here:
            await deployed(here, app(instances=3))
            before = {item.id for item in here.running()}
            wall = time.time
            with monkeypatch.context() as patched:
                patched.setattr(time, "time", lambda: wall() + jump)
                await asyncio.sleep(0.5)
                assert {item.id for item in here.running()} == before
                assert here.framework.books.connected
                await here.framework.wish(wishes.kill(min(before)))
                await until(lambda: len(here.running()) == 3 and {it.id for it in here.running()} != before)

    asyncio.run(scenario())


def test_a_task_that_is_on_no_list_is_asked_for(tmp_path: Path) -> None:
    """Its end was said once, by the master, and not heard: only the whole list shows that it is gone."""

    async def scenario() -> None:
        async with bench(tmp_path, agent(1)) as here:
            await deployed(here, app())
            before = here.living()[0].id
            here.master.books.agents["A1"].agent.reboot()
            await until(lambda: here.running() and here.running()[0].id != before, 30.0)
            assert len(here.tasks()) == 1

    asyncio.run(scenario())
