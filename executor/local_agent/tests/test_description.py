"""TASK.json in every form, and what is said of its mistakes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mesos.v1 import mesos_pb2

from executor.local_agent.task_file import ContainerRequest, read_description
from executor.local_agent.validation import DescriptionError

SHORT: dict[str, Any] = {
    "name": "hello",
    "instances": 1,
    "resources": {"cpu": 0.5, "mem": 64, "disk": {"size": 10}},
    "command": {
        "cmd": "echo $GREETING",
        "environment": {"GREETING": "hi"},
        "uris": [{"uri": "/tmp/x.tar.gz", "extract": True}],
    },
    "container": {
        "network": [
            {
                "name": "data-net",
                "group": ["web"],
                "labels": {"mac": "02:00:00:00:00:01"},
                "ipaddress": [{"ip": "10.0.0.9", "protocol": "ipv4"}],
                "port_mapping": [{"host_port": 8080, "container_port": 80, "protocol": "tcp"}],
            },
            {"name": "dev-net"},
        ],
        "volume": [{"container_path": "data", "host_path": "/srv", "mode": "ro"}],
    },
    "healthcheck": {
        "type": "http",
        "delay": 1,
        "interval": 2,
        "timeout": 3,
        "fails": 4,
        "graceperiod": 5,
        "http": {"port": 80, "path": "/", "statuses": [200]},
    },
    "labels": {"tier": "front"},
    "filters": [{"type": "TEXT", "value": ["rack", "a"]}],
    "retry": {"time": "1s", "exp_backoff": False, "total_retries": 2},
    "strategy": {"type": "unique"},
}
TASK_INFO: dict[str, Any] = {
    "name": "hello",
    "task_id": {"value": "hello-7"},
    "command": {"value": "true"},
    "kill_policy": {"grace_period": {"nanoseconds": 2000000000}},
    "data": "aGVsbG8=",
}


def read(document: object) -> tuple[ContainerRequest, ...]:
    return read_description(json.dumps(document).encode(), "task.json")


def faults(document: object) -> list[str]:
    with pytest.raises(DescriptionError) as caught:
        read(document)
    return str(caught.value).splitlines()


@pytest.mark.parametrize("kind", ["http", "tcp"])
def test_a_check_of_the_short_form_may_be_over_ipv6(kind: str) -> None:
    check = {"type": kind, kind: {"port": 80, "protocol": "IPv6"}}
    (request,) = read({"name": "x", "command": {"cmd": "y"}, "healthcheck": check})
    assert getattr(request.tasks[0].health_check, kind).protocol == mesos_pb2.NetworkInfo.IPv6
    check = {"type": kind, kind: {"port": 80, "protocol": "IPv5"}}
    (said,) = faults({"name": "x", "command": {"cmd": "y"}, "healthcheck": check})
    assert f"healthcheck.{kind}.protocol" in said
    assert "expected one of IPv4, IPv6" in said


def test_short_form_becomes_a_task_info() -> None:
    (request,) = read(SHORT)
    (task,) = request.tasks
    assert not request.is_group
    assert task.task_id.value == task.name == "hello"
    assert {r.name: r.scalar.value for r in task.resources} == {"cpus": 0.5, "mem": 64, "disk": 10}
    assert task.command.value == "echo $GREETING"
    assert task.command.shell
    assert [(v.name, v.value) for v in task.command.environment.variables] == [("GREETING", "hi")]
    assert task.command.uris[0].extract
    assert [(label.key, label.value) for label in task.labels.labels] == [("tier", "front")]
    check = task.health_check
    assert (check.type, check.http.port, list(check.http.statuses)) == (mesos_pb2.HealthCheck.HTTP, 80, [200])
    assert (check.delay_seconds, check.consecutive_failures, check.grace_period_seconds) == (1, 4, 5)


def test_short_form_networks_go_to_the_executors_container() -> None:
    (request,) = read(SHORT)
    first, second = request.networks
    assert (first.name, second.name) == ("data-net", "dev-net")
    assert list(first.groups) == ["web"]
    assert first.ip_addresses[0].ip_address == "10.0.0.9"
    assert first.port_mappings[0].host_port == 8080
    volume = request.executor.container.volumes[0]
    assert (volume.container_path, volume.mode) == ("data", mesos_pb2.Volume.RO)


def test_instances_are_containers_of_their_own() -> None:
    requests = read({"name": "web", "instances": 3, "command": {"cmd": "true"}})
    assert [r.tasks[0].task_id.value for r in requests] == ["web-1", "web-2", "web-3"]
    assert len({r.executor.executor_id.value for r in requests}) == 3


def test_task_info_is_taken_as_it_is() -> None:
    (request,) = read(TASK_INFO)
    (task,) = request.tasks
    assert task.kill_policy.grace_period.nanoseconds == 2 * 10**9
    assert task.data == b"hello"
    assert request.executor.executor_id.value == "hello-7"


def test_task_info_brings_its_executor() -> None:
    executor = {
        "executor_id": {"value": "mine"},
        "data": "ZXhpdCAw",
        "container": {"type": "MESOS", "network_infos": [{"name": "a"}]},
    }
    document = {"name": "x", "task_id": {"value": "x"}, "executor": executor}
    (request,) = read(document)
    assert request.executor.executor_id.value == "mine"
    assert request.executor.data == b"exit 0"
    assert [info.name for info in request.networks] == ["a"]


def test_task_group_shares_one_container() -> None:
    network = {"type": "MESOS", "network_infos": [{"name": "a"}]}
    tasks = [
        {"name": n, "task_id": {"value": n}, "command": {"value": "true"}, "container": network} for n in "xy"
    ]
    (request,) = read({"tasks": tasks})
    assert request.is_group
    assert [task.task_id.value for task in request.tasks] == ["x", "y"]
    assert [info.name for info in request.networks] == ["a"]


def test_list_of_any_forms() -> None:
    assert [r.tasks[0].task_id.value for r in read([SHORT, TASK_INFO])] == ["hello", "hello-7"]


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({"name": "x", "comand": {"cmd": "y"}}, "comand: unknown key: expected 'command'"),
        ({"name": "x"}, "command: missing: expected an object with cmd, uris, environment"),
        ({"name": 1, "command": {"cmd": "y"}}, "name: 1: expected a string"),
        (
            {"name": "x", "command": {"cmd": "y"}, "instances": 0},
            "instances: 0: expected a whole number from 1 to 1000",
        ),
        (
            {"name": "x", "command": {"cmd": "y"}, "container": {"network": [{"nmae": "a"}]}},
            "container.network[0].nmae: unknown key: expected 'name'",
        ),
        (
            {"name": "x", "command": {"cmd": "y"}, "container": {"network": [{"name": "a"}] * 2}},
            'container.network[].name: "a": expected each network once, '
            "as one interface is attached to it",
        ),
        (
            {"name": "x", "command": {"cmd": "y"}, "container": {"image": "debian"}},
            'container.image: "debian": expected no image: tasks run on this host\'s files',
        ),
        (
            {"name": "x", "command": {"cmd": "y"}, "healthcheck": {"type": "tcp"}},
            'healthcheck.tcp: missing: expected an object, as healthcheck.type is "tcp"',
        ),
        ({**TASK_INFO, "killPolicy": {}}, "killPolicy: unknown key: expected 'kill_policy'"),
        ({"name": "x", "taskId": {"value": "x"}}, "taskId: unknown key: expected 'task_id'"),
        ({**TASK_INFO, "data": "!"}, 'data: "!": expected base64 text'),
        (
            {**TASK_INFO, "resources": [{"name": "cpus", "type": "SCALE", "scalar": {"value": 1}}]},
            "resources[0].type: \"SCALE\": expected 'SCALAR'",
        ),
        (
            {**TASK_INFO, "resources": [{"name": "cpus", "type": "SCALAR", "scalar": {"value": "1"}}]},
            'resources[0].scalar.value: "1": expected a number',
        ),
        (
            {**TASK_INFO, "task_id": {"value": "a/b"}},
            'task_id.value: "a/b": expected 1 to 255 bytes without slash, backslash or control characters',
        ),
        (
            {"name": "x", "task_id": {"value": "x"}},
            "command: missing: expected a CommandInfo here, or one in data or executor.data",
        ),
        ({"tasks": []}, "tasks: []: expected at least one task"),
        (
            [SHORT, SHORT],
            'name: "hello": expected an id of its own for every task',
        ),
        (
            "text",
            'the document: "text": expected a TaskInfo, a TaskGroupInfo, '
            "or an application with name and command.cmd",
        ),
    ],
)  # fmt: skip
def test_a_mistake_names_key_value_and_expectation(document: object, sentence: str) -> None:
    said = faults(document)
    assert f"task.json: {sentence}" in said


def test_all_mistakes_are_told_at_once() -> None:
    assert len(faults({"name": 1, "command": {"cmd": 2}, "instances": "3"})) == 3


def test_group_members_must_agree_on_the_networks() -> None:
    tasks = [
        {
            "name": name,
            "task_id": {"value": name},
            "command": {"value": "true"},
            "container": {"type": "MESOS", "network_infos": [{"name": f"net-{name}"}]},
        }
        for name in "xy"
    ]
    (said,) = faults({"tasks": tasks})
    assert "tasks[y].container.network_infos" in said
    assert "the tasks share" in said


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b'{"name": }', "line 1, column 10: expecting value: expected a JSON document"),
        (b'{"name": "a", "name": "b"}', "name: given twice: expected each key once"),
        (b'{"name": "\xff"}', "byte 10: not UTF-8: expected a JSON document"),
        (b"[" * 100_000, "the document: lists in lists: expected far fewer levels"),
        (b'{"name": %s}' % (b"9" * 5000), "the document: a number: expected far fewer digits"),
        (b'["\\ud800"]', "the document: .*ud800': expected whole characters"),
        (b'{"name": "x", "command": {"cmd": "y"}, "resources": {"mem": 1e999}}', "mem: Infinity: expected"),
        (b'{"task_id": {"value": "x"}, "health_check": {"delay_seconds": 1e999}}', "Infinity: expected"),
    ],
)
def test_what_is_no_json_is_located(text: bytes, sentence: str) -> None:
    with pytest.raises(DescriptionError, match=sentence.replace("(", r"\(")):
        read_description(text, "task.json")


def test_what_the_executors_container_does_is_not_asked_of_the_task_again() -> None:
    limits = {"rlimits": [{"type": "RLMT_NOFILE", "soft": 10, "hard": 10}]}
    container = {"type": "MESOS", "hostname": "h", "network_infos": [{"name": "a"}], "rlimit_info": limits}
    ((first,), (second,), (third,)) = (
        read(document)[0].tasks
        for document in (
            TASK_INFO,
            {**TASK_INFO, "container": container},
            {**TASK_INFO, "container": {"type": "MESOS", "network_infos": [{"name": "a"}]}},
        )
    )
    assert not first.HasField("container")
    assert [field.name for field, _ in second.container.ListFields()] == ["type", "rlimit_info"]
    assert not third.HasField("container")


def test_tasks_that_bring_the_same_executor_share_it() -> None:
    def task(name: str, data: str = "") -> dict[str, object]:
        executor = {"executor_id": {"value": "shared"}, "data": data}
        return {"name": name, "task_id": {"value": name}, "executor": executor}

    (request,) = read([task("one"), task("two")])
    assert [one.task_id.value for one in request.tasks] == ["one", "two"]
    assert not request.is_group
    (said,) = faults([task("one"), task("two", data="eA==")])
    assert 'executor.executor_id.value: "shared": expected an id of its own for each group' in said
