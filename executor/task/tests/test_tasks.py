"""States, deadlines, commands, environments and statuses."""

import json
import os
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mesos.v1 import mesos_pb2

from executor.task.command import InvalidTaskError, find_command, find_program
from executor.task.environment import (
    DEFAULT_PATH,
    allocation_role,
    container_ip,
    inherited,
    of_command,
)
from executor.task.kill_policy import KillDeadline, grace_of
from executor.task.state import STEPS, IllegalStepError, State
from executor.task.status import Ending, make_status, new_uuid
from executor.task.task import Task

Variable = mesos_pb2.Environment.Variable


def info(**fields: Any) -> mesos_pb2.TaskInfo:
    made = mesos_pb2.TaskInfo(name="n", **fields)
    made.task_id.value, made.agent_id.value = "t", "a"
    return made


@given(st.lists(st.sampled_from(State), max_size=12))
def test_a_task_ends_at_most_once_and_does_nothing_afterwards(steps: list[State]) -> None:
    task = Task(info(), None)
    for state in steps:
        over = task.state.terminal
        try:
            task.step(state, 0.0)
        except IllegalStepError:
            continue
        assert not over


def test_the_table_is_whole() -> None:
    assert set(STEPS) == set(State)
    assert all(after in STEPS for steps in STEPS.values() for after in steps)
    assert not any(State.RECEIVED in steps for steps in STEPS.values())


@pytest.mark.parametrize(
    ("kills", "at"),
    [
        ([(0, 30), (5, 1)], 1),  # its second is over already: SIGKILL at once
        ([(0, 1), (0.5, 30)], 1),
        ([(0, 30), (5, 10)], 10),
        ([(0, 0)], 0),
        ([(0, -5)], 0),
        ([(0, 30), (1, -1)], 0),
    ],
)
def test_a_later_kill_only_brings_the_deadline_nearer(kills: list[tuple[float, float]], at: float) -> None:
    (began, grace), *later = kills
    deadline = KillDeadline.after(began, grace)
    for _, grace in later:
        deadline = deadline.shortened(grace)
    assert deadline.at == at


@given(st.lists(st.floats(-1e30, 1e30), min_size=1))
def test_deadlines_never_grow(graces: list[float]) -> None:
    deadline = KillDeadline.after(100.0, graces[0])
    for grace in graces[1:]:
        shorter = deadline.shortened(grace)
        assert 100.0 <= shorter.at <= deadline.at
        deadline = shorter


def test_kill_policies_by_precedence() -> None:
    def policy(nanoseconds: int) -> mesos_pb2.KillPolicy:
        return mesos_pb2.KillPolicy(grace_period=mesos_pb2.DurationInfo(nanoseconds=nanoseconds))

    empty = mesos_pb2.KillPolicy()
    assert grace_of([policy(10**9), policy(2 * 10**9)], 3.0) == 1.0
    assert grace_of([empty, policy(2 * 10**9)], 3.0) == 2.0
    assert grace_of([empty, empty], 3.0) == 3.0
    assert grace_of([policy(-1)], 3.0) == 0.0


def command_of(task: mesos_pb2.TaskInfo, data: bytes = b"") -> mesos_pb2.CommandInfo:
    return find_command(task, mesos_pb2.ExecutorInfo(data=data) if data else mesos_pb2.ExecutorInfo())


@pytest.mark.parametrize(
    "data",
    [
        b'{"command": "echo hi"}',
        b'{"command": {"value": "echo hi"}}',
        b'{"value": "echo hi", "shell": true, "unknown": 1}',
        b'{"command": "echo hi", "progress_regex": "x", "environment": {"variables": []}}',
    ],
)
def test_commands_in_task_data(data: bytes) -> None:
    program = find_program(command_of(info(data=data), b"ignored"))
    assert (program.file, program.argv) == ("/bin/sh", ("sh", "-c", "echo hi"))


