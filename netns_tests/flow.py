"""A flow across a change: an ICMP echo request every 10 ms, and a TCP connection that is never idle.

Run in namespaces: `flow.py serve PORT` answers what it reads, for ever; `flow.py across HOST PORT SECONDS`
prints, as JSON, how many requests were sent and how many not answered, how many bytes went through the
connection and how often a segment of it had to be sent again. `flow.py pings HOST…` sends requests to each
host until it is killed; at SIGUSR1 it prints a line of JSON of those since the last one: sent, and not
answered within a second.
"""

from __future__ import annotations

import json
import select
import signal
import socket
import struct
import sys
import threading
import time
from contextlib import suppress

PROGRAM = ["/usr/bin/python3", "-I", "-S", "-B", __file__]
_RETRANSMITS = struct.Struct("=100xI")  # tcpi_total_retrans of linux/tcp.h


def serve(port: int) -> None:
    listener = socket.create_server(("", port), backlog=8)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        stream, _ = listener.accept()
        threading.Thread(target=_echo, args=(stream,), daemon=True).start()


def _echo(stream: socket.socket) -> None:
    while data := stream.recv(65536):
        stream.sendall(data)


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def _request(number: int) -> bytes:
    head = struct.pack("!BBHHH", 8, 0, 0, 4711, number)
    return struct.pack("!BBHHH", 8, 0, _checksum(head), 4711, number)


def _pings(host: str, seconds: float) -> tuple[int, int]:
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    raw.connect((host, 0))
    sent, answered = 0, set()
    end = time.monotonic() + seconds
    step = time.monotonic()
    while step < end + 1:
        if step < end:
            sent += 1
            with suppress(OSError):  # no route: it counts as lost
                raw.send(_request(sent))
        step += 0.01
        while (left := step - time.monotonic()) > 0:
            if select.select([raw], [], [], left)[0]:
                packet = raw.recv(2048)
                kind, _, _, ident, number = struct.unpack_from("!BBHHH", packet, (packet[0] & 15) * 4)
                if kind == 0 and ident == 4711:
                    answered.add(number)
        if step >= end and len(answered) == sent:
            break
    return sent, sent - len(answered)


class _Target:
    """Requests to one host, by number."""

    def __init__(self, host: str) -> None:
        self._six = ":" in host
        family = socket.AF_INET6 if self._six else socket.AF_INET
        protocol = socket.getprotobyname("ipv6-icmp" if self._six else "icmp")
        self.socket = socket.socket(family, socket.SOCK_RAW, protocol)
        self.socket.setblocking(False)
        self.socket.connect((host, 0))
        self.sent: dict[int, float] = {}
        self.answered: set[int] = set()

    def ask(self) -> None:
        number = len(self.sent) + 1
        self.sent[number] = time.monotonic()
        packet = _request(number & 0xFFFF)
        with suppress(OSError):  # no route: it counts as lost
            self.socket.send(b"\x80" + packet[1:] if self._six else packet)

    def hear(self) -> None:
        packet = self.socket.recv(2048)
        head = 0 if self._six else (packet[0] & 15) * 4
        kind, _, _, ident, number = struct.unpack_from("!BBHHH", packet, head)
        if kind == (129 if self._six else 0) and ident == 4711:
            self.answered.add(number)

    def count(self, since: int) -> tuple[int, int, bool]:
        """Sent and lost of those after number `since`; whether nothing is on its way any more."""
        open_ = [number for number in self.sent if number > since and number not in self.answered]
        moment = time.monotonic() - 1
        return len(self.sent) - since, len(open_), all(self.sent[number] < moment for number in open_)


def pings(hosts: list[str]) -> None:
    targets = [_Target(host) for host in hosts]
    asked: list[int] = []
    signal.signal(signal.SIGUSR1, lambda *_: asked.append(1))
    counted = dict.fromkeys(targets, 0)
    step = time.monotonic()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        if not asked:
            for target in targets:
                target.ask()
        step += 0.01
        while (left := step - time.monotonic()) > 0:
            for ready in select.select([target.socket for target in targets], [], [], left)[0]:
                next(target for target in targets if target.socket is ready).hear()
        counts = [target.count(counted[target]) for target in targets]
        if asked and all(settled for _, _, settled in counts):
            asked.pop()
            told = {"sent": sum(sent for sent, _, _ in counts), "lost": sum(lost for _, lost, _ in counts)}
            counted = {target: len(target.sent) for target in targets}
            sys.stdout.write(json.dumps(told) + "\n")
            sys.stdout.flush()
            step = time.monotonic()


def _stream(host: str, port: int, seconds: float, told: dict[str, int]) -> None:
    with socket.create_connection((host, port), timeout=10) as stream:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            stream.sendall(b"x" * 16384)
            left = 16384
            while left:
                left -= len(stream.recv(left))
            told["bytes"] += 16384
        info = stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        told["retransmits"] = _RETRANSMITS.unpack_from(info)[0]


def across(host: str, port: int, seconds: float) -> None:
    told = {"bytes": 0, "retransmits": -1}
    other = threading.Thread(target=_stream, args=(host, port, seconds, told))
    other.start()
    sent, lost = _pings(host, seconds)
    other.join()
    sys.stdout.write(json.dumps({"sent": sent, "lost": lost, **told}))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    elif sys.argv[1] == "pings":
        pings(sys.argv[2:])
    else:
        across(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
