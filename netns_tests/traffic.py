"""Talks over TCP and UDP between namespaces: a server that answers with the address its peer comes from,
and a client.

Run as a program inside a namespace (`python -I -S traffic.py serve|ask tcp|udp HOST PORT`), used through
`server` and `ask`.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from netns_tests.node import Netns, Node

PROGRAM = ["/usr/bin/python3", "-I", "-S", "-B", __file__]


@contextmanager
def server(where: Netns | Node, protocol: str, port: int) -> Iterator[None]:
    """Serves on `port`, both families, while the block runs; ready when entered."""
    running = where.popen([*PROGRAM, "serve", protocol, "::", str(port)])
    try:
        while b"ready" not in running.output():
            time.sleep(0.005)
        yield
    finally:
        running.kill()
        running.wait()


def ask(where: Netns | Node, protocol: str, host: str, port: int, seconds: float = 3) -> str | None:
    """The address that a `server` reached at host:port saw the question coming from; None if none answers."""
    argv = [*PROGRAM, "ask", protocol, host, str(port), str(seconds)]
    finished = where.run(argv, check=False)
    return finished.text.strip() if finished.status == 0 else None


def _peer(address: tuple[str, int]) -> bytes:
    return address[0].removeprefix("::ffff:").encode()


def _serve(protocol: str, port: int) -> None:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    listener = socket.socket(socket.AF_INET6, kind)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("::", port))
    if protocol == "tcp":
        listener.listen(16)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        if protocol == "tcp":
            stream, address = listener.accept()
            with stream:
                stream.sendall(_peer(address[:2]))
        else:
            _, address = listener.recvfrom(100)
            listener.sendto(_peer(address[:2]), address)


def _ask(protocol: str, host: str, port: int, seconds: float) -> int:
    deadline = time.monotonic() + seconds
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while time.monotonic() < deadline:
        with socket.socket(family, kind) as stream:
            stream.settimeout(min(1, seconds))
            try:
                stream.connect((host, port))
                if protocol == "udp":
                    stream.send(b"who")
                answer = stream.recv(100)
            except OSError:
                time.sleep(0.05)
                continue
            sys.stdout.write(answer.decode())
            return 0
    return 1


def main() -> None:
    match sys.argv[1:]:
        case ["serve", protocol, _, port]:
            _serve(protocol, int(port))
        case ["ask", protocol, host, port, seconds]:
            sys.exit(_ask(protocol, host, int(port), float(seconds)))


if __name__ == "__main__":
    main()
