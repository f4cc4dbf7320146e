"""What a Mesos agent accepts from an executor, and the status it answers otherwise.

Written from the agent's own validation (slave/http.cpp, slave/validation.cpp of Mesos 1.11), with three rules
made stricter than the agent's, because there it errs on the silent side: unknown JSON names are refused (the
agent drops them), 64-bit numbers in strings are refused, and a foreign agent id is refused (the agent answers
202 and ignores the update).
"""

from __future__ import annotations

import base64
import json
import uuid
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from mesos.v1 import mesos_pb2
from mesos.v1.executor import executor_pb2

from executor.protocol import DecodeError, Encoding, decode_call
from executor.tests.scenarios.http_wire import Request

CALL_PATHS = ("/api/v1/executor", "/slave(1)/api/v1/executor", "/slave%281%29/api/v1/executor")

INTEGERS = frozenset(
    {
        FieldDescriptor.TYPE_INT32,
        FieldDescriptor.TYPE_INT64,
        FieldDescriptor.TYPE_UINT32,
        FieldDescriptor.TYPE_UINT64,
    }
)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the executor must say it is."""

    framework_id: str
    executor_id: str
    agent_id: str
    token: str | None = None


class RefusedError(Exception):
    """A call that an agent would refuse: the HTTP status and the sentence of the body."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def check(request: Request, identity: Identity, encoding: Encoding) -> executor_pb2.Call:
    """The call in `request`, or RefusedError as the agent would."""
    _check_head(request, identity, encoding)
    if encoding is Encoding.JSON:
        try:
            document = json.loads(request.body)
        except ValueError as error:
            raise RefusedError(400, f"Failed to parse body into JSON: {error}") from error
        problems = json_problems(document, executor_pb2.Call.DESCRIPTOR, "Call")
        if problems:
            raise RefusedError(400, "; ".join(problems))
    try:
        call = decode_call(request.body, encoding)
    except DecodeError as error:
        raise RefusedError(400, f"Failed to parse body into Call: {error}") from error
    _check_call(call, identity)
    if call.type == executor_pb2.Call.SUBSCRIBE:
        accept = request.headers.get("accept")
        if accept != encoding.content_type:
            raise RefusedError(406, f"Expecting 'Accept' of {encoding.content_type}, not {accept!r}")
    return call


def _check_head(request: Request, identity: Identity, encoding: Encoding) -> None:
    if request.method != "POST":
        raise RefusedError(405, f"Expecting one of {{ 'POST' }}, but received '{request.method}'")
    if request.path not in CALL_PATHS:
        raise RefusedError(404, f"no route {request.path}")
    if identity.token is not None and request.headers.get("authorization") != f"Bearer {identity.token}":
        raise RefusedError(401, "missing or wrong bearer token")
    if identity.token is None and "authorization" in request.headers:
        raise RefusedError(401, "an Authorization header where no token was given")
    if "host" not in request.headers:
        raise RefusedError(400, "Expecting 'Host' to be present")
    content_type = request.headers.get("content-type")
    if content_type is None:
        raise RefusedError(400, "Expecting 'Content-Type' to be present")
    if content_type != encoding.content_type:
        raise RefusedError(415, f"Expecting 'Content-Type' of {encoding.content_type}, not {content_type!r}")
    if request.repeated:
        raise RefusedError(400, f"headers given twice: {sorted(request.repeated)}")
    for name in ("mesos-stream-id", "message-accept", "message-content-type", "expect"):
        if name in request.headers:
            raise RefusedError(400, f"header {name} has no place in an executor's call")


def _check_call(call: executor_pb2.Call, identity: Identity) -> None:
    if not call.HasField("type"):
        raise RefusedError(400, "Expecting 'type' to be present")
    if call.framework_id.value != identity.framework_id:
        raise RefusedError(400, f"Framework {call.framework_id.value} cannot be found")
    if call.executor_id.value != identity.executor_id:
        raise RefusedError(400, f"Executor {call.executor_id.value} cannot be found")
    if call.type == executor_pb2.Call.SUBSCRIBE:
        if not call.HasField("subscribe"):
            raise RefusedError(400, "Expecting 'subscribe' to be present")
        for update in call.subscribe.unacknowledged_updates:
            check_status(update.status, identity)
    elif call.type == executor_pb2.Call.UPDATE:
        if not call.HasField("update"):
            raise RefusedError(400, "Expecting 'update' to be present")
        check_status(call.update.status, identity)
    elif call.type == executor_pb2.Call.MESSAGE:
        if not call.HasField("message"):
            raise RefusedError(400, "Expecting 'message' to be present")
    elif call.type != executor_pb2.Call.HEARTBEAT:
        raise RefusedError(501, f"Received an unknown call type {call.type}")


