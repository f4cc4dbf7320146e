"""Scenarios of IPv6 and of the operator's view that no other file shows; the table is in README.md."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from netns_tests.node import Node
from netns_tests.plugins import MESOKIT
from netns_tests.policy_box import Box, apply, conf
from netns_tests.test_policy import DB
from netns_tests.test_view import POINT, WEB, asked, attach, published
from netns_tests.traffic import ask, server

REFUSED = """
import socket
try:
    socket.create_connection(("::1", 8080), 5)
except ConnectionRefusedError:
    print(1)
"""
PINGS = """
import os, socket, struct, sys
count, lost = int(sys.argv[2]), 0
with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as s:
    s.settimeout(2)
    for number in range(count):
        s.sendto(struct.pack(">BBHHH", 128, 0, 0, os.getpid() & 0xFFFF, number), (sys.argv[1], 0))
        try:
            while (data := s.recv(100))[0] != 129 or data[6:8] != struct.pack(">H", number):
                pass
        except TimeoutError:
            lost += 1
print(lost)
"""


def test_down_and_up_inside(node: Node, ours: str) -> None:
    """55: the addresses of both families stay; `mesokit check` names the routes that the kernel took away,
    and what it says to do puts them back.
    """
    box = attach(node, ours, WEB, "c1")
    box.run(["sh", "-c", "ip link set eth0 down; ip link set eth0 up"])
    held = {each["local"] for each in box.json("ip", "-j", "addr", "show", "eth0")[0]["addr_info"]}
    assert {"10.9.0.2", "fd00:9::2"} <= held
    (found,) = node.run([MESOKIT, "check", "c1", "--json"], check=False).json()["items"]
    remedies = [step["remedy"] for step in found["steps"] if step["verdict"] == "failed"]
    assert remedies
    for remedy in remedies:
        node.shell(remedy)
    assert box.ping("10.9.0.1", seconds=2) and box.ping("fd00:9::1", seconds=2)
    assert all(step["verdict"] != "failed" for step in asked(node, "check", "c1")["items"][0]["steps"])


@pytest.mark.parametrize("masqueraded", [True, False])
def test_the_source_that_the_world_sees_over_ipv6(node: Node, ours: str, masqueraded: bool) -> None:
    """57: the host's with ipMasq (NAT66), the container's own without."""
    world = node.uplink()
    node.shell("ip addr add fe80::2/64 dev eth0 nodad")  # to ask for neighbours of others' packets
    box = Box(node, ours, "c1", conf(None, ipMasq=masqueraded))
    world.run(["ip", "route", "add", "fd09::/64", "via", "2001:db8::2"])
    with server(world, "tcp", 80):
        assert ask(box.netns, "tcp", "2001:db8::1", 80) == ("2001:db8::2" if masqueraded else box.six)


def test_a_published_port_at_the_hosts_loopback(node: Node, ours: str) -> None:
    """58: 127.0.0.1 leads to the container; [::1] is refused at once, for IPv6 has no such way."""
    box = attach(node, ours, published(WEB, 8080), "c1")
    with server(box, "tcp", 80):
        assert ask(node, "tcp", "127.0.0.1", 8080) is not None
        assert node.run([sys.executable, "-c", REFUSED]).text == "1\n"


def test_no_redirect_is_believed(node: Node, ours: str) -> None:
    """61: two containers that talk by way of their gateway, which knows a shorter one: of 1,000 pings none is
    lost, and there is no route but those that were given.
    """
    one, two = (Box(node, ours, name, conf(None)) for name in ("c1", "c2"))
    for box, other in ((one, two), (two, one)):
        box.netns.run(["ip", "-6", "route", "add", f"{other.six}/128", "via", "fd09::1"])
    assert one.netns.run([sys.executable, "-c", PINGS, two.six, "1000"]).text == "0\n"
    for box in (one, two):
        assert "redirect" not in box.netns.run(["ip", "-6", "route", "show", "cache"]).text
        assert "expires" not in box.netns.run(["ip", "-6", "route", "show", "table", "all"]).text


TIMED = """
import os, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
t = os.times(); print(t.children_user + t.children_system)
"""


def _processor(node: Node, words: list[str]) -> float:
    """Seconds of a processor that a command takes, at its quickest."""
    return min(float(node.run([sys.executable, "-c", TIMED, *words]).text) for _ in range(2))


def test_ls_of_nothing_and_of_one(node: Node, ours: str) -> None:
    """73: the columns are the same, and the keys of the document; packaging/bench measures 300."""
    nothing: Any = asked(node, "ls")
    attach(node, ours, WEB, "c1")
    one = asked(node, "ls")
    heads = [node.run([MESOKIT, "ls"]).text.splitlines()[0].split()]
    attach(node, ours, POINT, "c2")
    heads.append(node.run([MESOKIT, "ls"]).text.splitlines()[0].split())
    assert nothing.keys() == one.keys() and nothing["items"] == [] and len(one["items"]) == 1
    assert heads[0] == heads[1] and {"CONTAINER", "NETWORK"} <= set(heads[0])


def test_the_rules_of_others_are_not_read(node: Node, ours: str) -> None:
    """80: beside 100,000 rules of somebody else's, show and explain take no more of a processor."""
    for name in ("db", "web"):
        Box(node, ours, name, conf(), role=name)
    apply(node, [DB])
    commands = [[MESOKIT, "policy", "show"], [MESOKIT, "policy", "explain", "web", "db", "tcp/5432"]]
    before = [_processor(node, words) for words in commands]
    sources = (f"10.{each >> 16}.{each >> 8 & 255}.{each & 255}" for each in range(100_000))
    rules = "\n".join(f"add rule inet other many ip saddr {source} drop" for source in sources)
    text = f"add table inet other\nadd chain inet other many\n{rules}\n"
    node.run(["nft", "-f", "-"], input=text, timeout=120)
    after = [_processor(node, words) for words in commands]
    assert all(now < 1.5 * then + 0.15 for now, then in zip(after, before, strict=True)), (before, after)
