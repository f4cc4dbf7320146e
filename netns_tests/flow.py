"""A flow across a change: an ICMP echo request every 10 ms, and a TCP connection that is never idle.

Run in namespaces: `flow.py serve PORT` answers what it reads, for ever; `flow.py across HOST PORT SECONDS`
prints, as JSON, how many requests were sent and how many not answered, how many bytes went through the
connection and how often a segment of it had to be sent again.
"""

from __future__ import annotations

import json
import select
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
    else:
        across(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
