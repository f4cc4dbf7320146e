"""Attachments made and taken away without end, while a test does something to who serves them."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from netns_tests.node import Netns, Node, until
from netns_tests.plugins import MESOKIT, signal_service


def bridge(**keys: Any) -> dict[str, Any]:
    """A network on a bridge, with addresses and masquerade."""
    return {
        "cniVersion": "1.0.0",
        "name": "net",
        "type": "bridge",
        "bridge": "br0",
        "isGateway": True,
        "ipMasq": True,
        "ipam": {"type": "host-local", "subnet": "10.9.0.0/16"},
        **keys,
    }


@dataclass(slots=True)
class Load:
    """Rounds of ADD and DEL that each worker has behind it, and calls that failed."""

    rounds: list[int]
    failures: list[BaseException] = field(default_factory=list)

    def check(self) -> None:
        if self.failures:
            raise self.failures[0]

    def more(self, rounds: int = 2) -> None:
        """Until every worker has done `rounds` more; a failure of one is raised at once."""
        target = [done + rounds for done in self.rounds]

        def reached() -> bool:
            return all(done >= wanted for done, wanted in zip(self.rounds, target, strict=True))

        until(lambda: self.failures or reached(), what=f"{rounds} more rounds of calls")
        self.check()


@contextmanager
def load(node: Node, plugins: str, boxes: Sequence[Netns]) -> Iterator[Load]:
    """A worker for each of `boxes` that calls `bridge` in `plugins`; every one ends with a DEL. The first
    failure of a call is raised at the end of the block, if not before."""
    running, done = Load([0] * len(boxes)), threading.Event()

    def work(number: int) -> None:
        box = boxes[number]
        try:
            while not done.is_set():
                node.cni("ADD", f"{plugins}/bridge", bridge(), box.name, box).ok()
                node.cni("DEL", f"{plugins}/bridge", bridge(), box.name, box).ok()
                running.rounds[number] += 1
        except BaseException as error:
            running.failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(boxes))]
    for thread in threads:
        thread.start()
    try:
        yield running
    finally:
        done.set()
        for thread in threads:
            thread.join()
    running.check()


@contextmanager
def mortal_service(
    node: Node, seed: int, seconds: tuple[float, float], victims: Sequence[str]
) -> Iterator[list[int]]:
    """A node service that is killed again and again, after that many seconds at least and at most, and
    started anew; which of its processes is drawn from `victims` (see signal_service). Yields the process ids
    of its lives."""
    ended = threading.Event()
    lives: list[int] = []

    def live() -> None:
        chance = random.Random(seed)
        while not ended.is_set():
            running = node.popen([MESOKIT, "node"])
            lives.append(running.pid)
            ended.wait(chance.uniform(*seconds))
            signal_service(node, "KILL", chance.choice(victims))
            running.kill()
            running.wait()

    thread = threading.Thread(target=live)
    thread.start()
    try:
        until(node.path("/run/mesokit/node.sock").is_socket)
        yield lives
    finally:
        ended.set()
        thread.join()
