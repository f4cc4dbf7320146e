"""Streams of stamped records between two containers, and what their ends have seen (policy_talk.py)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from netns_tests.node import Netns, Running, started, until
from netns_tests.policy_talk import End

_PROGRAM = ["/usr/bin/python3", "-I", "-S", "-B", str(Path(__file__).with_name("policy_talk.py"))]


class Stream:
    """A server and its client, running."""

    def __init__(self, server: Running, client: Running, name: str) -> None:
        self._ends = {"server": server, "client": client}
        self.name = name

    def of(self, end: str) -> End:
        """`server` or `client`."""
        lines = self._ends[end].output().rpartition(b"\n")[0].splitlines()
        return End(**json.loads(lines[-1])) if lines and lines[-1] != b"ready" else End()

    @property
    def ends(self) -> list[End]:
        return [self.of(end) for end in self._ends]


@contextmanager
def streams(
    server: Netns, client: Netns, addresses: list[str], port: int, *, server_sends: bool = True,
    client_sends: bool = True, protocols: tuple[str, ...] = ("tcp", "udp"),
) -> Iterator[list[Stream]]:  # fmt: skip
    """A stream of each protocol to each address, the first to `port` and each to a port more."""
    with ExitStack() as stack:
        made: list[Stream] = []
        wanted = [(protocol, address) for protocol in protocols for address in addresses]
        serving = [
            stack.enter_context(
                started(server.popen([*_PROGRAM, "serve", protocol, str(port + at), str(int(server_sends))]))
            )
            for at, (protocol, _) in enumerate(wanted)
        ]
        until(lambda: all(b"ready" in each.output() for each in serving), what="all serve")
        for at, (protocol, address) in enumerate(wanted):
            words = [*_PROGRAM, "talk", protocol, address, str(port + at), str(int(client_sends))]
            running = stack.enter_context(started(client.popen(words)))
            made.append(Stream(serving[at], running, f"{protocol} {address}"))
        hearing = [each for each, sends in (("server", client_sends), ("client", server_sends)) if sends]
        until(lambda: all(s.of(end).got > 5 for s in made for end in hearing), what="all streams flow")
        yield made
