"""The dhcp plugin beside a DHCPv6 server that means it harm: it takes what is right, and nothing else."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from netns_tests.dhcp_lan import cost_of, leases
from netns_tests.node import Netns, Node, Running, started, until
from netns_tests.plugins import service
from netns_tests.test_dhcp6 import at_once, bridged, global_of, lan6, six, texts

PROGRAM = Path(__file__).with_name("hostile_dhcp6.py")
GIVEN = "fd77::600"
RENEW = "5"


@contextmanager
def hostile(server: Netns, *ways: str, seconds: int = 4, given: str = GIVEN) -> Iterator[Running]:
    words = ["/usr/bin/python3", "-I", "-S", str(PROGRAM), "lan1", given, str(seconds), ",".join(ways)]
    with started(server.popen(words)) as running:
        until(lambda: running.ended() or b"serving" in running.output(), what="the server runs")
        assert not running.ended(), running.errors()
        yield running


def renewals(running: Running) -> int:
    return running.output().split().count(RENEW.encode())


def test_noise_before_every_answer(node: Node, ours: str) -> None:
    """Malformed, huge, for others, of others, with addresses and times that nobody can have."""
    with lan6(node) as server, service(node), hostile(server, "noise") as running:
        box = node.netns("c1")
        result = node.cni("ADD", f"{ours}/macvlan", six(), "c1", box).ok()
        assert [ip["address"] for ip in result["ips"]] == [f"{GIVEN}/128"]
        assert result["dns"] == {"nameservers": ["fd77::53"]}
        until(lambda: renewals(running) >= 3, what="the lease is renewed thrice", seconds=40)
        assert texts(box) == [f"{GIVEN}/128"]
        (lease,) = leases(node)
        assert (lease["state"], lease["told"]) == ("bound", ""), lease
        node.cni("DEL", f"{ours}/macvlan", six(), "c1", box).ok()
        assert leases(node) == []


def test_a_flood_of_refusals_ends_in_one_clear_error(node: Node, ours: str) -> None:
    with lan6(node) as server, service(node), hostile(server, "flood"):
        boxes = node.netns("c1"), node.netns("c2")
        answers = at_once(ours, (boxes[0], six()), (boxes[1], bridged()))
        for answer, said in zip(answers, ("NO_ADDRESS (no ", "NO_PREFIX (no "), strict=True):
            assert answer.code == 11
            assert said in str(answer.error) and len(json.dumps(answer.error)) < 1500
            assert "within" not in str(answer.error), "nobody waits for more of the same"
        assert leases(node) == [] and [global_of(box) for box in boxes] == [[], []]


def test_a_flood_of_offers_and_the_daemon_lives(node: Node, ours: str) -> None:
    """One of them is taken. Of the daemon, which has another lease to look after, neither memory nor
    descriptors grow."""
    with lan6(node) as server, service(node):
        box, other = node.netns("c1"), node.netns("c2")
        with hostile(server, "noise", seconds=5) as running:
            node.cni("ADD", f"{ours}/macvlan", six(), "c1", box).ok()
            before = cost_of(node)
        with hostile(server, "offers", seconds=5) as running:
            answer = node.cni("ADD", f"{ours}/macvlan", six(), "c2", other)
            assert answer.error is None or answer.code == 11, answer.error
            assert {item["local"] for item in global_of(other)} <= {GIVEN}
            until(lambda: renewals(running) >= 2, what="the first lease is renewed", seconds=60)
            descriptors, memory = cost_of(node)
        sys.stderr.write(f"offers: {before} before, {(descriptors, memory)} after\n")
        assert descriptors <= before[0] + 4
        assert memory < before[1] + 20_000


def test_a_lifetime_of_0_takes_the_address_away(node: Node, ours: str) -> None:
    with lan6(node) as server, service(node), hostile(server, "naked", seconds=8):
        box = node.netns("c1")
        node.cni("ADD", f"{ours}/macvlan", six(), "c1", box).ok()
        assert texts(box) == [f"{GIVEN}/128"]
        until(lambda: "lifetime of 0" in leases(node)[0]["told"] or not texts(box), what="it is lost")
        until(lambda: leases(node)[0]["state"] == "bound", what="the server's next word is taken", seconds=60)
        assert texts(box) == [f"{GIVEN}/128"]


def test_a_lease_for_ever_is_never_renewed(node: Node, ours: str) -> None:
    with lan6(node) as server, service(node), hostile(server, "forever") as running:
        box = node.netns("c1")
        node.cni("ADD", f"{ours}/macvlan", six(), "c1", box).ok()
        until(lambda: len(global_of(box)) == 1, what="it has the address")
        (held,) = global_of(box)
        assert held["valid_life_time"] == 0xFFFFFFFF
        (lease,) = leases(node)
        assert lease["state"] == "bound" and renewals(running) == 0
        node.cni("DEL", f"{ours}/macvlan", six(), "c1", box).ok()
        assert leases(node) == [] and global_of(box) == []