def test_the_command_of_the_task_comes_first() -> None:
    task = info(data=b"garbage", command=mesos_pb2.CommandInfo(value="true"))
    assert command_of(task).value == "true"


def test_executor_data_may_be_a_plain_shell_line() -> None:
    assert command_of(info(), "echo ü".encode()).value == "echo ü"
    assert command_of(info(), b'{"command": "x"}').value == "x"


@pytest.mark.parametrize(
    "data", [b"\xff", b"echo", b"[]", b"5", b'{"command": 5}', b'{"command": {"value": []}}', b"[" * 100_000]
)
def test_task_data_that_describes_no_command_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidTaskError, match=r"TaskInfo\.data"):
        command_of(info(data=data))


def test_nothing_to_run_is_refused() -> None:
    with pytest.raises(InvalidTaskError, match="nothing to run"):
        command_of(info())
    with pytest.raises(InvalidTaskError, match=r"ExecutorInfo\.data"):
        command_of(info(), b"\xff\xfe")


@given(st.binary(max_size=60))
def test_any_data_is_a_command_or_refused(data: bytes) -> None:
    try:
        find_program(command_of(info(data=data), data))
    except InvalidTaskError as error:
        assert str(error)


def test_the_argv_form_is_not_split() -> None:
    command = mesos_pb2.CommandInfo(shell=False, value="printf", arguments=["printf", "%s", "a b"])
    assert find_program(command).argv == ("printf", "%s", "a b")
    assert find_program(mesos_pb2.CommandInfo(shell=False, value="true")).argv == ("true",)


@pytest.mark.parametrize(
    "command",
    [
        mesos_pb2.CommandInfo(),
        mesos_pb2.CommandInfo(shell=False, arguments=["a"]),
        mesos_pb2.CommandInfo(value="a\0b"),
        mesos_pb2.CommandInfo(shell=False, value="a", arguments=["\0"]),
    ],
)
def test_commands_that_cannot_be_run_are_refused(command: mesos_pb2.CommandInfo) -> None:
    with pytest.raises(InvalidTaskError):
        find_program(command)


def test_the_bundle_leaves_no_trace_in_the_environment() -> None:
    own = {
        "LD_LIBRARY_PATH": "/tmp/_MEI1",
        "LD_LIBRARY_PATH_ORIG": "/usr/lib/mesos",
        "_MEIPASS2": "/tmp/_MEI1",
        "_PYI_ARCHIVE_FILE": "x",
        "PYINSTALLER_RESET_ENVIRONMENT": "1",
        "TOKEN": "secret",
        "KEPT": "1",
    }
    assert inherited(own, {"TOKEN"}, bundle="/tmp/_MEI1") == {
        "LD_LIBRARY_PATH": "/usr/lib/mesos",
        "KEPT": "1",
        "PATH": DEFAULT_PATH,
    }
    plain = {"LD_LIBRARY_PATH": "/opt", "PATH": "/bin"}
    assert inherited(plain, (), bundle=None) == plain
    assert inherited(plain, (), bundle="/tmp/_MEI1") == plain
    assert inherited(plain, (), bundle="/opt") == {"PATH": "/bin"}
    own_name = {**plain, "LD_LIBRARY_PATH_ORIG": "/mine"}
    assert inherited(own_name, (), bundle=None) == own_name


def command_with(*variables: mesos_pb2.Environment.Variable) -> mesos_pb2.CommandInfo:
    return mesos_pb2.CommandInfo(environment=mesos_pb2.Environment(variables=variables))


def test_secret_values_are_resolved() -> None:
    secret = mesos_pb2.Secret(type=mesos_pb2.Secret.VALUE, value=mesos_pb2.Secret.Value(data=b"s\xff"))
    command = command_with(
        Variable(name="PLAIN", value="1"), Variable(name="HIDDEN", type=Variable.SECRET, secret=secret)
    )
    assert of_command(command) == {"PLAIN": "1", "HIDDEN": "s\udcff"}


