"""From a document to running tasks and back, at the outside: the fake master's log and its agents."""

import asyncio
import socket
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from mesos.v1 import mesos_pb2
from mesos.v1.scheduler import scheduler_pb2

from executor.framework.fake_master.agent import Step
from executor.framework.fake_master.master import Master
from executor.framework.fake_master.server import Fault, serve
from executor.framework.service import serve as serving
from executor.framework.service import wishes
from executor.framework.service.instance import State
from executor.framework.service.rollout import Status
from executor.framework.service.serve import Place, Stored
from executor.framework.service.spec import read_app
from executor.framework.service.tests.setup import QUICK, agent, app, bench, running, settings_for, until
from executor.framework.service.wishes import WishError

Call = scheduler_pb2.Call


def test_deploy_scale_update_delete(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent(1), agent(2)) as here:
            await here.framework.wish(wishes.deploy(app(instances=3)))
            await until(lambda: len(here.running()) == 3)
            await until(lambda: here.framework.books.apps["web"].deployment.status is Status.DONE)
            assert len(here.tasks()) == 3
            await here.framework.wish(wishes.scale("web", 1))
            await until(lambda: len(here.tasks()) == 1)
            await until(lambda: here.framework.books.apps["web"].deployment.status is Status.DONE)
            await here.framework.wish(wishes.deploy(app(instances=2, cmd="sleep 2000")))
            new = app(cmd="sleep 2000").version
            await until(lambda: len(here.running(version=new)) == 2 and len(here.tasks()) == 2)
            await here.framework.wish(wishes.delete("web"))
            await until(lambda: "web" not in here.framework.books.apps)
            assert here.tasks() == []
            assert not await here.store.entries("apps/")
            assert not await here.store.entries("versions/")
            assert not await here.store.entries("instances/")

    asyncio.run(scenario())


def test_what_an_executor_and_its_group_look_like(tmp_path: Path) -> None:
    async def scenario() -> None:
        secret = tmp_path / "secrets"
        secret.mkdir()
        (secret / "db").write_bytes(b"hidden")
        found = app(
            command={"cmd": "serve", "environment": {"A": "b"}, "secrets": {"DB": "db"}},
            ports=[{"name": "http"}, {"name": "admin", "port": 31500}],
            container={"network": [{"name": "data-net", "group": ["blue"], "labels": {"tier": "front"}}]},
            healthcheck={"type": "tcp", "tcp": {"port": 80}},
            kill={"grace": "7secs"},
        )
        async with bench(tmp_path, agent(), secrets=secret) as here:
            await here.framework.wish(wishes.deploy(found))
            await until(here.running)
            (accept,) = here.server.calls(Call.ACCEPT)
            group = accept.accept.operations[0].launch_group
            executor, task = group.executor, group.task_group.tasks[0]
            assert executor.type == mesos_pb2.ExecutorInfo.CUSTOM
            assert executor.framework_id.value == here.framework.books.framework_id
            assert executor.container.network_infos[0].name == "data-net"
            assert list(executor.container.network_infos[0].groups) == ["blue"]
            assert not task.HasField("container") and not task.HasField("executor")
            variables = {item.name: item for item in task.command.environment.variables}
            assert variables["A"].value == "b" and variables["PORT1"].value == "31500"
            assert variables["PORT_HTTP"].value == variables["PORT0"].value
            assert variables["DB"].secret.value.data == b"hidden"
            assert task.kill_policy.grace_period.nanoseconds == 7 * 10**9
            stored = [entry.value for entry in await here.store.entries("")]
            assert not any(b"hidden" in value for value in stored)

    asyncio.run(scenario())


def test_an_instance_that_fails_is_started_again_ever_more_slowly(tmp_path: Path) -> None:
    def fails(_task: mesos_pb2.TaskInfo) -> Sequence[Step]:
        return (Step(0.0, mesos_pb2.TASK_STARTING), Step(0.0, mesos_pb2.TASK_FAILED, "exit 3"))

    async def scenario() -> None:
        async with bench(tmp_path, agent(script=fails)) as here:
            quick = {"delay": "50ms", "factor": 2, "longest": "1secs"}
            await here.framework.wish(wishes.deploy(app(restart=quick)))
            state = here.framework.books.apps["web"]
            await until(lambda: state.failures_in_row >= 5)
            ids = [item.id for item in state.history]
            assert len(set(ids)) == len(ids) >= 5
            gaps = [b.wall_launched - a.wall_ended for a, b in pairwise(state.history)]
            assert gaps[3] > gaps[0]

    asyncio.run(scenario())


def test_a_job_ends_when_it_has_finished(tmp_path: Path) -> None:
    def ends(_task: mesos_pb2.TaskInfo) -> Sequence[Step]:
        return (Step(0.0, mesos_pb2.TASK_RUNNING), Step(0.05, mesos_pb2.TASK_FINISHED))

    async def scenario() -> None:
        async with bench(tmp_path, agent(script=ends)) as here:
            await here.framework.wish(wishes.deploy(app(kind="job", instances=3)))
            state = here.framework.books.apps["web"]
            await until(lambda: state.finished == 3)
            await asyncio.sleep(0.3)
            launched = sum(len(call.accept.operations) for call in here.server.calls(Call.ACCEPT))
            assert launched == 3

    asyncio.run(scenario())


