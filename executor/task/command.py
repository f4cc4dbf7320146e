"""What a task runs, found where schedulers put it for a custom executor.

In order: `TaskInfo.command`, which comes with LAUNCH_GROUP; `TaskInfo.data`, a JSON CommandInfo or an
object with "command", itself a shell line (as Cook writes it) or a CommandInfo; `ExecutorInfo.data`, the
same or simply a shell line (as hydrogen writes it). A field that is there must make sense: nothing falls
through to the next.
"""

import json
from dataclasses import dataclass

from mesos.v1 import mesos_pb2

from executor.protocol.mesos_json import JsonMappingError, fill_message

SHELL = "/bin/sh"


class InvalidTaskError(ValueError):
    """A description that nothing can be run from: TASK_FAILED with REASON_TASK_INVALID. Never quotes a
    value."""


@dataclass(frozen=True, slots=True)
class Program:
    """What to execute: the file, looked up in PATH when it has no slash, and the argument vector."""

    file: str
    argv: tuple[str, ...]


def find_command(task: mesos_pb2.TaskInfo, executor: mesos_pb2.ExecutorInfo) -> mesos_pb2.CommandInfo:
    """The command of a task. Raises InvalidTaskError."""
    if task.HasField("command"):
        return task.command
    if task.data:
        return _from_data(task.data, "TaskInfo.data", plain=False)
    if executor.data:
        return _from_data(executor.data, "ExecutorInfo.data", plain=True)
    raise InvalidTaskError("nothing to run: no TaskInfo.command, TaskInfo.data or ExecutorInfo.data")


def find_program(command: mesos_pb2.CommandInfo) -> Program:
    """The program of a command, in its shell or its argv form. Raises InvalidTaskError."""
    words = [command.value, *command.arguments]
    if any("\0" in word for word in words):
        raise InvalidTaskError("the command holds a zero byte")
    if not command.value:
        form = "a shell command" if command.shell else "a command without shell"
        raise InvalidTaskError(f"CommandInfo.value is missing: {form} needs it")
    if command.shell:
        return Program(SHELL, ("sh", "-c", command.value))
    return Program(command.value, tuple(command.arguments) or (command.value,))


def _from_data(data: bytes, where: str, *, plain: bool) -> mesos_pb2.CommandInfo:
    try:
        text = data.decode()
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict):
        return _from_document(document, where)
    if not plain:
        raise InvalidTaskError(f'{where} is no JSON object: it must be a CommandInfo or have a "command"')
    try:
        return mesos_pb2.CommandInfo(value=data.decode())
    except UnicodeDecodeError:
        raise InvalidTaskError(f"{where} is neither a JSON object nor a shell command in UTF-8") from None


def _from_document(document: dict[str, object], where: str) -> mesos_pb2.CommandInfo:
    described = document.get("command", document)
    if isinstance(described, str):
        described = {"value": described, "environment": document.get("environment")}
    command = mesos_pb2.CommandInfo()
    try:
        fill_message(command, described)
    except JsonMappingError as error:
        raise InvalidTaskError(f"{where} is no CommandInfo: {error}") from None
    if not command.IsInitialized():
        raise InvalidTaskError(f"{where} is no CommandInfo: a URI or variable in it lacks a required field")
    return command
