"""What the fake master refuses is what a real one refuses, in its words."""

from collections.abc import Callable
from typing import Any

import pytest
from mesos.v1 import mesos_pb2
from mesos.v1.scheduler import scheduler_pb2

from executor.framework.fake_master.options import Options
from executor.framework.fake_master.subscription import of_change, of_framework, of_wishes
from executor.framework.fake_master.validation import Launching, of_group, of_task
from executor.framework.sdk.resources import parse

TaskInfo = mesos_pb2.TaskInfo
ExecutorInfo = mesos_pb2.ExecutorInfo
FrameworkInfo = mesos_pb2.FrameworkInfo
Group = tuple[ExecutorInfo, TaskInfo]


def _resource(holder: TaskInfo | ExecutorInfo | mesos_pb2.AgentInfo, name: str, value: float) -> None:
    found = holder.resources.add(name=name, type=mesos_pb2.Value.SCALAR)
    found.scalar.value = value
    found.allocation_info.role = "web"


def group() -> Group:
    """A group that is as it should be."""
    executor = ExecutorInfo(type=ExecutorInfo.CUSTOM)
    executor.executor_id.value, executor.framework_id.value = "E", "F"
    executor.command.value = "run"
    task = TaskInfo(name="t")
    task.task_id.value, task.agent_id.value = "T", "A"
    task.command.value = "sleep"
    for name, value in (("cpus", 0.1), ("mem", 32.0), ("disk", 10.0)):
        _resource(executor, name, value)
        _resource(task, name, value)
    return executor, task


def launching(**changes: Any) -> Launching:
    offered = mesos_pb2.AgentInfo(hostname="h")
    for name, value in (("cpus", 4.0), ("mem", 4096.0), ("disk", 4096.0)):
        _resource(offered, name, value)
    given: dict[str, Any] = {
        "framework_id": "F",
        "agent_id": "A",
        "offered": parse(offered.resources),
        "taken": lambda _id: False,
        "living": lambda _id: None,
    }
    return Launching(**{**given, **changes})


def test_what_is_right_is_taken() -> None:
    executor, task = group()
    assert of_group([task], executor, launching()) == ""
    task.executor.CopyFrom(executor)
    assert of_group([task], executor, launching()) == ""
    task.ClearField("command")
    assert of_task(task, launching()) == ""


def _ports(holder: TaskInfo | ExecutorInfo) -> object:
    ports = holder.resources.add(name="ports", type=mesos_pb2.Value.RANGES)
    ports.ranges.range.add(begin=1, end=2)
    ports.allocation_info.role = "web"
    return ports


def _volume(executor: ExecutorInfo) -> object:
    executor.container.type = mesos_pb2.ContainerInfo.MESOS
    return executor.container.volumes.add(container_path="x", mode=mesos_pb2.Volume.RW)


def _secret(command: mesos_pb2.CommandInfo, data: bytes) -> None:
    variable = command.environment.variables.add(name="S", type=mesos_pb2.Environment.Variable.SECRET)
    variable.secret.type = mesos_pb2.Secret.VALUE
    variable.secret.value.data = data


