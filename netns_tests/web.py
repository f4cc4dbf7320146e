"""`mesokit web` in a node, and questions to it as bytes."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from netns_tests.node import Node, NodeError, Running, started, until
from netns_tests.plugins import MESOKIT

SOCKET = "/run/web.sock"
_LONGEST = 30.0  # seconds


@dataclass(frozen=True, slots=True)
class Reply:
    """Names of fields are in lower case."""

    status: int
    fields: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Web:
    """`link` is what it printed: a URL whose fragment is the token, or a path."""

    node: Node
    link: str
    running: Running

    @property
    def port(self) -> int:
        return int(self.link.split("/")[2].rpartition(":")[2])

    @property
    def base(self) -> str:
        """The path of the page."""
        return "/" if self.link == SOCKET else "/" + self.link.partition("#")[0].split("/", 3)[3]

    @property
    def token(self) -> str:
        return self.link.partition("#")[2]

    def ask(self, path: str, method: str = "GET", **fields: str) -> Reply:
        """One request for a path below the page's. `fields` have "_" for "-"; Host is as a browser's unless
        it is given, and so is the token.
        """
        given = {name.replace("_", "-").lower(): value for name, value in fields.items()}
        over_tcp = self.link != SOCKET
        own = {"host": f"127.0.0.1:{self.port}" if over_tcp else "localhost", "connection": "close"}
        if over_tcp and "cookie" not in given:
            own["authorization"] = f"Bearer {self.token}"
        sent = request(method, self.base + path, own | given)
        if over_tcp:
            told = self.node.run(["busybox", "nc", "127.0.0.1", str(self.port)], input=sent).stdout
        else:
            with self.connected() as connection:
                connection.sendall(sent)
                told = b"".join(iter(lambda: connection.recv(65536), b""))
        return reply(told)

    def connected(self) -> socket.socket:
        """A connection to the Unix socket."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(_LONGEST)
        connection.connect(str(self.node.path(SOCKET)))
        return connection

    @contextmanager
    def stream(self, query: str = "") -> Iterator[Iterator[tuple[str, Any]]]:
        """The events as they come: kind and body."""
        with self.connected() as connection:
            connection.sendall(request("GET", f"/v1/events{query}", {"host": "localhost"}))
            yield _events(connection)


def request(method: str, target: str, fields: Mapping[str, str]) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items() if value)]
    return "\r\n".join([*lines, "", ""]).encode()


def reply(told: bytes) -> Reply:
    """An answer with a length."""
    head, _, body = told.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    if not first:
        raise NodeError("the connection was closed without an answer")
    pairs = (line.partition(": ") for line in lines)
    return Reply(int(first.split()[1]), {name.lower(): value for name, _, value in pairs}, body)


def _events(connection: socket.socket) -> Iterator[tuple[str, Any]]:
    with connection.makefile("rb") as file:
        kind = ""
        for line in file:
            if line.startswith(b"event: "):
                kind = line[7:].decode().strip()
            elif line.startswith(b"data: "):
                yield kind, json.loads(line[6:])


@contextmanager
def web(node: Node, *words: str, user: Sequence[str] = (), program: str = MESOKIT) -> Iterator[Web]:
    """The server, while the block runs; on a Unix socket unless `words` say otherwise."""
    words = words or ("--socket", SOCKET)
    with started(node.popen([*user, program, "web", *words])) as running:
        until(lambda: running.ended() or b"\n" in running.output(), what="mesokit web listens")
        if running.ended():
            raise NodeError(f"mesokit web did not start: {running.errors().decode(errors='replace')}")
        yield Web(node, running.output().decode().splitlines()[0], running)
