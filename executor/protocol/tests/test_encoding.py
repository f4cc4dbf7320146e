"""Both encodings: what is written is read again, and nothing that comes in can do harm."""

import base64
import json
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st
from mesos.v1 import mesos_pb2
from mesos.v1.executor import executor_pb2

from executor.protocol import DecodeError, Encoding, decode_call, decode_event, encode_call, encode_event
from executor.protocol.mesos_json import JsonMappingError, fill_message, is_map, to_json

_RANGES = {
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "uint32": (0, 2**32 - 1),
    "uint64": (0, 2**64 - 1),
}


def _scalars(field: Any) -> st.SearchStrategy[Any]:
    if field.cpp_type == field.CPPTYPE_ENUM:
        return st.sampled_from([value.number for value in field.enum_type.values])
    kinds: dict[int, st.SearchStrategy[Any]] = {
        field.TYPE_STRING: st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        field.TYPE_BYTES: st.binary(max_size=20),
        field.TYPE_BOOL: st.booleans(),
        field.TYPE_DOUBLE: st.floats(allow_nan=False, allow_infinity=False),
        field.TYPE_INT32: st.integers(*_RANGES["int32"]),
        field.TYPE_INT64: st.integers(*_RANGES["int64"]),
        field.TYPE_UINT32: st.integers(*_RANGES["uint32"]),
        field.TYPE_UINT64: st.integers(*_RANGES["uint64"]),
    }
    return kinds[field.type]


def _fill(draw: st.DrawFn, message: Message, depth: int) -> None:
    fields: Any = message.DESCRIPTOR.fields
    for field in fields:
        wanted = field.is_required or (depth > 0 and draw(st.integers(0, 3)) == 0)
        if not wanted:
            continue
        for _ in range(draw(st.integers(0, 2)) if field.is_repeated else 1):
            _set(draw, message, field, depth)


def _set(draw: st.DrawFn, message: Message, field: Any, depth: int) -> None:
    target = getattr(message, field.name)
    if is_map(field):
        key = draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=5))
        value = field.message_type.fields_by_name["value"]
        if value.cpp_type == field.CPPTYPE_MESSAGE:
            _fill(draw, target[key], depth - 1)
        else:
            target[key] = draw(_scalars(value))
    elif field.cpp_type == field.CPPTYPE_MESSAGE:
        child = target.add() if field.is_repeated else target
        if not field.is_repeated:
            child.SetInParent()
        _fill(draw, child, depth - 1)
    elif field.is_repeated:
        target.append(draw(_scalars(field)))
    else:
        setattr(message, field.name, draw(_scalars(field)))


@st.composite
def events(draw: st.DrawFn) -> executor_pb2.Event:
    event = executor_pb2.Event()
    _fill(draw, event, 5)
    return event


@st.composite
def calls(draw: st.DrawFn) -> executor_pb2.Call:
    call = executor_pb2.Call()
    _fill(draw, call, 5)
    return call


@settings(max_examples=60)
@given(calls(), st.sampled_from(Encoding))
def test_calls_are_read_as_they_were_written(call: executor_pb2.Call, encoding: Encoding) -> None:
    assert decode_call(encode_call(call, encoding), encoding) == call


@settings(max_examples=60)
@given(events())
def test_events_are_read_as_they_were_written(event: executor_pb2.Event) -> None:
    assert decode_event(encode_event(event, Encoding.PROTOBUF), Encoding.PROTOBUF) == event


@settings(max_examples=60)
@given(events())
def test_json_events_differ_only_in_defaults_spelt_out(event: executor_pb2.Event) -> None:
    once = decode_event(encode_event(event, Encoding.JSON), Encoding.JSON)
    assert decode_event(encode_event(once, Encoding.JSON), Encoding.JSON) == once
    plain = executor_pb2.Event()
    fill_message(plain, to_json(event))
    assert plain == event


@settings(max_examples=200)
@given(st.binary(max_size=200), st.sampled_from(Encoding))
def test_any_bytes_are_an_event_or_a_decode_error(data: bytes, encoding: Encoding) -> None:
    try:
        assert decode_event(data, encoding).IsInitialized()
    except DecodeError:
        return


_names = st.sampled_from(
    [
        "type",
        "launch",
        "task",
        "task_id",
        "value",
        "kill",
        "uuid",
        "acknowledged",
        "data",
        "message",
        "limits",
        "agent_id",
        "name",
        "subscribed",
        "executor_info",
        "resources",
        "kill_policy",
        "grace_period",
        "nanoseconds",
    ]
)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300)
@given(st.dictionaries(_names, _json, max_size=5))
def test_any_json_is_an_event_or_a_decode_error(document: dict[str, Any]) -> None:
    try:
        assert decode_event(json.dumps(document).encode(), Encoding.JSON).IsInitialized()
    except DecodeError:
        return


def test_deep_nesting_is_refused() -> None:
    document: dict[str, Any] = {"value": "x"}
    for _ in range(500):
        document = {"value": "x", "parent": document}
    with pytest.raises(JsonMappingError, match="nested"):
        fill_message(mesos_pb2.ContainerID(), document)
    with pytest.raises(DecodeError):
        decode_event(b"[" * 100_000, Encoding.JSON)


