"""What a master answers before it looks at what a call means: the ladder of HTTP codes, in its order
(src/master/http.cpp `scheduler`).
"""

import base64
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mesos.v1.scheduler import scheduler_pb2

from executor.framework.fake_master.master import Master
from executor.framework.fake_master.messages import told
from executor.protocol.encoding import DecodeError, Encoding, decode

Call = scheduler_pb2.Call
PATHS = ("/api/v1/scheduler", "/master/api/v1/scheduler")


@dataclass(frozen=True, slots=True)
class Refused(Exception):
    """An answer other than 200 or 202."""

    status: int
    text: str
    fields: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Checked:
    """A call that passed; for SUBSCRIBE the encoding of its stream."""

    call: Call
    encoding: Encoding


def check(master: Master, method: str, target: str, fields: Mapping[str, str], body: bytes) -> Checked:
    """The ladder, in a master's order. Raises Refused."""
    options = master.options
    wanted = authorizations(options.principal, options.secret)
    if options.principal and fields.get("authorization") not in wanted:
        raise Refused(401, "", (("WWW-Authenticate", 'Basic realm="mesos-master-scheduler"'),))
    if target not in PATHS:
        raise Refused(404, "")
    if master.leader is None:
        raise Refused(503, "No leader elected")
    if master.leader != master.address:
        raise Refused(307, "", (("Location", f"//{master.leader}{target}"),))
    if master.recovering:
        raise Refused(503, "Master has not finished recovery")
    if method != "POST":
        raise Refused(405, "", (("Allow", "POST"),))
    call = _decoded(fields, body)
    _union(call, options.principal)
    encoding = _acceptable(call, fields)
    if call.type == Call.SUBSCRIBE:
        if "mesos-stream-id" in fields:
            raise Refused(400, "Subscribe calls should not include the 'Mesos-Stream-Id' header")
        if options.principal:
            call.subscribe.framework_info.principal = options.principal
        return Checked(call, encoding)
    _subscribed(master, call, fields.get("mesos-stream-id"))
    return Checked(call, encoding)


def _subscribed(master: Master, call: Call, stream_id: str | None) -> None:
    """Whether a call comes from the one who is subscribed. Raises Refused."""
    framework, principal = master.books.frameworks.get(call.framework_id.value), master.options.principal
    if framework is None:
        raise Refused(400, "Framework cannot be found")
    if principal and principal != framework.info.principal:
        raise Refused(
            400,
            f"Authenticated principal '{principal}' does not match principal "
            f"'{framework.info.principal}' set in `FrameworkInfo`",
        )
    if framework.stream is None:
        raise Refused(403, "Framework is not subscribed")
    if stream_id is None:
        raise Refused(400, "All non-subscribe calls should include the 'Mesos-Stream-Id' header")
    if stream_id != framework.stream.id:
        raise Refused(
            400,
            f"The stream ID '{stream_id}' included in this request didn't match the stream ID currently "
            f"associated with framework ID {framework.id}",
        )


def _decoded(fields: Mapping[str, str], body: bytes) -> Call:
    kind = fields.get("content-type")
    if kind is None:
        raise Refused(400, "Expecting 'Content-Type' to be present")
    encoding = Encoding.of_content_type(kind)
    if encoding is None:
        raise Refused(
            415, f"Expecting 'Content-Type' of application/json or application/x-protobuf, not {kind}"
        )
    coding = fields.get("content-encoding", "")
    if coding == "gzip":
        try:
            body = zlib.decompress(body, wbits=31)
        except zlib.error as error:
            raise Refused(400, "the body is no gzip") from error
    elif coding:
        raise Refused(400, "Failed to parse body into Call protobuf")
    try:
        return decode(body, Call(), encoding)
    except DecodeError as error:
        raise Refused(400, f"Failed to parse body into Call protobuf: {error}") from error


_BODIES = {
    Call.ACCEPT: "accept",
    Call.DECLINE: "decline",
    Call.ACCEPT_INVERSE_OFFERS: "accept_inverse_offers",
    Call.DECLINE_INVERSE_OFFERS: "decline_inverse_offers",
    Call.KILL: "kill",
    Call.SHUTDOWN: "shutdown",
    Call.ACKNOWLEDGE: "acknowledge",
    Call.ACKNOWLEDGE_OPERATION_STATUS: "acknowledge_operation_status",
    Call.RECONCILE: "reconcile",
    Call.RECONCILE_OPERATIONS: "reconcile_operations",
    Call.MESSAGE: "message",
    Call.REQUEST: "request",
    Call.UPDATE_FRAMEWORK: "update_framework",
}


def authorizations(principal: str, secret: str) -> tuple[str, str]:
    """The Authorization headers that stand for a principal: basic, and a module's bearer token."""
    encoded = base64.b64encode(f"{principal}:{secret}".encode()).decode()
    return f"Basic {encoded}", f"Bearer {secret}"


def _union(call: Call, principal: str) -> None:
    for why in _union_faults(call, principal):
        raise Refused(400, f"Failed to validate scheduler::Call: {why}")
    if call.type == Call.UNKNOWN:
        raise Refused(501, "Received 'UNKNOWN' call")


def _union_faults(call: Call, principal: str) -> Iterator[str]:
    if not call.HasField("type"):
        yield "Expecting 'type' to be present"
    if call.type == Call.SUBSCRIBE:
        if not call.HasField("subscribe"):
            yield "Expecting 'subscribe' to be present"
        info = call.subscribe.framework_info
        if info.id.value != call.framework_id.value:
            yield "'framework_id' differs from 'subscribe.framework_info.id'"
        if principal and info.HasField("principal") and info.principal != principal:
            yield (
                f"Authenticated principal '{principal}' does not match principal '{info.principal}' set in "
                "`FrameworkInfo`"
            )
        return
    name, uuid = _BODIES.get(call.type), b"."
    if call.type == Call.ACKNOWLEDGE:
        uuid = call.acknowledge.uuid
    elif call.type == Call.ACKNOWLEDGE_OPERATION_STATUS:
        uuid = call.acknowledge_operation_status.uuid
    yield from told(
        (not call.framework_id.value, "Expecting 'framework_id' to be present"),
        (
            name is not None and name not in {field.name for field, _ in call.ListFields()},
            f"Expecting '{name}' to be present",
        ),
        (uuid != b"." and len(uuid) != 16, "Not a valid UUID"),
        (
            call.type == Call.ACKNOWLEDGE_OPERATION_STATUS
            and not call.acknowledge_operation_status.HasField("agent_id"),
            "Expecting 'agent_id' to be present",
        ),
        (
            call.type == Call.UPDATE_FRAMEWORK
            and call.update_framework.framework_info.id.value != call.framework_id.value,
            "'framework_id' differs from 'update_framework.framework_info.id'",
        ),
    )


def _acceptable(call: Call, fields: Mapping[str, str]) -> Encoding:
    if call.type not in (Call.SUBSCRIBE, Call.RECONCILE_OPERATIONS):
        return Encoding.PROTOBUF
    accepted = [item.split(";")[0].strip() for item in fields.get("accept", "*/*").split(",")]
    if any(item in ("*/*", "application/*", "application/json") for item in accepted):
        return Encoding.JSON
    if Encoding.PROTOBUF.content_type in accepted:
        return Encoding.PROTOBUF
    raise Refused(406, "Expecting 'Accept' to allow application/json or application/x-protobuf")
