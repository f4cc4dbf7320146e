"""What launcher and service say to each other; packaging/launcher/launcher.c is the other end.

    launcher                                   service
       | ---- head, strings, stdin ------------>  |   with one or two descriptors (SCM_RIGHTS)
       | <--- TAKEN or REFUSED -----------------  |   before the first change
       | <--- head, stdout, stderr -------------  |

The launcher does a refused or lost call itself, so a service may refuse, or die, whenever it must. Once it
has said TAKEN the call is in its name: the launcher then waits, and on a lost connection repeats the call
under the same MESOKIT_CALL id, by which the attachment record tells a repetition from a second ADD.

People and scrapers speak HTTP on the same socket ("GET /metrics"), a successor says HANDOVER.
"""

from __future__ import annotations

import os
import socket
import struct
from array import array
from dataclasses import dataclass

MAGIC = 0x314B534D  # "MSK1", little endian
TAKEN = b"A"
REFUSED = b"R"
HANDOVER = b"HANDOVER"

_REQUEST = struct.Struct("=IIIIQQ")  # magic, bytes of strings, bytes of stdin, flags, device and inode of "/"
_REPLY = struct.Struct("=IiII")  # magic, exit status, bytes of stdout, bytes of stderr
_HAS_NETNS = 1
_MAX_STRINGS = 1 << 20
_MAX_STDIN = 16 << 20
_FIRST_READ = 65536


class WireError(Exception):
    """The other side does not speak this protocol, or left in mid-sentence."""


@dataclass(frozen=True, slots=True)
class Call:
    """A plugin call as it arrived. The descriptors are the receiver's to close."""

    plugin: str
    env: dict[str, str]
    stdin: bytes
    root: tuple[int, int]
    host_netns: int
    netns: int | None

    def close(self) -> None:
        os.close(self.host_netns)
        if self.netns is not None:
            os.close(self.netns)


@dataclass(frozen=True, slots=True)
class Query:
    """Anything that is no plugin call: the first bytes, to be read as an HTTP request or HANDOVER."""

    text: bytes


def receive_descriptors(
    connection: socket.socket, size: int, count: int, flags: int = 0
) -> tuple[bytes, list[int]]:
    """Data and up to `count` descriptors, which are the caller's to close. OSError.

    socket.recv_fds leaves its flags out (CPython 3.11), so that descriptors would reach every program that
    is run.
    """
    room = socket.CMSG_LEN(count * array("i").itemsize)
    data, ancillary, _, _ = connection.recvmsg(size, room, flags | socket.MSG_CMSG_CLOEXEC)
    descriptors = array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    return data, list(descriptors)


def receive(connection: socket.socket) -> Call | Query:
    """The first message of a connection. Raises WireError, or OSError (a time-out included)."""
    data, descriptors = receive_descriptors(connection, _FIRST_READ, 2)
    try:
        if len(data) < _REQUEST.size or int.from_bytes(data[:4], "little") != MAGIC:
            if descriptors or not data:
                raise WireError(f"neither a plugin call nor a query: {data[:16]!r}")
            return Query(data)
        _magic, strings, stdin, flags, device, inode = _REQUEST.unpack_from(data)
        if strings > _MAX_STRINGS or stdin > _MAX_STDIN or len(descriptors) != 1 + (flags & _HAS_NETNS):
            raise WireError(f"bad lengths: {strings}, {stdin}, {len(descriptors)} descriptors")
        body = _rest(connection, data, _REQUEST.size + strings + stdin)
        plugin, *variables = os.fsdecode(body[_REQUEST.size : _REQUEST.size + strings]).split("\0")[:-1]
        call = Call(
            plugin,
            dict(variable.partition("=")[::2] for variable in variables),
            body[_REQUEST.size + strings :],
            (device, inode),
            descriptors[0],
            descriptors[1] if len(descriptors) > 1 else None,
        )
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise
    return call


def _rest(connection: socket.socket, data: bytes, total: int) -> bytes:
    if len(data) == total:
        return data
    if len(data) > total:
        raise WireError("more bytes than announced")
    whole = bytearray(data)
    while len(whole) < total:
        chunk = connection.recv(min(total - len(whole), 1 << 20))
        if not chunk:
            raise WireError(f"ended after {len(whole)} of {total} bytes")
        whole += chunk
    return bytes(whole)


def reply(status: int, stdout: bytes, stderr: bytes) -> bytes:
    """The answer to a plugin call, as one message."""
    return _REPLY.pack(MAGIC, status, len(stdout), len(stderr)) + stdout + stderr
