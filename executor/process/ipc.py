"""Messages between the executor and its warden: marshalled tuples with descriptors beside them, on a stream
socket.

Both ends are one program forked once, so marshal's format cannot differ between them. A stream and not a
packet socket, because a task's arguments and environment may have megabytes. Neither end ever waits for the
other: what cannot be sent now is kept and sent when the socket takes it, what has come in part is kept until
the rest is there.
"""

import array
import marshal
import os
import socket
import struct
from collections import deque

_HEADER = struct.Struct("=I")
_MAX_DESCRIPTORS = 8

TYPE_CHECKING = False  # as type checkers see it: the warden does without `typing`
if TYPE_CHECKING:
    from typing import Any

    Message = tuple[Any, ...]
else:
    Message = tuple


class Channel:
    """One end. `descriptor` is for a selector: readable when `receive` has something to do, and writable, as
    long as `sending`, when `flush` has.
    """

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self._socket = connected
        self._outgoing: deque[tuple[memoryview, list[int], bool]] = deque()
        self._head = bytearray()
        self._body = bytearray()
        self._missing: int | None = None
        """Bytes of the body that have not come; None while the header has not."""
        self._descriptors: list[int] = []

    @property
    def descriptor(self) -> int:
        """The socket's."""
        return self._socket.fileno()

    @property
    def sending(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._outgoing)

    def send(self, message: Message, descriptors: list[int] | None = None, *, give: bool = False) -> None:
        """Send a message, or keep it for `flush`. Its descriptors must stay open until it is gone; those that
        are given away are closed then. Raises OSError when the other end is gone.
        """
        body = marshal.dumps(message)
        # The descriptors travel with the header, whose first byte is never received without them.
        self._outgoing.append((memoryview(_HEADER.pack(len(body)) + body), descriptors or [], give))
        self.flush()

    def flush(self) -> None:
        """Send what the socket takes. Raises OSError when the other end is gone."""
        while self._outgoing:
            data, descriptors, give = self._outgoing[0]
            ancillary = []
            if descriptors:
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
            try:
                count = self._socket.sendmsg([data], ancillary)
            except BlockingIOError:
                return
            if give:
                for descriptor in descriptors:
                    os.close(descriptor)
            if count == len(data):
                self._outgoing.popleft()
            else:
                self._outgoing[0] = (data[count:], [], False)

    def receive(self) -> tuple[Message, list[int]] | None:
        """The next message and its descriptors, which are the caller's; None while it is not there as a
        whole. Raises EOFError when the other end is gone.
        """
        try:
            while len(self._head) < _HEADER.size:
                self._head += self._receive_head(_HEADER.size - len(self._head))
            if self._missing is None:
                self._missing = _HEADER.unpack(self._head)[0]
            while self._missing:
                self._body += self._some(self._socket.recv(min(self._missing, 1 << 20)))
                self._missing = _HEADER.unpack(self._head)[0] - len(self._body)
        except BlockingIOError:
            return None
        except ConnectionError:
            raise EOFError from None
        message, descriptors = marshal.loads(self._body), self._descriptors
        self._head, self._body, self._missing, self._descriptors = bytearray(), bytearray(), None, []
        return message, descriptors

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    def _receive_head(self, size: int) -> bytes:
        room = socket.CMSG_SPACE(_MAX_DESCRIPTORS * array.array("i").itemsize)
        data, ancillary, _, _ = self._socket.recvmsg(size, room, socket.MSG_CMSG_CLOEXEC)
        for level, kind, rights in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(rights[: len(rights) - len(rights) % numbers.itemsize])
                self._descriptors.extend(numbers)
        return self._some(data)

    def _some(self, data: bytes) -> bytes:
        if not data:
            raise EOFError
        return data
