"""A service in this process, and a launcher's side of the conversation, for the tests."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cni_plugins.node import listen, wire
from cni_plugins.node.metrics import Metrics
from cni_plugins.node.service import Handler, Service, Settings

REQUEST = struct.Struct("=IIIIQQ")
REPLY = struct.Struct("=IiII")


@contextmanager
def running(path: Path, handle: Handler, threads: int = 64) -> Iterator[Service]:
    listening, origin = listen.obtain(path, {})
    service = Service(listening, origin, Settings(handle, Metrics("1.2.3"), threads))
    service.start()
    try:
        yield service
    finally:
        service.stop()
        assert service.until_idle(60)
        listening.close()


def request(
    plugin: str,
    env: Mapping[str, str],
    stdin: bytes,
    *,
    root: tuple[int, int] | None = None,
    netns: bool = False,
) -> bytes:
    strings = b"".join(os.fsencode(text) + b"\0" for text in (plugin, *(f"{k}={v}" for k, v in env.items())))
    status = Path("/").stat()
    device, inode = root or (status.st_dev, status.st_ino)
    return REQUEST.pack(wire.MAGIC, len(strings), len(stdin), int(netns), device, inode) + strings + stdin


def connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(60)
    connection.connect(os.fspath(path))
    return connection


def send(connection: socket.socket, message: bytes, descriptors: int = 1) -> None:
    with Path("/proc/self/ns/net").open() as netns:
        sent = socket.send_fds(connection, [message], [netns.fileno()] * descriptors)
    if sent < len(message):
        connection.sendall(message[sent:])


def answer(connection: socket.socket) -> tuple[bytes, int, bytes, bytes]:
    """The first byte, status, stdout, stderr; ("", 0, "", "") from a connection that just closed."""
    with connection.makefile("rb") as stream:
        whole = stream.read()
    if len(whole) < 1 + REPLY.size:
        return whole, 0, b"", b""
    magic, status, output, errors = REPLY.unpack_from(whole, 1)
    assert magic == wire.MAGIC
    body = whole[1 + REPLY.size :]
    assert len(body) == output + errors
    return whole[:1], status, body[:output], body[output:]