BAD: dict[str, tuple[Callable[[ExecutorInfo, TaskInfo], object], str]] = {
    "id": (lambda _e, t: setattr(t.task_id, "value", "a/b"), "contains invalid characters"),
    "agent": (lambda _e, t: setattr(t.agent_id, "value", "B"), "Task uses invalid agent B"),
    "nothing": (lambda _e, t: t.ClearField("resources"), "Task uses no resources"),
    "role": (
        lambda _e, t: setattr(t.resources[0].allocation_info, "role", "db"),
        "multiple allocation roles",
    ),
    "no role": (lambda _e, t: t.resources[0].ClearField("allocation_info"), "not allocated to a role"),
    "gpus": (lambda _e, t: _resource(t, "gpus", 0.5), "unsigned integer"),
    "health path": (
        lambda _e, t: t.health_check.MergeFrom(
            mesos_pb2.HealthCheck(type="HTTP", http=mesos_pb2.HealthCheck.HTTPCheckInfo(port=1, path="x"))
        ),
        "must start with '/'",
    ),
    "health type": (lambda _e, t: t.health_check.SetInParent(), "HealthCheck must specify 'type'"),
    "secret": (lambda _e, t: _secret(t.command, b"a\0b"), "containing null bytes"),
    "variable": (
        lambda _e, t: t.command.environment.variables.add(name="A"),
        "of type 'VALUE' must have a value set",
    ),
    "no framework": (lambda e, _t: e.ClearField("framework_id"), "'ExecutorInfo.framework_id' must be set"),
    "other framework": (lambda e, _t: setattr(e.framework_id, "value", "G"), "invalid FrameworkID"),
    "type": (lambda e, _t: e.ClearField("type"), "'ExecutorInfo.type' must be set"),
    "default": (
        lambda e, _t: setattr(e, "type", ExecutorInfo.DEFAULT),
        "'ExecutorInfo.command' must not be set for 'DEFAULT' executor",
    ),
    "command": (lambda e, _t: e.ClearField("command"), "'ExecutorInfo.command' must be set for 'CUSTOM'"),
    "disk": (lambda e, _t: e.resources.pop(), "uses no disk"),
    "mem": (lambda e, _t: setattr(e.resources[1].scalar, "value", 31.0), "less memory than the minimum"),
    "too much": (lambda _e, t: setattr(t.resources[0].scalar, "value", 3.95), "more than available"),
    "overlap": (lambda e, t: [_ports(holder) for holder in (e, t)], "There are overlapping resources"),
    "volume": (lambda e, _t: _volume(e), "Only one of them should be set"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_refused_in_a_masters_words(name: str) -> None:
    executor, task = group()
    spoil, words = BAD[name]
    spoil(executor, task)
    assert words in of_group([task], executor, launching())


def test_an_id_that_lives_and_an_executor_that_is_another() -> None:
    executor, task = group()
    assert "duplicate ID" in of_group([task], executor, launching(taken=lambda _id: True))
    other = group()[0]
    other.command.value = "other"
    found = of_group([task], executor, launching(living=lambda _id: other))
    assert found.startswith("ExecutorInfo is not compatible with existing ExecutorInfo")
    other.CopyFrom(executor)
    other.labels.labels.add(key="a", value="b")
    assert of_group([task], executor, launching(living=lambda _id: other)) == ""


def framework(**keys: Any) -> FrameworkInfo:
    info = FrameworkInfo(user="u", name="n", roles=["web"], **keys)
    info.capabilities.add(type=FrameworkInfo.Capability.MULTI_ROLE)
    return info


def test_what_a_framework_says_of_itself() -> None:
    assert of_framework(framework(), Options(), ()) == ""
    twice = framework()
    twice.roles.append("web")
    assert "duplicate items" in of_framework(twice, Options(), ())
    bad = framework()
    bad.roles.append("-x")
    assert "starts with a dash" in of_framework(bad, Options(), ())
    assert "must not be set" in of_framework(framework(role="x"), Options(), ())
    assert "failover_timeout" in of_framework(framework(failover_timeout=1e20), Options(), ())
    root = framework()
    root.user = "root"
    assert "'root' is not allowed" in of_framework(root, Options(root_submissions=False), ())
    removed = framework(id=mesos_pb2.FrameworkID(value="F"))
    assert of_framework(removed, Options(), {"F"}) == "Framework has been removed"
    assert "FrameworkInfo.user" in of_change(framework(), root)
    assert "principal" in of_change(framework(), framework(principal="p"))


def test_offer_constraints_that_no_master_takes() -> None:
    constraints = scheduler_pb2.OfferConstraints()
    assert of_wishes(framework(), ["web"], constraints) == ""
    assert "Suppressed roles" in of_wishes(framework(), ["db"], constraints)
    groups = constraints.role_constraints["web"].groups
    assert "empty 'RoleConstraints::groups'" in of_wishes(framework(), [], constraints)
    item = groups.add().attribute_constraints.add()
    assert "must be set" in of_wishes(framework(), [], constraints)
    item.selector.attribute_name = "rack"
    assert "Unknown predicate" in of_wishes(framework(), [], constraints)
    item.predicate.text_matches.regex = "("
    assert "Failed to construct regex" in of_wishes(framework(), [], constraints)
    item.predicate.text_matches.regex = "." * 20
    assert "too complex" in of_wishes(framework(), [], constraints)
    item.predicate.text_matches.regex = "r[0-9]+"
    assert of_wishes(framework(), [], constraints) == ""
    constraints.role_constraints["db"].CopyFrom(constraints.role_constraints["web"])
    assert "not contained in the set of roles" in of_wishes(framework(), [], constraints)