def test_kill_a_framework_at_any_moment_and_start_it_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serve(Master(QUICK)) as server:
            server.master.register(agent(1), server.now())
            async with running(tmp_path, server) as here:
                await here.framework.wish(wishes.deploy(app(instances=4)))
                await until(lambda: len(here.running()) == 4)
                before = here.tasks()
                framework_id = here.framework.books.framework_id
            async with running(tmp_path, server) as here:
                assert here.framework.books.framework_id == framework_id
                await until(lambda: len(here.running()) == 4)
                await asyncio.sleep(0.5)
                assert here.tasks() == before

    asyncio.run(scenario())


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
def test_an_accept_that_was_lost_loses_and_doubles_nothing(tmp_path: Path, done: bool) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent()) as here:
            here.server.faults.append(Fault(Call.ACCEPT, reset=True, done=done))
            await here.framework.wish(wishes.deploy(app(instances=2)))
            await until(lambda: len(here.running()) == 2 and len(here.tasks()) == 2)
            await asyncio.sleep(0.5)
            assert len(here.running()) == 2 and len(here.tasks()) == 2

    asyncio.run(scenario())


def test_nothing_pending_is_silence(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent()) as here:
            await until(lambda: here.server.calls(Call.SUPPRESS))
            await here.framework.wish(wishes.deploy(app()))
            await until(here.running)
            assert len(here.server.calls(Call.REVIVE)) == 1
            await until(lambda: len(here.server.calls(Call.SUPPRESS)) == 2)
            await asyncio.sleep(0.2)
            asked = [item.call.type for item in here.server.log if item.call.type != Call.RECONCILE]
            await asyncio.sleep(0.5)
            later = [item.call.type for item in here.server.log if item.call.type != Call.RECONCILE]
            assert later == asked

    asyncio.run(scenario())


def test_why_nothing_starts_is_known(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent(cpus=1.0, rack="a")) as here:
            await here.framework.wish(wishes.deploy(app(resources={"cpu": 4})))
            await here.framework.wish(
                wishes.deploy(app("other", constraints=[{"field": "rack", "operator": "is", "value": "b"}]))
            )
            await until(lambda: here.framework.books.apps["other"].why_not.counts)
            await until(lambda: here.framework.books.apps["web"].why_not.counts)
            assert here.framework.books.apps["web"].why_not.examples == {"cpus": "host1 has 1"}
            assert here.framework.books.apps["other"].why_not.examples == {"constraint rack is b": "host1"}

    asyncio.run(scenario())


def test_unknown_tasks_are_killed_and_acknowledged(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent()) as here:
            info = mesos_pb2.TaskInfo(name="stranger")
            info.task_id.value, info.agent_id.value = "stranger", "A1"
            entry = here.master.books.agents["A1"]
            # It takes nothing: all that the agent has may be on offer just now.
            entry.agent.launch(here.framework.books.framework_id, [info], None, here.server.now())
            await until(lambda: not entry.agent.tasks)

    asyncio.run(scenario())


def test_one_deployment_at_a_time(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as here:
            await here.framework.wish(wishes.deploy(app()))
            with pytest.raises(WishError, match="is deploying"):
                await here.framework.wish(wishes.deploy(app(cmd="other")))
            await here.framework.wish(wishes.deploy(app(cmd="other"), force=True))
            with pytest.raises(WishError, match="no app"):
                await here.framework.wish(wishes.scale("nobody", 1))

    asyncio.run(scenario())


def test_an_agent_that_is_away_is_waited_for_and_then_replaced(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent(1)) as here:
            await here.framework.wish(wishes.deploy(app(replace_after="300ms")))
            await until(here.running)
            (first,) = here.running()
            here.master.lose("A1", here.server.now())
            await until(lambda: here.living()[0].state is State.UNREACHABLE)
            here.add(agent(2))
            await until(lambda: [item.hostname for item in here.running()] == ["host2"])
            here.add(here.master.books.agents["A1"].agent)
            await until(lambda: first.id not in here.framework.books.instances)
            assert len(here.tasks()) == 1

    asyncio.run(scenario())


def test_what_a_task_wants_fetched_is_fetched_for_its_executor(tmp_path: Path) -> None:
    async def scenario() -> None:
        command = {"cmd": "true", "uris": [{"uri": "http://files/a.tgz"}, {"uri": "/b", "execute": True}]}
        other = {"cmd": "true", "uris": [{"uri": "http://files/a.tgz"}]}
        tasks = [{"name": "one", "command": command}, {"name": "two", "command": other}]
        found = read_app({"version": 1, "name": "web", "tasks": tasks}, "test")
        async with bench(tmp_path, agent(1)) as here:
            await here.framework.wish(wishes.deploy(found))
            await until(lambda: len(here.running()) == 1)
            group = here.server.calls(Call.ACCEPT)[0].accept.operations[0].launch_group
            uris = [(uri.value, uri.extract, uri.executable) for uri in group.executor.command.uris]
            assert uris == [("http://files/a.tgz", True, False), ("/b", True, True)]
            assert not any(task.command.uris for task in group.task_group.tasks)

    asyncio.run(scenario())


def test_a_master_is_told_where_the_framework_answers(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent(1), webui_url="http://here:1/") as here:
            info = here.server.calls(Call.SUBSCRIBE)[0].subscribe.framework_info
            assert (info.hostname, info.webui_url) == (socket.gethostname(), "http://here:1/")

    asyncio.run(scenario())


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_an_address_that_means_any_is_none_to_be_found_at(tmp_path: Path, host: str) -> None:
    with pytest.raises(ValueError, match=r"nobody finds this instance at that address: say with --advertise"):
        asyncio.run(serving.run(settings_for(""), Place(host), Stored(sqlite=tmp_path / "state.db")))
