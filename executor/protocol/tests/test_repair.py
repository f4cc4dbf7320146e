"""Text that is none: repaired, and said where."""

import json

import pytest
from mesos.v1 import mesos_pb2
from mesos.v1.executor import executor_pb2

from executor.protocol import DecodeError, Encoding, decode_event, decode_repaired, encode_event


def launch() -> executor_pb2.Event:
    event = executor_pb2.Event(type=executor_pb2.Event.LAUNCH)
    task = event.launch.task
    task.name, task.task_id.value, task.agent_id.value = "nnn", "t", "a"
    task.command.arguments.extend(["one", "two"])
    task.labels.labels.add(key="kkk", value="vvv")
    task.limits["cpus"].value, task.limits["memo"].value = 1.0, 2.0
    return event


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (b"nnn", "launch.task.name"),
        (b"two", "launch.task.command.arguments[1]"),
        (b"vvv", "launch.task.labels.labels[0].value"),
        (b"memo", "launch.task.limits"),
    ],
)
@pytest.mark.parametrize("encoding", list(Encoding))
def test_each_damaged_field_is_named(encoding: Encoding, text: bytes, path: str) -> None:
    record = encode_event(launch(), encoding).replace(text, b"\xff" * len(text))
    with pytest.raises(DecodeError):
        decode_event(record, encoding)
    event, damaged = decode_repaired(record, executor_pb2.Event(), encoding)
    assert len(damaged) == 1 and damaged[0].startswith(path)
    assert event.launch.task.task_id.value == "t" and event.launch.task.limits["cpus"].value == 1.0
    assert decode_event(encode_event(event, encoding), encoding)


def test_what_is_sound_is_left_as_it_is() -> None:
    for encoding in Encoding:
        record = encode_event(launch(), encoding)
        assert decode_repaired(record, executor_pb2.Event(), encoding) == (decode_event(record, encoding), ())


def test_half_a_surrogate_pair_is_repaired() -> None:
    record = json.dumps({"type": "ERROR", "error": {"message": "a\ud800b"}}).encode()
    event, damaged = decode_repaired(record, executor_pb2.Event(), Encoding.JSON)
    assert (event.error.message, damaged) == ("a\ufffdb", ("error.message",))


def test_what_is_wrong_in_another_way_is_no_event() -> None:
    kill = executor_pb2.Event(type=executor_pb2.Event.KILL)
    kill.kill.SetInParent()
    for data in (b"\xff\xff\xff", kill.SerializePartialToString()):
        with pytest.raises(DecodeError):
            decode_repaired(data, executor_pb2.Event(), Encoding.PROTOBUF)
    for data in (b"{", b"[" * 100_000, b'{"type":"KILL","kill":{}}', b"\xff{"):
        with pytest.raises(DecodeError):
            decode_repaired(data, executor_pb2.Event(), Encoding.JSON)
    status = mesos_pb2.TaskStatus(message="bad")  # without what is required, and damaged
    with pytest.raises(DecodeError, match=r"not initialized|UTF-8"):
        decode_repaired(
            status.SerializePartialToString().replace(b"bad", b"\xff" * 3),
            mesos_pb2.TaskStatus(),
            Encoding.PROTOBUF,
        )
