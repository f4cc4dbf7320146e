"""A method call on the system bus, for what has no other door (firewalld): strings in, a string or a boolean
out.

Source: the D-Bus specification, "Message Protocol" and "Authentication Protocol".
"""

import os
import socket
import struct
from dataclasses import dataclass
from types import TracebackType

from cni_plugins.spec.deadline import Deadline

SOCKET = "/run/dbus/system_bus_socket"
_CALL, _ERROR = 1, 3
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _DESTINATION, _SIGNATURE = 1, 2, 3, 4, 5, 6, 8
_LARGEST = 1 << 20


class BusError(Exception):
    """The bus or the service answered with an error, of D-Bus' `name`; "" where there is no bus."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


def _padded(raw: bytes, size: int) -> bytes:
    return raw + bytes(-len(raw) % size)


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<I", len(raw)) + raw + b"\0"


def _field(code: int, kind: bytes, value: bytes) -> bytes:
    return bytes((code, 1)) + kind + b"\0" + value


@dataclass(frozen=True, slots=True)
class Method:
    """Whose method, on which object, of which interface."""

    destination: str
    path: str
    interface: str
    member: str


_BUS = "org.freedesktop.DBus"


def bus_method(member: str) -> Method:
    """A method of the bus itself."""
    return Method(_BUS, "/org/freedesktop/DBus", _BUS, member)


def message(serial: int, method: Method, arguments: tuple[str, ...]) -> bytes:
    """A method call with string arguments, little-endian."""
    body = b""
    for item in arguments:
        body = _padded(body, 4) + _string(item)
    fields = [
        _field(_PATH, b"o", _string(method.path)),
        _field(_INTERFACE, b"s", _string(method.interface)),
        _field(_MEMBER, b"s", _string(method.member)),
        _field(_DESTINATION, b"s", _string(method.destination)),
    ]
    if arguments:
        fields.append(_field(_SIGNATURE, b"g", bytes((len(arguments),)) + b"s" * len(arguments) + b"\0"))
    listed = b""
    for field in fields:
        listed = _padded(listed, 8) + field
    head = struct.pack("<cBBBIII", b"l", _CALL, 0, 1, len(body), serial, len(listed))
    return _padded(head + listed, 8) + body


class Bus:
    """A connection to the system bus. BusError when there is none, or it does not answer in time."""

    def __init__(self, deadline: Deadline, address: str = "") -> None:
        self._deadline = deadline
        self._serial = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._wait()
            self._socket.connect(_path(address))
            self._socket.sendall(b"\0AUTH EXTERNAL %s\r\n" % str(os.geteuid()).encode().hex().encode())
            if not self._line().startswith(b"OK "):
                raise BusError("", "the system bus does not let root in")
            self._socket.sendall(b"BEGIN\r\n")
            self.call(bus_method("Hello"))
        except OSError as error:
            self._socket.close()
            raise BusError("", f"the system bus does not answer: {error}") from error
        except BusError:
            self._socket.close()
            raise

    def __enter__(self) -> "Bus":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def call(self, method: Method, *arguments: str) -> str | bool:
        """A method's first result: a string or a boolean, "" for none. BusError."""
        self._serial += 1
        serial = self._serial
        try:
            self._wait()
            self._socket.sendall(message(serial, method, arguments))
            while True:
                kind, fields, body = self._receive()
                if fields.get(_REPLY_SERIAL) == serial:
                    break
        except OSError as error:
            raise BusError("", f"{method.destination} does not answer: {error}") from error
        signature = str(fields.get(_SIGNATURE, ""))
        if kind == _ERROR:
            text = _read_string(body, 0)[0] if signature.startswith("s") else ""
            raise BusError(str(fields.get(_ERROR_NAME, "")), text)
        if signature.startswith("b"):
            return bool(struct.unpack_from("<I", body)[0])
        return _read_string(body, 0)[0] if signature.startswith("s") else ""

    def _wait(self) -> None:
        self._socket.settimeout(max(0.001, self._deadline.remaining()))

    def _line(self) -> bytes:
        line = b""
        while not line.endswith(b"\r\n"):
            self._wait()
            more = self._socket.recv(1)
            if not more or len(line) > 1000:
                raise OSError("it hung up")
            line += more
        return line

    def _exactly(self, size: int) -> bytes:
        if size > _LARGEST:
            raise OSError("a message too large")
        raw = b""
        while len(raw) < size:
            self._wait()
            more = self._socket.recv(size - len(raw))
            if not more:
                raise OSError("it hung up")
            raw += more
        return raw

    def _receive(self) -> tuple[int, dict[int, str | int], bytes]:
        head = self._exactly(16)
        if head[:1] != b"l":
            raise OSError("an answer of the other byte order")
        length, _, listed = struct.unpack_from("<III", head, 4)
        fields = _fields(self._exactly(listed + -listed % 8)[:listed])
        return head[1], fields, self._exactly(length)


def _path(address: str) -> str:
    """The socket that DBUS_SYSTEM_BUS_ADDRESS names: its first `unix:path=` or `unix:abstract=`."""
    for item in address.split(";"):
        for part in item.removeprefix("unix:").split(","):
            key, _, value = part.partition("=")
            if item.startswith("unix:") and key in ("path", "abstract"):
                return value if key == "path" else f"\0{value}"
    return SOCKET


def _read_string(raw: bytes, offset: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<I", raw, offset)
    start = offset + 4
    return raw[start : start + length].decode("utf-8", "replace"), start + length + 1


def _fields(raw: bytes) -> dict[int, str | int]:
    """The header fields that have a string, a signature or a number."""
    found: dict[int, str | int] = {}
    offset = 0
    while offset + 4 <= len(raw):
        code, length = raw[offset], raw[offset + 1]
        kind = raw[offset + 2 : offset + 2 + length]
        offset += 3 + length
        if kind == b"g":
            size = raw[offset]
            found[code] = raw[offset + 1 : offset + 1 + size].decode("ascii", "replace")
            offset += size + 2
        elif kind == b"u":
            offset += -offset % 4
            found[code] = struct.unpack_from("<I", raw, offset)[0]
            offset += 4
        else:
            offset += -offset % 4
            found[code], offset = _read_string(raw, offset)
        offset += -offset % 8
    return found
