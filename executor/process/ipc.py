"""Messages between the executor and its warden: marshalled tuples with descriptors beside them, on a stream
socket.

Both ends are one program forked once, so marshal's format cannot differ between them. A stream and not a
packet socket, because a task's arguments and environment may have megabytes.
"""

import array
import marshal
import socket
import struct
from typing import Any

_HEADER = struct.Struct("=I")
_MAX_DESCRIPTORS = 8


def send(channel: socket.socket, message: tuple[Any, ...], descriptors: list[int] | None = None) -> None:
    """Send one message; raises OSError when the other end is gone."""
    body = marshal.dumps(message)
    ancillary = []
    if descriptors:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    channel.sendmsg([_HEADER.pack(len(body))], ancillary)
    channel.sendall(body)


def receive(channel: socket.socket) -> tuple[tuple[Any, ...], list[int]] | None:
    """Receive one message and its descriptors (the caller owns them); None when the other end is gone."""
    descriptors = array.array("i")
    try:
        header, ancillary, _, _ = channel.recvmsg(
            _HEADER.size, socket.CMSG_SPACE(_MAX_DESCRIPTORS * descriptors.itemsize), socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
        header += _exactly(channel, _HEADER.size - len(header)) if header else b""
        if not header:
            return None
        body = _exactly(channel, _HEADER.unpack(header)[0])
    except (ConnectionError, EOFError):
        return None
    return marshal.loads(body), list(descriptors)


def _exactly(channel: socket.socket, size: int) -> bytes:
    body = bytearray()
    while len(body) < size:
        chunk = channel.recv(size - len(body))
        if not chunk:
            raise EOFError
        body += chunk
    return bytes(body)