def test_secret_references_are_refused_without_being_quoted() -> None:
    secret = mesos_pb2.Secret(
        type=mesos_pb2.Secret.REFERENCE, reference=mesos_pb2.Secret.Reference(name="vault/key")
    )
    with pytest.raises(InvalidTaskError, match="HIDDEN") as raised:
        of_command(command_with(Variable(name="HIDDEN", type=Variable.SECRET, secret=secret)))
    assert "vault" not in str(raised.value)


@pytest.mark.parametrize(("name", "value"), [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "x\0")])
def test_variables_that_cannot_be_set_are_refused(name: str, value: str) -> None:
    with pytest.raises(InvalidTaskError):
        of_command(command_with(Variable(name=name, value=value)))


def test_the_role_comes_from_the_resources() -> None:
    task = info()
    task.resources.add(name="cpus", type=mesos_pb2.Value.SCALAR)
    assert allocation_role(task) is None
    task.resources.add(name="mem", type=mesos_pb2.Value.SCALAR).allocation_info.role = "prod"
    assert allocation_role(task) == "prod"


@pytest.mark.parametrize(
    ("ending", "text"),
    [
        (Ending(3, None), "Command exited with status 3"),
        (Ending(None, 9), "Command terminated with signal Killed"),
        (Ending(None, 11, True), "Command terminated with signal Segmentation fault (core dumped)"),
        (Ending(None, 63), "Command terminated with signal Real-time signal 29"),
    ],
)
def test_endings_in_the_words_of_the_built_in_executors(ending: Ending, text: str) -> None:
    assert ending.text == text


def test_uuids_are_what_agents_take() -> None:
    made = [new_uuid() for _ in range(100)]
    assert len(set(made)) == 100
    for raw in made:
        parsed = uuid.UUID(bytes=raw)
        assert (parsed.version, parsed.variant) == (4, uuid.RFC_4122)


def test_a_status_is_complete_and_carries_the_ending_as_data() -> None:
    task = Task(info(), None)
    task.healthy = True
    task.check_status = mesos_pb2.CheckStatusInfo(type=mesos_pb2.CheckInfo.COMMAND)
    for state in (State.STARTING, State.RUNNING, State.FAILED):
        task.step(state, 1.0)
    status = make_status(task, "E", 12.5, message="m", facts=Ending(3, None).facts)
    assert status.IsInitialized()
    assert (status.state, status.source) == (mesos_pb2.TASK_FAILED, mesos_pb2.TaskStatus.SOURCE_EXECUTOR)
    assert (status.executor_id.value, status.timestamp, status.healthy) == ("E", 12.5, True)
    assert status.check_status.type == mesos_pb2.CheckInfo.COMMAND
    assert json.loads(status.data) == {"exit_code": 3}
    assert [(label.key, label.value) for label in status.labels.labels] == [("mesokit.exit_code", "3")]
    assert not status.HasField("container_status")


def test_a_message_with_bytes_that_are_no_text_is_told_all_the_same() -> None:
    task = Task(info(), None, State.FAILED)
    status = make_status(task, "E", 1.0, message=os.fsdecode(b"PATH=/\xff"))
    assert status.message == r"PATH=/\udcff"


@pytest.mark.parametrize(
    ("libprocess", "address", "told"),
    [
        ("10.0.0.7", "10.0.0.8", "10.0.0.7"),
        ("0.0.0.0", "192.168.5.2", "192.168.5.2"),
        ("::", "fd00::2", "fd00::2"),
        (None, "127.0.0.1", None),
        (None, None, None),
        ("0.0.0.0", None, "10.9.8.7"),
        ("0.0.0.0", "127.0.0.1", "10.9.8.7"),
        ("::", "::1", "10.9.8.7"),
    ],
)
def test_the_address_of_the_container(libprocess: str | None, address: str | None, told: str | None) -> None:
    assert container_ip(libprocess, address, lambda: "10.9.8.7") == told
