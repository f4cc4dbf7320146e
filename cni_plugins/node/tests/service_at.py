"""A service in this process, and a launcher's side of the conversation, for the tests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cni_plugins.node import ask, listen, wire
from cni_plugins.node.service import Handler, Service, Settings
from cni_plugins.node.wire import REPLY, REQUEST
from cni_plugins.store.failures import Failure


@dataclass
class Told:
    """What a journal was told."""

    running: int = 0
    refused: int = 0
    calls: list[tuple[str, str, int]] = field(default_factory=list)
    queries: list[bytes] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self) -> None:
        with self._lock:
            self.running += 1

    def end(self, plugin: str, verb: str, seconds: float, code: int) -> None:
        assert seconds >= 0
        with self._lock:
            self.running -= 1
            self.calls.append((plugin, verb, code))

    def refuse(self) -> None:
        self.refused += 1

    def ask(self, connection: socket.socket, question: bytes) -> None:
        self.queries.append(question)
        connection.sendall(b"an answer")


@dataclass
class Running:
    service: Service
    told: Told


@contextmanager
def running(path: Path, handle: Handler, threads: int = 64) -> Iterator[Running]:
    """A worker's service in this process."""
    listening, _ = listen.obtain(path, {})
    told = Told()
    service = Service(listening, Settings(handle, told, told.ask, told.failures.append, threads))
    service.start()
    try:
        yield Running(service, told)
    finally:
        service.stop()
        service.until_deaf()
        assert service.until_idle(60)
        listening.close()


@contextmanager
def kept(
    root: Path, *, workers: int = 2, version: str = "1.2.3", end_seconds: float = 60, rest_seconds: float = 60
) -> Iterator[subprocess.Popen[bytes]]:
    """The whole service, supervisor and workers, below `root`; kept_service.py tells what its plugins do."""
    argv = [
        sys.executable,
        "-m",
        "cni_plugins.node.tests.kept_service",
        str(workers),
        version,
        str(end_seconds),
        str(rest_seconds),
    ]
    top = Path(__file__).resolve().parents[3]
    env = {**os.environ, "MESOKIT_ROOT": os.fspath(root), "PYTHONPATH": f"{top}:{top / 'proto'}"}
    process = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL)
    end = time.monotonic() + 60
    try:
        while keeper_of(root / "run/mesokit/node.sock") != process.pid:
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
        yield process
    finally:
        process.terminate()
        process.wait()


def keeper_of(path: Path) -> int:
    """The process that answers for the service there, 0 if none does."""
    try:
        return int(ask.status(path)["pid"])
    except (OSError, ask.NotRunning, ValueError):
        return 0


def request(
    plugin: str,
    env: Mapping[str, str],
    stdin: bytes,
    *,
    root: tuple[int, int] | None = None,
    mounts: tuple[int, int] | None = None,
    netns: bool = False,
) -> bytes:
    strings = b"".join(os.fsencode(text) + b"\0" for text in (plugin, *(f"{k}={v}" for k, v in env.items())))
    view = wire.own_view()
    seen = (*(root or view.root), *(mounts or view.mounts))
    return REQUEST.pack(wire.MAGIC, len(strings), len(stdin), int(netns), *seen) + strings + stdin


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
