"""GC in a loop beside workers that attach and detach: nothing of a living container goes, and no address is
given twice. `--gc-seconds 300` is the long form.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from netns_tests.node import Netns, Node, answer
from netns_tests.snapshot import assert_clean, snapshot

log = logging.getLogger(__name__)

CONF: dict[str, Any] = {
    "cniVersion": "1.1.0",
    "name": "net",
    "type": "chain",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "br0",
            "isGateway": True,
            "ipMasq": True,
            "macspoofchk": True,
            "ipam": {"type": "host-local", "subnet": "10.9.0.0/27"},
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}
DIRECT: dict[str, Any] = {
    "cniVersion": "1.1.0",
    "name": "plain",
    "type": "host-local",
    "ipam": {"type": "host-local", "subnet": "10.8.0.0/27"},
}


@dataclass(slots=True)
class Runtime:
    """What a runtime knows: the attachments that it has or is about to make. A list for GC is made, and the
    plugin started with it, before the next ADD is decided on, as the specification asks of it."""

    node: Node
    plugins: str
    seconds: float
    known: set[str] = field(default_factory=set)
    held: dict[tuple[str, str], str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    failures: list[BaseException] = field(default_factory=list)
    attached: int = 0
    collected: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    def work(self, number: int, box: Netns) -> None:
        chance = random.Random(number)
        ports = [{"hostPort": 8000 + number, "containerPort": 80}]
        conf = CONF | {"runtimeConfig": {"portMappings": ports}}
        try:
            for turn in range(1_000_000):
                if self.ended.is_set():
                    return
                self.attach(f"c{number}-{turn}", box, conf, chance)
        except BaseException as error:
            self.failures.append(error)
            self.ended.set()

    def attach(self, cid: str, box: Netns, conf: dict[str, Any], chance: random.Random) -> None:
        with self.lock:
            self.known.add(cid)
        taken = [
            (plugin, document, self.taken(plugin, document, cid, box))
            for plugin, document in (("chain", conf), ("host-local", DIRECT))
        ]
        self.attached += 1
        time.sleep(chance.uniform(0, 0.4))
        for _, document, address in taken:
            place = self.node.path(f"/var/lib/cni/networks/{document['name']}/{address}")
            assert place.read_bytes() == f"{cid}\r\neth0".encode(), f"{cid} lost {address}"
        self.sees(cid, box)
        for plugin, document, address in taken:
            with self.lock:
                assert self.held.pop((document["name"], address)) == cid
            assert self.node.cni("DEL", f"{self.plugins}/{plugin}", document, cid, box).code == 0
        with self.lock:
            self.known.discard(cid)

    def taken(self, plugin: str, document: dict[str, Any], cid: str, box: Netns) -> str:
        result = self.node.cni("ADD", f"{self.plugins}/{plugin}", document, cid, box).ok()
        address = str(result["ips"][0]["address"].partition("/")[0])
        with self.lock:
            other = self.held.setdefault((document["name"], address), cid)
        assert other == cid, f"{address} was given to {other} and {cid}"
        return address

    def sees(self, cid: str, box: Netns) -> None:
        """The kernel has a living container's link, and its elements: spoof check (2), masquerade, port,
        answers to it."""
        assert "eth0" in box.run(["ip", "-o", "link"]).text
        rules = self.node.shell("nft list ruleset")
        found = [line.strip() for line in rules.splitlines() if f'id: {cid}"' in line]
        assert len(found) == 5, f"{cid} has {found}"

    def collect(self) -> None:
        """GC of both networks, over and over."""
        try:
            while not self.ended.wait(0.02):
                for plugin, document in (("chain", CONF), ("host-local", DIRECT)):
                    with self.lock:
                        listed = [{"containerID": cid, "ifname": "eth0"} for cid in sorted(self.known)]
                        valid = document | {"cni.dev/valid-attachments": listed}
                        running = self.node.cni_start("GC", f"{self.plugins}/{plugin}", valid, ifname="")
                    answer(running.wait()).ok()
                self.collected += 1
        except BaseException as error:
            self.failures.append(error)
            self.ended.set()


def test_gc_in_a_loop_beside_workers(node: Node, plugins: str, pytestconfig: pytest.Config) -> None:
    before = snapshot(node)
    runtime = Runtime(node, plugins, float(pytestconfig.getoption("--gc-seconds")))
    boxes = [node.netns(f"w{number}") for number in range(8)]
    threads = [threading.Thread(target=runtime.work, args=(n, box)) for n, box in enumerate(boxes)]
    threads.append(threading.Thread(target=runtime.collect))
    for thread in threads:
        thread.start()
    runtime.ended.wait(runtime.seconds)
    while (
        not runtime.failures and (runtime.attached < 16 or runtime.collected < 4) and threads[-1].is_alive()
    ):
        time.sleep(0.1)
    runtime.ended.set()
    for thread in threads:
        thread.join()
    if runtime.failures:
        raise runtime.failures[0]
    log.info("%d attachments beside %d rounds of GC", runtime.attached, runtime.collected)
    for document, plugin in ((CONF, "chain"), (DIRECT, "host-local")):
        valid = document | {"cni.dev/valid-attachments": []}
        node.cni("GC", f"{plugins}/{plugin}", valid, ifname="").ok()
    for box in boxes:
        box.delete()
    assert_clean(node, before)
