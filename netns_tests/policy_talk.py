"""An end of a stream of stamped records, one a millisecond: a program in a container (policy_streams.py).

python3 policy_talk.py serve tcp|udp PORT SENDS           one peer, who comes first
python3 policy_talk.py talk tcp|udp ADDRESS PORT SENDS

With SENDS 0 an end is silent (a UDP client says that it is there until it is answered). A record is its
number and CLOCK_MONOTONIC when it was sent, which is the clock of every process of the machine. Each end
prints what it has seen, `End`, every 10 ms.
"""

from __future__ import annotations

import errno
import json
import select
import socket
import struct
import sys
import time
from dataclasses import dataclass

_RECORD = struct.Struct(">QQ")
_RCVBUFFORCE = 33


@dataclass(slots=True)
class End:
    """`got` records have come, of which `gaps` numbers are missing; the latest was sent at `stamp`. `end`:
    reset or closed.
    """

    got: int = 0
    last: int = 0
    gaps: int = 0
    stamp: int = 0
    sent: int = 0
    end: str = ""


def _served(protocol: str, port: int) -> socket.socket:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    listening = socket.socket(socket.AF_INET6, kind)
    listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listening.bind(("::", port))
    if protocol == "tcp":
        listening.listen()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    if protocol == "tcp":
        return listening.accept()[0]
    _, peer = listening.recvfrom(100)
    listening.connect(peer)
    return listening


def _talking(protocol: str, address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    if protocol == "tcp":
        return socket.create_connection((address, port), 10)
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.connect((address, port))
    return sock


def _run(sock: socket.socket, protocol: str, *, sends: bool, hello: bool) -> None:
    seen, pending, partial, told, greeted = End(), b"", b"", 0.0, 0.0
    sock.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, 1 << 23)
    sock.setblocking(False)
    while not seen.end:
        now = time.monotonic()
        if sends and len(pending) < 1 << 12:
            seen.sent += 1
            pending += _RECORD.pack(seen.sent, time.monotonic_ns())
        elif hello and not seen.got and now - greeted > 0.02:
            pending, greeted = b"?", now
        try:
            if pending:
                pending = pending[sock.send(pending) :]
        except OSError as error:
            seen.end = _ended(error, protocol)
            pending = pending if protocol == "tcp" else b""
        try:
            while select.select([sock], [], [], 0)[0]:
                data = sock.recv(65536)
                if not data and protocol == "tcp":
                    seen.end = seen.end or "closed"
                    break
                partial = _count(seen, partial + data if protocol == "tcp" else data)
        except OSError as error:
            seen.end = seen.end or _ended(error, protocol)
        if now - told > 0.01 or seen.end:
            told = now
            sys.stdout.write(json.dumps({name: getattr(seen, name) for name in End.__slots__}) + "\n")
            sys.stdout.flush()
        time.sleep(0.001)


def _ended(error: OSError, protocol: str) -> str:
    """What an error means for the stream: what says that a datagram did not come is no end."""
    if protocol == "udp" or error.errno == errno.EAGAIN:
        return ""
    return "reset" if error.errno in (errno.ECONNRESET, errno.EPIPE) else error.strerror or "ended"


def _count(seen: End, data: bytes) -> bytes:
    """Take note of the records; what is left over."""
    whole = len(data) // _RECORD.size * _RECORD.size
    for number, stamp in _RECORD.iter_unpack(data[:whole]):
        if seen.got:
            seen.gaps += number - seen.last - 1
        seen.got, seen.last, seen.stamp = seen.got + 1, number, max(seen.stamp, stamp)
    return data[whole:]


def main() -> None:
    match sys.argv[1:]:
        case ["serve", protocol, port, sends]:
            _run(_served(protocol, int(port)), protocol, sends=sends == "1", hello=False)
        case ["talk", protocol, address, port, sends]:
            _run(
                _talking(protocol, address, int(port)), protocol, sends=sends == "1", hello=protocol == "udp"
            )


if __name__ == "__main__":
    main()
