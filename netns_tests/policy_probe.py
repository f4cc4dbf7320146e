"""A program in a container: answer on every port of a list, or ask many others at once and say who answered.

python3 policy_probe.py serve 80,443
python3 policy_probe.py ask SECONDS < [["10.1.0.3", "tcp", 80], …]      -> [true, …]
"""

from __future__ import annotations

import errno
import json
import os
import selectors
import socket
import struct
import sys
import time


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def serve(ports: list[int]) -> None:
    """For ever: TCP by accepting, UDP by an echo from the address that was asked."""
    events = selectors.DefaultSelector()
    for family in (socket.AF_INET, socket.AF_INET6):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            for port in ports:
                listening = socket.socket(family, kind | socket.SOCK_NONBLOCK)
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listening.bind(("", port))
                if kind == socket.SOCK_STREAM:
                    listening.listen(100)
                events.register(listening, selectors.EVENT_READ)
    print("ready", flush=True)  # noqa: T201 - the parent waits for it
    while True:
        for key, _ in events.select():
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            try:
                if sock.type == socket.SOCK_STREAM:
                    sock.accept()[0].close()
                else:
                    data, peer = sock.recvfrom(100)
                    sock.sendto(data, peer)
            except OSError:
                continue


def _asking(address: str, protocol: str, port: int) -> socket.socket | None:
    family = _family(address)
    if protocol == "icmp":
        number = socket.IPPROTO_ICMP if family == socket.AF_INET else socket.IPPROTO_ICMPV6
        asking = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, number)
        if asking.connect_ex((address, 0)):
            return None
        kind = 8 if family == socket.AF_INET else 128
        body = struct.pack(">BBHHH", kind, 0, 0, os.getpid() & 0xFFFF, id(asking) >> 4 & 0xFFFF)
        total = sum(struct.unpack(">4H", body))
        total = (total & 0xFFFF) + (total >> 16)
        return _sent(asking, body[:2] + struct.pack(">H", ~total & 0xFFFF) + body[4:])
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    asking = socket.socket(family, kind | socket.SOCK_NONBLOCK)
    failed = asking.connect_ex((address, port)) not in (0, errno.EINPROGRESS)
    if failed:  # at once, such as without a route: SO_ERROR would say nothing of it
        return None
    return _sent(asking, b"x") if protocol == "udp" else asking


def _sent(asking: socket.socket, data: bytes) -> socket.socket | None:
    """None when it was refused at once, by the rules of this very namespace."""
    try:
        asking.send(data)
    except OSError:
        return None
    return asking


def ask(probes: list[tuple[str, str, int]], seconds: float) -> list[bool]:
    """Whether each was answered within so many seconds."""
    answered = [False] * len(probes)
    events = selectors.DefaultSelector()
    for number, probe in enumerate(probes):
        asking = _asking(*probe)
        if asking is not None:
            mask = selectors.EVENT_WRITE if probe[1] == "tcp" else selectors.EVENT_READ
            events.register(asking, mask, number)
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and events.get_map():
        for key, _ in events.select(left):
            sock, number = key.fileobj, key.data
            assert isinstance(sock, socket.socket)
            protocol = probes[number][1]
            if protocol == "tcp":
                answered[number] = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            else:
                try:
                    data = sock.recv(200)
                except OSError:
                    data = b""
                if protocol == "icmp" and not _is_reply(sock, data):
                    continue
                answered[number] = bool(data)
            events.unregister(sock)
    return answered


def _is_reply(sock: socket.socket, data: bytes) -> bool:
    four = sock.family == socket.AF_INET
    body = data[20:] if four else data
    return (
        len(body) >= 6
        and body[0] == (0 if four else 129)
        and body[4:6] == struct.pack(">H", os.getpid() & 0xFFFF)
    )


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve([int(port) for port in sys.argv[2].split(",")])
    probes = [tuple(item) for item in json.load(sys.stdin)]
    sys.stdout.write(json.dumps(ask(probes, float(sys.argv[2]))) + "\n")
