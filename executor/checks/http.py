"""HTTP and HTTPS checks in the process: a GET, redirects followed, the status code of the last answer.

What Mesos' built-in executors ask of `curl -s -S -L -k`: certificates are not verified, since a task checks
itself over the loopback under no name that a certificate could have. Only the head of an answer is read.
"""

import socket
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

from executor.checks.conversation import Steps, Talk, Wait, connect, patiently, reason, receive, send
from executor.checks.result import Result
from executor.eventloop import READ

_MAX_REDIRECTS = 20
_MAX_HEAD = 256 * 1024
_SAFE = "%/:?#[]@!$&'()*+,;=~"
_REDIRECTS = (301, 302, 303, 307, 308)
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class _Head:
    status: int
    location: str | None


class _HttpError(Exception):
    """The server answers, but not in HTTP that we understand."""


def http_steps(talk: Talk, scheme: str, host: str, port: int, path: str) -> Steps:
    """GET `path`, following redirects. Success is a last status from 200 to 399."""
    url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{path}"
    try:
        for _ in range(_MAX_REDIRECTS + 1):
            head = yield from _get(talk, url)
            if head.status not in _REDIRECTS or head.location is None:
                break
            url = urljoin(url, head.location)
        else:
            return Result(False, f"GET {url} was redirected more than {_MAX_REDIRECTS} times")
    except OSError as error:
        return Result(False, f"GET {url} failed: {reason(error)}")
    except (_HttpError, ValueError) as error:
        return Result(False, f"GET {url} failed: {error}")
    ok = 200 <= head.status < 400
    return Result(ok, f"GET {url} returned status {head.status}", http_status=head.status)


def _get(talk: Talk, url: str) -> Wait[_Head]:
    parts = urlsplit(url)
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise _HttpError("redirected to what is neither http nor https")
    connection = yield from connect(talk, parts.hostname, parts.port or _DEFAULT_PORTS[parts.scheme])
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    # Redirects come with blanks and letters of all kinds in them, as browsers and curl put up with.
    target = quote(target, safe=_SAFE, errors="surrogateescape")
    authority = parts.netloc.rpartition("@")[2]
    request = (
        f"GET {target} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: mesokit\r\nAccept: */*\r\n"
        "Connection: close\r\n\r\n"
    ).encode("utf-8", "surrogateescape")
    if parts.scheme == "https":
        connection = yield from _secure(talk, connection, parts.hostname)
    yield from send(connection, request)
    return (yield from _read_head(connection))


def _read_head(connection: socket.socket) -> Wait[_Head]:
    data = b""
    while True:
        head, blank, rest = data.partition(b"\r\n\r\n")
        if blank:
            parsed = _parse(head)
            if parsed.status >= 200 or parsed.status == 101:
                return parsed
            data = rest  # an interim answer; the real one follows
            continue
        if len(data) > _MAX_HEAD:
            raise _HttpError(f"the head of the answer has more than {_MAX_HEAD} bytes")
        chunk = yield from receive(connection)
        if not chunk:
            raise _HttpError("the answer is cut off" if data else "the server hung up without an answer")
        data += chunk


def _parse(head: bytes) -> _Head:
    lines = head.decode("utf-8", "surrogateescape").split("\r\n")
    words = lines[0].split(None, 2)
    status = words[1] if len(words) > 1 and words[0].startswith("HTTP/1.") else ""
    if not (status.isdigit() and len(status) == 3):
        raise _HttpError(f"the answer is not HTTP/1: it starts with {lines[0][:60]!r}")
    location = None
    for line in lines[1:]:
        name, _, value = line.partition(":")
        if name.lower() == "location":
            location = value.strip()
    return _Head(int(status), location)


def _secure(talk: Talk, connection: socket.socket, host: str) -> Wait[socket.socket]:
    import ssl  # noqa: PLC0415 (only tasks with an https check pay for OpenSSL)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    talk.loop.unwatch(connection.fileno())
    secure = context.wrap_socket(connection, do_handshake_on_connect=False, server_hostname=host)
    talk.socket = secure
    yield from patiently(secure, READ, secure.do_handshake)
    return secure