def _event(**fields: Any) -> executor_pb2.Event:
    return decode_event(json.dumps(fields).encode(), Encoding.JSON)


def test_unknown_names_and_event_types_are_ignored() -> None:
    event = _event(type="NOT_YET_INVENTED", taskId=5, message={"data": "AA==", "more": {}})
    assert event.type == executor_pb2.Event.UNKNOWN
    assert event.message.data == b"\0"


def test_an_unknown_enum_fails_a_required_field() -> None:
    with pytest.raises(JsonMappingError, match=r"no mesos\.v1\.TaskState"):
        fill_message(mesos_pb2.TaskStatus(), {"state": "TASK_DREAMING"})


def test_numbers_may_be_strings_and_large() -> None:
    policy = mesos_pb2.KillPolicy()
    fill_message(policy, {"grace_period": {"nanoseconds": "9223372036854775807"}})
    assert policy.grace_period.nanoseconds == 2**63 - 1
    assert to_json(policy) == {"grace_period": {"nanoseconds": 2**63 - 1}}


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 1.5, "1e3", "", True, "٣", [], {}])
def test_what_is_no_64_bit_integer_is_refused(value: Any) -> None:
    with pytest.raises(JsonMappingError):
        fill_message(mesos_pb2.DurationInfo(), {"nanoseconds": value})


@pytest.mark.parametrize("value", [float("inf"), float("nan"), "-inf", "NaN", 10**400])
def test_what_json_cannot_send_back_is_refused(value: Any) -> None:
    with pytest.raises(JsonMappingError, match="must be a number"):
        fill_message(mesos_pb2.Value.Scalar(), {"value": value})


def test_agents_spell_out_explicit_defaults_unless_deprecated() -> None:
    event = executor_pb2.Event(type=executor_pb2.Event.LAUNCH)
    task = event.launch.task
    task.name, task.task_id.value, task.agent_id.value = "n", "t", "a"
    task.command.SetInParent()
    task.resources.add(name="cpus", type=mesos_pb2.Value.SCALAR).scalar.value = 1
    document = json.loads(encode_event(event, Encoding.JSON))
    assert document["launch"]["task"]["command"] == {"shell": True}
    assert "role" not in document["launch"]["task"]["resources"][0]


def test_bytes_are_standard_base64() -> None:
    acknowledged = _event(
        type="ACKNOWLEDGED",
        acknowledged={"task_id": {"value": "t"}, "uuid": base64.b64encode(bytes(range(240, 256))).decode()},
    )
    assert acknowledged.acknowledged.uuid == bytes(range(240, 256))
    with pytest.raises(DecodeError, match="base64"):
        _event(type="MESSAGE", message={"data": "-_8="})


def test_missing_required_fields_are_named() -> None:
    with pytest.raises(DecodeError, match=r"acknowledged\.uuid"):
        _event(type="ACKNOWLEDGED", acknowledged={"task_id": {"value": "t"}})
    with pytest.raises(ValueError, match="framework_id"):
        encode_call(executor_pb2.Call(executor_id=mesos_pb2.ExecutorID(value="e")), Encoding.JSON)


def test_strings_that_are_not_utf_8_are_refused() -> None:
    event = executor_pb2.Event(type=executor_pb2.Event.KILL)
    event.kill.task_id.value = "ab"
    raw = event.SerializeToString().replace(b"ab", b"\xff\xfe")
    with pytest.raises(DecodeError, match="UTF-8"):
        decode_event(raw, Encoding.PROTOBUF)
    with pytest.raises(DecodeError, match="surrogate"):
        decode_event(b'{"type":"KILL","kill":{"task_id":{"value":"\\ud800"}}}', Encoding.JSON)


def test_unknown_fields_survive_in_protobuf() -> None:
    task = mesos_pb2.TaskInfo(name="n")
    task.task_id.value, task.agent_id.value = "t", "a"
    raw = task.SerializeToString() + b"\xa2\x7d\x03new"
    assert b"new" in mesos_pb2.TaskInfo.FromString(raw).SerializeToString()


def test_content_types_are_exact() -> None:
    assert [encoding.content_type for encoding in Encoding] == ["application/x-protobuf", "application/json"]
    assert Encoding.of_content_type("application/json") is Encoding.JSON
    assert Encoding.of_content_type("application/json; charset=utf-8") is None


@pytest.mark.parametrize("name", ["value\0", "value\0\0x", "shell\0"])
def test_a_key_with_a_zero_byte_is_a_key_that_nobody_knows(name: str) -> None:
    command = mesos_pb2.CommandInfo()
    fill_message(command, {name: {"a": 1}, "user": "root"})
    assert command == mesos_pb2.CommandInfo(user="root")


def test_an_enum_with_a_zero_byte_is_one_that_nobody_knows() -> None:
    check = mesos_pb2.HealthCheck()
    fill_message(check, {"type": "TCP\0"})
    assert not check.HasField("type")
