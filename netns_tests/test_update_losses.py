"""Every kind of update on one container, with a ping every 10 ms in both families and an iperf3 stream by a
published port across each: what is lost, as a table (`pytest -s` prints it; README.md has one).
"""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from netns_tests import flow
from netns_tests.case import bridge, local
from netns_tests.node import Netns, Node, Running, started, until
from netns_tests.plugins import MESOKIT
from netns_tests.policy_box import apply, task
from netns_tests.runtime import network
from netns_tests.test_update import CHAIN, update
from netns_tests.test_update_networks import files

STORAGE = network(
    [bridge(local("10.8.0.0/24", "fd00:8::/64"), bridge="stor0", isDefaultGateway=True)], name="stor"
)
WEB: dict[str, Any] = {
    "name": "web",
    "for": {"groups": ["web"]},
    "ingress": [{"allow": ["icmp", "tcp"], "from": [{"network": "net"}]}],
}


@dataclass(frozen=True, slots=True)
class Kind:
    """Words of one `mesokit update`; what it announces as lost, "" where nothing may be."""

    name: str
    words: tuple[str, ...]
    announced: str = ""


def kind(name: str, *words: str, announced: str = "") -> Kind:
    return Kind(name, words, announced)


#: In this order: each begins where the one before it ended, and what is added is taken away again.
KINDS = (
    kind("MTU lowered", "mtu=1400"),
    kind("MTU raised", "mtu=1500"),
    kind("route added", "routes+=10.40.0.0/16"),
    kind("route's gateway replaced", "routes+=10.40.0.0/16@10.9.0.9"),
    kind("route removed", "routes-=10.40.0.0/16"),
    kind("default routes replaced", "gateway=10.9.0.254,fd00:9::fe"),
    kind("default routes put back", "gateway=10.9.0.1,fd00:9::1"),
    kind("addresses added, both families", "addresses+=10.9.0.77/24,fd00:9::77/64"),
    kind(
        "addresses removed",
        "addresses-=10.9.0.77,fd00:9::77",
        "--disrupt",
        announced="every flow that uses 10.9.0.77, fd00:9::77 ends at once, for good",
    ),
    kind("resolv.conf", "dns.nameservers=10.0.0.3", "dns.search=a.example"),
    kind("sysctl", "sysctl.net.core.somaxconn=600"),
    kind("rates halved", "ingressRate=400000000", "egressRate=400000000"),
    kind("rates doubled", "ingressRate=800000000", "egressRate=800000000"),
    kind("port published", "ports+=9090:90/udp"),
    kind("port moved to another of the container's", "ports+=9090:91/udp"),
    kind("port no longer published", "ports-=9090/udp"),
    kind("spoof check on", "macspoofchk=true"),
    kind("spoof check off", "macspoofchk=false"),
    kind("port isolation on", "portIsolation=true"),
    kind("port isolation off", "portIsolation=false"),
    kind("hairpin on", "hairpinMode=true"),
    kind("hairpin off", "hairpinMode=false"),
    kind("groups", "groups=web,db"),
    kind("labels", "labels.tier=front"),
    kind("network added", "--add-network", "stor"),
    kind(
        "network removed",
        "--remove-network",
        "stor",
        "--disrupt",
        announced="every flow over eth1 ends at once, for good",
    ),
)


@dataclass(slots=True)
class Felt:
    """The two flows into the container, and what they felt of each kind."""

    pings: Running
    sender: Netns
    rows: list[tuple[str, dict[str, int]]] = field(default_factory=list)

    def _stream(self) -> tuple[int, int]:
        """Bytes acknowledged and segments sent again of the stream: the busier of iperf3's connections."""
        text = self.sender.run(["ss", "-tinH", "dport", "=", ":8080"]).text
        found = []
        for line in text.split("ESTAB")[1:]:
            acked, again = (re.search(p, line) for p in (r"bytes_acked:(\d+)", r"retrans:\d+/(\d+)"))
            found.append((int(acked[1]) if acked else 0, int(again[1]) if again else 0))
        return max(found, default=(0, 0))

    @contextmanager
    def across(self, name: str) -> Iterator[None]:
        acked, again = self._stream()
        yield
        until(lambda: self._stream()[0] > acked + 1_000_000, seconds=30, what=f"{name}: the stream goes on")
        lines = self.pings.output().count(b"\n")
        self.pings.kill(signal.SIGUSR1)
        until(lambda: self.pings.output().count(b"\n") > lines, what="the pings are counted")
        counted = json.loads(self.pings.output().splitlines()[-1])
        self.rows.append((name, counted | {"again": self._stream()[1] - again}))

    def table(self) -> str:
        lines = ["| update | pings lost / sent | TCP segments sent again |", "|---|---|---|"]
        lines += [
            f"| {name} | {felt['lost']} / {felt['sent']} | {felt['again']} |" for name, felt in self.rows
        ]
        return "\n".join(lines)


@contextmanager
def flowing(node: Node, sender: Netns, receiver: Netns) -> Iterator[Felt]:
    """`sender` pings the receiver's addresses, and streams to a port that the node publishes for it."""
    with ExitStack() as stack:
        server = stack.enter_context(started(receiver.popen(["iperf3", "-s", "-p", "80", "--forceflush"])))
        until(lambda: b"listening" in server.output(), what="iperf3 listens")
        stream = ["iperf3", "-c", "10.9.0.1", "-p", "8080", "-b", "200M", "-t", "120", "--forceflush"]
        stack.enter_context(started(sender.popen(stream)))
        pings = stack.enter_context(started(sender.popen([*flow.PROGRAM, "pings", "10.9.0.2", "fd00:9::2"])))
        until(lambda: b"ready" in pings.output(), what="the pings begin")
        felt = Felt(pings, sender)
        with felt.across("nothing (one second)"):
            time.sleep(1)
        yield felt


def test_what_every_kind_of_update_loses(node: Node, ours: str) -> None:
    files(node, STORAGE)
    conf = CHAIN | {"args": task(["web"], {"tier": "back"})}
    conf["plugins"] = [
        CHAIN["plugins"][0] | {"policy": "open", "policyLabels": ["tier"]},
        *CHAIN["plugins"][1:],
    ]
    boxes = [node.netns(name) for name in ("c1", "c2")]
    for box in boxes:
        own = conf if box.name == "c1" else conf | {"runtimeConfig": {}}
        node.cni("ADD", f"{ours}/chain", own, box.name, box).ok()
    place = node.path("/run/mesos/isolators/network/cni/c1")
    place.mkdir(parents=True)
    (place / "resolv.conf").write_text("nameserver 10.0.0.1\n")
    with flowing(node, boxes[1], boxes[0]) as felt:
        for item in KINDS:
            words = ("c1", *(word for word in item.words if word != "--disrupt"))
            (dry,) = json.loads(node.run([MESOKIT, "update", *words, "--dry-run", "--json"]).text)
            assert "; ".join(dry["disruptions"]) == item.announced
            with felt.across(item.name):
                (outcome,) = update(node, "c1", *item.words)
            assert outcome["changed"], (item, outcome)
        for name, policies in (
            ("policy that allows the flows", [WEB]),
            (
                "policy edited",
                [WEB | {"ingress": [{**WEB["ingress"][0], "allow": ["icmp", "tcp", "udp/53"]}]}],
            ),
            ("policy removed", []),
        ):
            with felt.across(name):
                apply(node, policies)
    sys.stdout.write(f"\n{felt.table()}\n")
    assert {name: counted["lost"] for name, counted in felt.rows if counted["lost"]} == {}
    assert len(felt.rows) == len(KINDS) + 4
