"""Prefix translation of IPv6: real packets in both directions, between containers, errors, what is left."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from cni_plugins.spec import nptv6
from cni_plugins.spec.values import parse_ip
from netns_tests.node import Netns, Node
from netns_tests.plugins import MESOKIT
from netns_tests.policy_box import Box, apply, conf
from netns_tests.snapshot import assert_clean, residue, snapshot
from netns_tests.test_policy import DB
from netns_tests.traffic import ask, server

#: Datagrams of 1,400 bytes until the kernel says why they do not arrive.
LARGE = """
import os, socket, sys, time
with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
    s.connect((sys.argv[1], 9))
    s.setsockopt(socket.IPPROTO_IPV6, 23, 2)  # IPV6_MTU_DISCOVER: IPV6_PMTUDISC_DO
    s.setsockopt(socket.IPPROTO_IPV6, 25, 1)  # IPV6_RECVERR
    for _ in range(200):
        try:
            s.send(bytes(1400))
            time.sleep(0.01)
        except OSError as error:
            print(error.strerror)
            break
"""
PAIR = {"fd09::/64": "2001:db8:9::/64"}
ROUTED = {"ipam": conf()["ipam"] | {"routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}}


def outside(box: Box) -> str:
    return str(nptv6.external_of(nptv6.parse(PAIR, "nptv6"), parse_ip(box.six)))


def world_of(node: Node) -> Netns:
    """It knows the way to the external prefix alone."""
    world = node.uplink()
    node.shell("ip addr add fe80::2/64 dev eth0 nodad")
    world.run(["ip", "route", "add", "2001:db8:9::/64", "via", "2001:db8::2"])
    return world


def point(**keys: Any) -> dict[str, Any]:
    made = conf(None, type="ptp", **keys)
    return {key: value for key, value in made.items() if key not in ("bridge", "isDefaultGateway")}


@pytest.mark.parametrize("made", [conf(None, nptv6=PAIR), point(nptv6=PAIR, **ROUTED)], ids=["bridge", "ptp"])
def test_both_ways_between_containers_and_nothing_left(node: Node, ours: str, made: dict[str, Any]) -> None:
    world = world_of(node)
    before = snapshot(node)
    one, two = (Box(node, ours, name, made | {"ipMasq": True}) for name in ("c1", "c2"))
    assert outside(one).startswith("2001:db8:9:") and outside(one) != outside(two)
    for protocol in ("tcp", "udp"):
        with server(world, protocol, 80), server(two.netns, protocol, 80):
            assert ask(one.netns, protocol, "2001:db8::1", 80) == outside(one)
            assert ask(world, protocol, outside(two), 80) == "2001:db8::1"
            assert ask(one.netns, protocol, outside(two), 80) == outside(one)  # RFC 6296, 4: hairpin
            assert ask(one.netns, protocol, two.six, 80) == one.six
            assert ask(one.netns, protocol, "192.0.2.1", 80) == "192.0.2.2"  # ipMasq has the other family
    assert not one.call("CHECK").error
    (found,) = json.loads(node.run([MESOKIT, "inspect", outside(two), "--json"]).text)["items"]
    assert (found["container_id"], found["external"]) == ("c2", [outside(two)])
    one.call("DEL").ok()
    assert not world.ping(outside(one), seconds=1) and world.ping(outside(two), seconds=3)
    two.call("DEL").ok()
    assert residue(node, before, allowed=[r"netns.* c[12]", r"mount /run/netns/c[12]"]) == []


def test_errors_are_translated_inside_too(node: Node, ours: str) -> None:
    """A router beyond passes 1,300 bytes at most: the container learns it from the error that the router
    sends to the external address.
    """
    world_of(node)
    far = node.netns("far")
    node.shell(
        "ip netns exec world sh -c 'echo 1 >/proc/sys/net/ipv6/conf/all/forwarding'\n"
        "ip -n world link add w1 type veth peer name far netns far\n"
        "ip -n world addr add 2001:db8:f::1/64 dev w1 nodad\n"
        "ip -n far addr add 2001:db8:f::2/64 dev far nodad\n"
        "ip -n world link set w1 mtu 1300 up\n"
        "ip -n far link set far mtu 1300 up\n"
        "ip -n far -6 route add default via 2001:db8:f::1\n"
        "ip -6 route add 2001:db8:f::/64 via 2001:db8::1\n"
    )
    box = Box(node, ours, "c1", conf(None, nptv6=PAIR))
    assert "Message too long" in box.netns.run([sys.executable, "-c", LARGE, "2001:db8:f::2"]).text
    assert "mtu 1300" in box.netns.run(["ip", "-6", "route", "get", "2001:db8:f::2"]).text
    assert far.ping(outside(box), seconds=3)


def test_policy_judges_internal_addresses(node: Node, ours: str) -> None:
    """Who is denied to a container does not reach it by its external address either, nor as one."""
    world = world_of(node)
    made = conf("open", nptv6=PAIR)
    db, web = Box(node, ours, "c1", made, role="db"), Box(node, ours, "c2", made, role="web")
    with server(db.netns, "tcp", 80):
        assert ask(web.netns, "tcp", outside(db), 80) == outside(web)
        apply(node, [DB | {"ingress": [{"allow": ["tcp/80"], "from": ["world"]}]}])
        assert ask(world, "tcp", outside(db), 80) == "2001:db8::1"
        for address in (db.six, outside(db)):
            assert ask(web.netns, "tcp", address, 80, seconds=1) is None
        apply(node, [DB | {"ingress": [{"allow": ["tcp/80"], "from": [{"labels": {"role": "web"}}]}]}])
        assert ask(world, "tcp", outside(db), 80, seconds=1) is None
        assert ask(web.netns, "tcp", outside(db), 80) == outside(web)


def test_addresses_of_nobody_do_not_go_in_circles(node: Node, ours: str) -> None:
    """The world's packet to an address of the external prefix that no container has gets an error, and does
    not come back by the host's default route. CHECK misses the route and the rules, reload makes them again.
    """
    world = world_of(node)
    box = Box(node, ours, "c1", conf(None, nptv6=PAIR))
    assert "unreachable" in world.run([sys.executable, "-c", LARGE, "2001:db8:9::dead"]).text
    node.shell("ip -6 route del unreachable 2001:db8:9::/64")
    assert "go back to where they came from" in str(box.call("CHECK").error)
    node.shell("nft flush map inet mesokit nptv6_in\nnft flush chain inet mesokit nptv6_prerouting")
    assert "is not translated" in str(box.call("CHECK").error)
    assert "nptv6" in node.run([MESOKIT, "check", "c1"], check=False).text
    node.run([MESOKIT, "reload"])
    assert not box.call("CHECK").error and world.ping(outside(box), seconds=3)
    node.shell("nft flush map inet mesokit nptv6_out")
    found = json.loads(node.run([MESOKIT, "doctor", "--json"], check=False).text)["items"]
    assert any(item["check"] == "flushed-rules" and "nptv6" in item["about"] for item in found), found


def test_an_external_address_has_one_container(node: Node, ours: str) -> None:
    """Another network with the same external prefix, whose internal one has the same sum, is refused."""
    world_of(node)
    one = Box(node, ours, "c1", conf(None, nptv6=PAIR))
    ranges = [[{"subnet": "10.8.0.0/24"}], [{"subnet": "fd08:1::/64"}]]
    other = conf(None, name="other", bridge="br1", nptv6={"fd08:1::/64": "2001:db8:9::/64"})
    other["ipam"] = {"type": "host-local", "ranges": ranges}
    box = node.netns("c2")
    before = snapshot(node)
    refused = node.cni("ADD", f"{ours}/bridge", other, "c2", box)
    assert refused.error is not None
    said = refused.error["msg"] + refused.error["details"]
    assert outside(one) in said and "container c1 (network net" in said
    assert_clean(node, before)


def test_gc_takes_the_rules_and_the_route(node: Node, ours: str) -> None:
    world = world_of(node)
    made = conf(None, nptv6=PAIR)
    one, two = (Box(node, ours, name, made) for name in ("c1", "c2"))
    keep = {"cni.dev/valid-attachments": [{"containerID": "c2", "ifname": "eth0"}]}
    node.cni("GC", f"{ours}/bridge", made | keep).ok()
    assert outside(one) not in node.shell("nft list map inet mesokit nptv6_in")
    assert world.ping(outside(two), seconds=3)
    node.cni("GC", f"{ours}/bridge", made | {"cni.dev/valid-attachments": []}).ok()
    assert "2001:db8:9::/64" not in node.shell("ip -6 route show table all")
    assert "nptv6" not in node.shell("nft list ruleset")


def test_an_update_translates_what_it_adds(node: Node, ours: str) -> None:
    """And no more what it takes away, while the rest of the prefix goes on; the prefixes themselves stay."""
    world = world_of(node)
    box = Box(node, ours, "c1", conf(None, nptv6=PAIR))
    (pair,) = nptv6.parse(PAIR, "nptv6")
    more = str(pair.external_of(parse_ip("fd09::77")))
    node.run([MESOKIT, "update", "c1", "addresses+=fd09::77/64"])
    assert world.ping(more, seconds=3) and world.ping(outside(box), seconds=3)
    node.run([MESOKIT, "update", "c1", "addresses-=fd09::77", "--disrupt"])
    assert not world.ping(more, seconds=1) and world.ping(outside(box), seconds=3)
    assert not box.call("CHECK").error
    refused = node.run([MESOKIT, "update", "c1", "nptv6=x"], check=False)
    assert refused.status != 0 and "attach the container anew" in refused.stderr.decode()
    box.call("DEL").ok()
    assert "nptv6" not in node.shell("nft list ruleset; ls /run/mesokit/claims 2>&1; ip -6 route")
    assert "2001:db8:9::/64" not in node.shell("ip -6 route show table all")