def check_status(status: mesos_pb2.TaskStatus, identity: Identity) -> None:
    """The agent's validation of one status; raises RefusedError(400)."""

    def refuse(text: str) -> None:
        raise RefusedError(400, f"update of {status.task_id.value!r}: {text}")

    if len(status.uuid) != 16:
        refuse(f"Not a valid UUID: {len(status.uuid)} bytes")
    parsed = uuid.UUID(bytes=status.uuid)
    if parsed.version != 4 or parsed.variant != uuid.RFC_4122:
        refuse(f"Not a random UUID: {parsed}")
    if status.source != mesos_pb2.TaskStatus.SOURCE_EXECUTOR or not status.HasField("source"):
        refuse("Received Call from executor with source other than SOURCE_EXECUTOR")
    if status.state == mesos_pb2.TASK_STAGING:
        refuse("Received TASK_STAGING from executor which is not allowed")
    if not status.HasField("executor_id") or status.executor_id.value != identity.executor_id:
        refuse(f"ExecutorID in Call: {identity.executor_id} does not match {status.executor_id.value!r}")
    if status.HasField("agent_id") and status.agent_id.value != identity.agent_id:
        refuse(f"agent id {status.agent_id.value!r} is not ours")
    if not status.HasField("timestamp") or status.timestamp <= 0:
        refuse("without a timestamp")
    if status.HasField("check_status"):
        check_info = mesos_pb2.CheckInfo
        wanted = {check_info.COMMAND: "command", check_info.HTTP: "http", check_info.TCP: "tcp"}
        if status.check_status.type not in wanted:
            refuse("check_status.type is not set")
        field = wanted[status.check_status.type]
        if not status.check_status.HasField(field):
            refuse(f"check_status.{field} is not set")


def json_problems(value: Any, descriptor: Any, where: str) -> list[str]:
    """What is wrong with a message under Mesos' JSON mapping (names, numbers, base64)."""
    if not isinstance(value, dict):
        return [f"{where} is not an object: {value!r}"]
    problems = []
    for name, member in value.items():
        field = descriptor.fields_by_name.get(name)
        if field is None:
            problems.append(f"{where}.{name} is not a field of {descriptor.full_name}")
            continue
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        if is_map:
            entry = field.message_type.fields_by_name["value"]
            items = member.items() if isinstance(member, dict) else [("not an object", None)]
            for key, item in items:
                problems += _value_problems(item, entry, f"{where}.{name}[{key}]")
        elif field.is_repeated:
            if not isinstance(member, list):
                problems.append(f"{where}.{name} is not an array")
                continue
            for index, item in enumerate(member):
                problems += _value_problems(item, field, f"{where}.{name}[{index}]")
        else:
            problems += _value_problems(member, field, f"{where}.{name}")
    return problems


def _value_problems(value: Any, field: Any, where: str) -> list[str]:
    kind = field.type
    if field.message_type is not None:
        return json_problems(value, field.message_type, where)
    if kind == FieldDescriptor.TYPE_BYTES:
        try:
            base64.b64decode(value, validate=True)
        except (TypeError, ValueError):
            return [f"{where} is not base64"]
        return []
    if field.enum_type is not None:
        return [] if value in field.enum_type.values_by_name else [f"{where}: {value!r} is not an enum name"]
    if kind in INTEGERS:
        good = isinstance(value, int) and not isinstance(value, bool)
    elif kind == FieldDescriptor.TYPE_BOOL:
        good = isinstance(value, bool)
    elif kind == FieldDescriptor.TYPE_DOUBLE:
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
    else:
        good = isinstance(value, str)
    return [] if good else [f"{where}: {value!r} has the wrong JSON type"]
