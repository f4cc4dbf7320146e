"""What launcher and service say to each other; packaging/launcher/launcher.c is the other end.

    launcher                                   service
       | ---- head, strings, stdin ------------>  |   with one or two descriptors (SCM_RIGHTS)
       | <--- TAKEN or REFUSED -----------------  |   before the first change
       | <--- head, stdout, stderr -------------  |

The launcher does a refused or lost call itself, so a service may refuse, or die, whenever it must. A caller
that sees another file system (another root directory, another mount namespace) is refused: the same path
would be another file there. The namespaces are let go before the reply: a runtime may unmount the
container's as soon as it has it.

Once the service has said TAKEN the call is in its name: the launcher then waits, and on a lost connection
repeats the call under the same MESOKIT_CALL id, by which the attachment record tells a repetition from a
second ADD.

People and scrapers speak HTTP on the same socket ("GET /metrics"), a successor says HANDOVER.
"""

from __future__ import annotations

import os
import socket
import struct
from array import array
from dataclasses import dataclass
from pathlib import Path

MAGIC = 0x324B534D  # "MSK2", little endian
TAKEN = b"A"
REFUSED = b"R"
HANDOVER = b"HANDOVER"
QUERY = b"?"  # from a worker to the supervisor, before the first bytes of a query

# Magic, bytes of strings, bytes of stdin, flags, device and inode of "/" and of the mount namespace.
REQUEST = struct.Struct("=IIIIQQQQ")
REPLY = struct.Struct("=IiII")  # magic, exit status, bytes of stdout, bytes of stderr
_HAS_NETNS = 1
_MAX_STRINGS = 1 << 20
_MAX_STDIN = 16 << 20
_MAX_NAME = 255  # bytes; a plugin is a file
_FIRST_READ = 65536
_LATER_READ = 1 << 20
_MAGIC_BYTES = MAGIC.to_bytes(4, "little")


class WireError(Exception):
    """The other side does not speak this protocol, or left in mid-sentence."""


@dataclass(frozen=True, slots=True)
class View:
    """What a process sees as the file system: device and inode of its root directory and of its mount
    namespace. Equal views give every path the same meaning.
    """

    root: tuple[int, int]
    mounts: tuple[int, int]


def own_view() -> View:
    """Of this process. OSError without /proc."""
    root, mounts = Path("/").stat(), Path("/proc/self/ns/mnt").stat()
    return View((root.st_dev, root.st_ino), (mounts.st_dev, mounts.st_ino))


@dataclass(slots=True)
class Call:
    """A plugin call as it arrived. The descriptors are the receiver's to close."""

    plugin: str
    env: dict[str, str]
    stdin: bytes
    view: View
    host_netns: int
    netns: int | None

    def close(self) -> None:
        """Let the namespaces go; a second time does nothing."""
        descriptors = (self.host_netns, -1 if self.netns is None else self.netns)
        self.host_netns = self.netns = -1
        for descriptor in descriptors:
            if descriptor >= 0:
                os.close(descriptor)


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


class Incoming:
    """The first message of a connection, as far as it has come. Nothing here waits."""

    __slots__ = ("_data", "_descriptors", "_total", "connection")

    def __init__(self, connection: socket.socket) -> None:
        """`connection` is closed with this object."""
        self.connection = connection
        self._data = bytearray()
        self._descriptors: list[int] = []
        self._total = 0  # bytes of the whole message, once its head is known

    def close(self) -> None:
        """Close the connection, and the descriptors of a message that did not become whole."""
        self.connection.close()
        descriptors, self._descriptors = self._descriptors, []
        for descriptor in descriptors:
            os.close(descriptor)

    def receive(self) -> Call | Query | None:
        """Take what is there; the message if it is whole now. Raises WireError, OSError."""
        try:
            while True:
                if not self._data:
                    chunk, self._descriptors = receive_descriptors(
                        self.connection, _FIRST_READ, 2, socket.MSG_DONTWAIT
                    )
                else:
                    wanted = min(max(self._total - len(self._data), REQUEST.size), _LATER_READ)
                    chunk = self.connection.recv(wanted, socket.MSG_DONTWAIT)
                if not chunk:
                    raise WireError(f"ended after {len(self._data)} bytes")
                self._data += chunk
                if (message := self._whole()) is not None:
                    return message
        except BlockingIOError:
            return None

    def _whole(self) -> Call | Query | None:
        data = self._data
        if not _MAGIC_BYTES.startswith(data[:4]):
            if self._descriptors:
                raise WireError(f"neither a plugin call nor a query: {bytes(data[:16])!r}")
            return Query(bytes(data))
        if len(data) < REQUEST.size:
            return None
        _magic, strings, stdin, flags, *view = REQUEST.unpack_from(data)
        if strings > _MAX_STRINGS or stdin > _MAX_STDIN or len(self._descriptors) != 1 + (flags & _HAS_NETNS):
            raise WireError(f"bad lengths: {strings}, {stdin}, {len(self._descriptors)} descriptors")
        self._total = REQUEST.size + strings + stdin
        if len(data) < self._total:
            return None
        if len(data) > self._total:
            raise WireError("more bytes than announced")
        end = REQUEST.size + strings
        name, *variables = bytes(data[REQUEST.size : end]).split(b"\0")[:-1] or [b""]
        if not 0 < len(name) <= _MAX_NAME:
            raise WireError(f"a plugin name of {len(name)} bytes")
        host_netns, netns = (*self._descriptors, None)[:2]
        assert host_netns is not None
        self._descriptors = []
        return Call(
            os.fsdecode(name),
            dict(os.fsdecode(variable).partition("=")[::2] for variable in variables),
            bytes(data[end:]),
            View((view[0], view[1]), (view[2], view[3])),
            host_netns,
            netns,
        )


def reply(status: int, stdout: bytes, stderr: bytes) -> bytes:
    """The answer to a plugin call, as one message."""
    return REPLY.pack(MAGIC, status, len(stdout), len(stderr)) + stdout + stderr
