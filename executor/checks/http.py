"""HTTP and HTTPS checks in the process: a GET, redirects followed, the status code of the last answer.

What Mesos' built-in executors ask of `curl -s -S -L -k`: certificates are not verified, since a task checks
itself over the loopback under no name that a certificate could have. Only the head of an answer is read, as
curl reads it: a line that is no header field, or a length that is none, is passed over.
"""

from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

from mesos.v1 import mesos_pb2

from executor.checks import fields
from executor.checks.conversation import (
    Channel,
    SecureChannel,
    SocketProbe,
    Steps,
    Talk,
    Wait,
    connect,
    failure,
    reason,
)
from executor.checks.fields import InvalidCheckError
from executor.checks.result import Probe, Result
from executor.http1 import Answer, Budget, Client, HttpError
from executor.process.supervisor import Supervisor

_MAX_REDIRECTS = 20
_BUDGET = Budget(head=64 * 1024, fields=512, interim=16)
_SAFE = "%/:?#[]@!$&'()*+,;=~"
_REDIRECTS = (301, 302, 303, 307, 308)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_MAX_SHOWN = 200
"""Characters of a URL or an error in a result's text; a server may redirect to one of many thousands."""


@dataclass(frozen=True, slots=True)
class HttpCheck:
    """A question to the task."""

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def of_health(cls, field: str, message: mesos_pb2.HealthCheck.HTTPCheckInfo) -> "HttpCheck":
        """Read `field` of a health check. Raises InvalidCheckError."""
        scheme = message.scheme or "http"
        if scheme not in _DEFAULT_PORTS:
            raise InvalidCheckError(f"{field}.scheme is {scheme!r}: use http or https")
        path = fields.path(f"{field}.path", message.path)
        port = fields.port(f"{field}.port", message.port)
        return cls(scheme, fields.loopback(message.protocol), port, path)

    @classmethod
    def of_check(cls, field: str, message: mesos_pb2.CheckInfo.Http) -> "HttpCheck":
        """Read `field` of a check, which has neither scheme nor protocol to choose. Raises
        InvalidCheckError.
        """
        path = fields.path(f"{field}.path", message.path)
        return cls("http", "127.0.0.1", fields.port(f"{field}.port", message.port), path)

    def probe(self, _: Supervisor) -> Probe:
        """A new run."""
        return SocketProbe(lambda talk: http_steps(talk, self.scheme, self.host, self.port, self.path))

    def status(self, result: Result | None) -> mesos_pb2.CheckStatusInfo:
        """What a CheckInfo reports of a result, or of none."""
        status = mesos_pb2.CheckStatusInfo(type=mesos_pb2.CheckInfo.HTTP)
        status.http.SetInParent()
        if result is not None and result.http_status is not None:
            status.http.status_code = result.http_status
        return status


def http_steps(talk: Talk, scheme: str, host: str, port: int, path: str) -> Steps:
    """GET `path`, following redirects. Success is a last status from 200 to 399."""
    url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{path}"
    try:
        for _ in range(_MAX_REDIRECTS + 1):
            answer = yield from _get(talk, url)
            location = answer.fields.get("location")
            if answer.status not in _REDIRECTS or location is None:
                break
            url = urljoin(url, location.encode("latin-1").decode("utf-8", "surrogateescape"))
        else:
            return Result(False, f"GET {_shown(url)} was redirected more than {_MAX_REDIRECTS} times")
    except OSError as error:
        return failure(f"GET {_shown(url)} failed: {reason(error)}", error)
    except (HttpError, ValueError) as error:
        return Result(False, f"GET {_shown(url)} failed: {_shown(str(error))}")
    ok = 200 <= answer.status < 400
    return Result(ok, f"GET {_shown(url)} returned status {answer.status}", http_status=answer.status)


def _get(talk: Talk, url: str) -> Wait[Answer]:
    parts = urlsplit(url)
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise HttpError("redirected to what is neither http nor https")
    connection = yield from connect(talk, parts.hostname, parts.port or _DEFAULT_PORTS[parts.scheme])
    channel: Channel | SecureChannel = Channel(connection)
    if parts.scheme == "https":
        channel = yield from _secure(Channel(connection), parts.hostname)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    # Redirects come with blanks and letters of all kinds in them, as browsers and curl put up with.
    target = quote(target, safe=_SAFE, errors="surrogateescape")
    authority = quote(parts.netloc.rpartition("@")[2], safe=_SAFE, errors="surrogateescape")
    headers = [("Host", authority), ("User-Agent", "mesokit"), ("Accept", "*/*"), ("Connection", "close")]
    http = Client(_BUDGET, lenient=True)
    yield from channel.send(http.request("GET", target, headers))
    while not isinstance(answer := http.next(), Answer):
        http.receive((yield from channel.receive()))
    return answer


def _secure(channel: Channel, host: str) -> Wait[SecureChannel]:
    import ssl  # noqa: PLC0415 (only tasks with an https check pay for OpenSSL)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    secure = SecureChannel(channel, context, host)
    yield from secure.shake_hands()
    return secure


def _shown(text: str) -> str:
    """What a server had a part in, short and fit for a message of the API."""
    shown = text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
    return shown.encode("utf-8", "replace").decode()
