"""The executor API's one endpoint: calls are checked in an agent's order, and get its status codes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from mesos.v1 import mesos_pb2
from mesos.v1.executor import executor_pb2

from executor.local_agent.event_stream import EventStream
from executor.local_agent.executor_state import ExecutorState, ManagedExecutor
from executor.local_agent.http_server import Request, Response
from executor.local_agent.tokens import CHALLENGE, Claims, read_token
from executor.protocol import DecodeError, Encoding, decode_call

PATHS = ("/api/v1/executor", "/slave(1)/api/v1/executor")
Call = executor_pb2.Call


@dataclass(slots=True)
class ExecutorApi:
    """`executors` by (framework id, executor id); `key` signs their tokens, empty where none are asked.

    While `recovering` every call is answered 503, as by an agent that was just restarted.
    """

    executors: Mapping[tuple[str, str], ManagedExecutor]
    key: bytes
    chunk_size: int | None = None
    recovering: bool = False
    refused: list[str] = field(default_factory=list)

    def handle(self, request: Request) -> Response:
        """Answer one request; what was refused is also kept in `refused`."""
        try:
            return self._handle(request)
        except _RefusalError as refusal:
            return self._refuse(refusal)

    def admit(self, request: Request) -> Response | None:
        """The refusal of a request that is known by its head, whose body need not be read; None else."""
        try:
            self._judge(request)
            _encoding(request)
        except _RefusalError as refusal:
            return self._refuse(refusal)
        return None

    def _refuse(self, refusal: _RefusalError) -> Response:
        text = str(refusal)
        self.refused.append(f"{refusal.status.value} {text}")
        return Response(refusal.status, f"{text}\n".encode(), refusal.headers)

    def _judge(self, request: Request) -> Claims | None:
        """Whose token it is; None where none is asked for."""
        if request.path not in PATHS:
            raise _RefusalError(HTTPStatus.NOT_FOUND, f"no {request.path} here; executors call {PATHS[0]}")
        claims = self._authenticate(request)
        if self.recovering:
            raise _RefusalError(HTTPStatus.SERVICE_UNAVAILABLE, "Agent has not finished recovery")
        if request.method != "POST":
            allow = {"Allow": "POST"}
            raise _RefusalError(
                HTTPStatus.METHOD_NOT_ALLOWED, f"Expecting 'POST', received {request.method!r}", allow
            )
        return claims

    def _handle(self, request: Request) -> Response:
        claims = self._judge(request)
        call = _decode(request)
        if call.type == Call.HEARTBEAT:
            return Response(HTTPStatus.ACCEPTED)
        encoding = _event_encoding(request) if call.type == Call.SUBSCRIBE else None
        executor = self._find(call)
        own = Claims(call.framework_id.value, call.executor_id.value, executor.container)
        if claims is not None and claims != own:
            raise _RefusalError(HTTPStatus.FORBIDDEN, "the token is another executor's")
        if encoding is not None:
            stream = EventStream(encoding, self.chunk_size)
            executor.subscribe(stream, call.subscribe, request.transport)
            return Response(HTTPStatus.OK, stream.chunks(), {"Content-Type": encoding.content_type})
        if executor.state is ExecutorState.REGISTERING:
            raise _RefusalError(HTTPStatus.FORBIDDEN, "Executor is not subscribed")
        if call.type == Call.UPDATE:
            executor.update(call.update.status)
        else:
            executor.message(call.message.data)
        return Response(HTTPStatus.ACCEPTED)

    def _authenticate(self, request: Request) -> Claims | None:
        if not self.key:
            return None
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        claims = read_token(token, self.key) if scheme == "Bearer" else None
        if claims is None:
            raise _RefusalError(
                HTTPStatus.UNAUTHORIZED,
                "Authorization: expected 'Bearer' and the value of MESOS_EXECUTOR_AUTHENTICATION_TOKEN",
                {"WWW-Authenticate": CHALLENGE},
            )
        return claims

    def _find(self, call: executor_pb2.Call) -> ManagedExecutor:
        framework, name = call.framework_id.value, call.executor_id.value
        if not any(framework == known for known, _ in self.executors):
            raise _RefusalError(HTTPStatus.BAD_REQUEST, f"Framework {framework!r} cannot be found")
        executor = self.executors.get((framework, name))
        if executor is None:
            raise _RefusalError(HTTPStatus.BAD_REQUEST, f"Executor {name!r} cannot be found")
        return executor


class _RefusalError(Exception):
    def __init__(self, status: HTTPStatus, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers or {}


def _encoding(request: Request) -> Encoding:
    content_type = request.headers.get("content-type")
    if content_type is None:
        raise _RefusalError(HTTPStatus.BAD_REQUEST, "Expecting 'Content-Type' to be present")
    encoding = Encoding.of_content_type(content_type)
    if encoding is None:
        expected = " or ".join(encoding.content_type for encoding in Encoding)
        raise _RefusalError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"Content-Type {content_type!r}: expected {expected}"
        )
    return encoding


def _decode(request: Request) -> executor_pb2.Call:
    encoding = _encoding(request)
    try:
        call = decode_call(request.body, encoding)
    except DecodeError as error:
        raise _RefusalError(HTTPStatus.BAD_REQUEST, f"Failed to parse body: {error}") from None
    faults = list(_faults(call))
    if faults:
        raise _RefusalError(HTTPStatus.BAD_REQUEST, f"Failed to validate executor::Call: {faults[0]}")
    if call.type not in (Call.SUBSCRIBE, Call.UPDATE, Call.MESSAGE, Call.HEARTBEAT):
        raise _RefusalError(HTTPStatus.NOT_IMPLEMENTED, "type UNKNOWN is no call")
    return call


def _faults(call: executor_pb2.Call) -> Iterator[str]:
    if not call.HasField("type"):
        yield "Expecting 'type' to be present"
    elif call.type == Call.SUBSCRIBE and not call.HasField("subscribe"):
        yield "Expecting 'subscribe' to be present"
    elif call.type == Call.MESSAGE and not call.HasField("message"):
        yield "Expecting 'message' to be present"
    elif call.type == Call.UPDATE:
        if not call.HasField("update"):
            yield "Expecting 'update' to be present"
        else:
            yield from _status_faults(call.update.status, call.executor_id.value)


def _status_faults(status: mesos_pb2.TaskStatus, executor: str) -> Iterator[str]:
    if status.HasField("executor_id") and status.executor_id.value != executor:
        yield f"executor_id {status.executor_id.value!r} is not the caller's, {executor!r}"
    if not _is_uuid(status.uuid):
        yield "uuid must be the 16 bytes of a UUID"
    if status.source != mesos_pb2.TaskStatus.SOURCE_EXECUTOR or not status.HasField("source"):
        yield "Expecting 'source' to be SOURCE_EXECUTOR"
    if status.state == mesos_pb2.TASK_STAGING:
        yield "TASK_STAGING is not a state an executor may report"
    if status.HasField("check_status"):
        kind = status.check_status.type
        name = mesos_pb2.CheckInfo.Type.Name(kind).lower()
        if not status.check_status.HasField("type") or not kind:
            yield "Expecting 'check_status.type' to be present"
        elif name not in {descriptor.name for descriptor, _ in status.check_status.ListFields()}:
            yield f"Expecting 'check_status.{name}' to be present"


def _is_uuid(data: bytes) -> bool:
    """Sixteen bytes with the variant and a version (1 to 5) of RFC 4122."""
    return len(data) == 16 and data[8] >> 6 == 0b10 and 1 <= data[6] >> 4 <= 5


def _event_encoding(request: Request) -> Encoding:
    """JSON wins wherever it is acceptable at all, as on an agent."""
    accept = request.headers.get("accept", "*/*")
    for encoding in (Encoding.JSON, Encoding.PROTOBUF):
        if _accepts(accept, encoding.content_type):
            return encoding
    expected = " or ".join(encoding.content_type for encoding in Encoding)
    raise _RefusalError(HTTPStatus.NOT_ACCEPTABLE, f"Accept {accept!r}: expected {expected}")


def _accepts(accept: str, content_type: str) -> bool:
    for part in accept.split(","):
        media, *parameters = (word.strip() for word in part.split(";"))
        if media in (content_type, "application/*", "*/*"):
            return not any(
                word.replace(" ", "") in ("q=0", "q=0.0", "q=0.00", "q=0.000") for word in parameters
            )
    return False
