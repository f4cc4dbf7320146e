"""A listener in front of an agent that passes bytes on and keeps what the executor sent, undeciphered."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

HANDSHAKE, APPLICATION_DATA = 22, 23
_RECORD_TYPES = {20, 21, HANDSHAKE, APPLICATION_DATA}
_MAX_RECORD = 16384 + 256
_SERVER_NAME, _SUPPORTED_GROUPS = 0, 10


@dataclass
class Tap:
    """`port`: where it listens; `sent`: for each connection, in order, what came from its client."""

    port: int
    sent: list[bytearray] = field(default_factory=list)

    @property
    def everything(self) -> bytes:
        return b"".join(bytes(one) for one in self.sent)


@contextmanager
def tapped(where: tuple[str, int], target: tuple[str, int]) -> Iterator[Tap]:
    """Listen at `where` (port 0: any) for what is meant for `target`."""
    listener = socket.create_server(where, backlog=64)
    tap = Tap(listener.getsockname()[1])
    open_: list[socket.socket] = []

    def copy(source: socket.socket, sink: socket.socket, kept: bytearray | None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if kept is not None:
                    kept += data
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                open_.append(client)
                kept = bytearray()
                tap.sent.append(kept)
                try:
                    server = socket.create_connection(target)
                except OSError:
                    client.close()
                    continue
                open_.append(server)
                for pair in ((client, server, kept), (server, client, None)):
                    threading.Thread(target=copy, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield tap
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for one in open_:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def records(data: bytes) -> list[tuple[int, bytes]]:
    """Type and content of each TLS record (RFC 8446 5.1); the last may be cut short. Raises AssertionError
    where the bytes are no TLS.
    """
    found = []
    while data:
        assert data[0] in _RECORD_TYPES, f"no TLS record: {data[:40]!r}"
        if len(data) < 5:
            break
        version, length = struct.unpack("!HH", data[1:5])
        assert 0x0301 <= version <= 0x0304, f"no TLS record: {data[:40]!r}"
        assert length <= _MAX_RECORD, f"no TLS record: {data[:40]!r}"
        found.append((data[0], data[5 : 5 + length]))
        data = data[5 + length :]
    return found


@dataclass(frozen=True, slots=True)
class Hello:
    """What a ClientHello offers: the server's name, if any, and the groups for the key exchange."""

    name: str | None
    groups: tuple[int, ...]


def hello(data: bytes) -> Hello:
    """The ClientHello that a connection begins with (RFC 8446 4.1.2, RFC 6066 3)."""
    kind, content = records(data)[0]
    assert (kind, content[0]) == (HANDSHAKE, 1), "no ClientHello"
    at = 4 + 2 + 32
    at += 1 + content[at]
    at += 2 + int.from_bytes(content[at : at + 2], "big")
    at += 1 + content[at]
    at += 2
    name, groups = None, ()
    while at + 4 <= len(content):
        extension, length = struct.unpack("!HH", content[at : at + 4])
        body = content[at + 4 : at + 4 + length]
        if extension == _SERVER_NAME:
            name = body[5:].decode()
        elif extension == _SUPPORTED_GROUPS:
            groups = struct.unpack(f"!{len(body) // 2 - 1}H", body[2:])
        at += 4 + length
    return Hello(name, groups)
