"""The host as an IPv6 gateway: fe80::1 for every container, no packet that waits for the host's own end."""

import pytest

from netns_tests.node import Node
from netns_tests.snapshot import assert_clean, snapshot
from netns_tests.test_update import NET, attached


def test_a_link_local_gateway(node: Node, ours: str) -> None:
    ranges = [[{"subnet": "fd00:9::/64", "gateway": "fe80::1"}]]
    ipam = {"type": "host-local", "ranges": ranges, "routes": [{"dst": "::/0"}]}
    world = node.uplink()
    world.run(["ip", "-6", "route", "add", "fd00:9::/64", "via", "2001:db8::2"])
    assert node.ping("2001:db8::1")  # this uplink has no link-local address to ask for neighbours with
    conf = NET | {"type": "ptp", "ipam": ipam}
    with attached(node, ours, conf) as (box, told):
        assert told["prevResult"]["ips"][0]["gateway"] == "fe80::1"
        assert "default via fe80::1 dev eth0" in box.run(["ip", "-6", "route"]).text
        assert box.ping("2001:db8::1")
        assert world.ping("fd00:9::1")
    other = node.netns("c2")
    said = node.cni("ADD", f"{ours}/ptp", conf, "c2", other)
    said.ok()
    assert b"outside of" not in said.finished.stderr
    node.cni("DEL", f"{ours}/ptp", conf, "c2", other).ok()


@pytest.mark.parametrize("kind", ["bridge", "ptp"])
def test_the_first_packet_does_not_wait_for_the_hosts_own_address(
    node: Node, plugins: str, kind: str
) -> None:
    """The host asks a fresh container for its MAC address before it forwards to it, and had no source to ask
    from for two seconds: its link-local address was tentative."""
    world = node.uplink()
    world.run(["ip", "-6", "route", "add", "fd00:9::/64", "via", "2001:db8::2"])
    assert world.ping("2001:db8::2")
    ipam = {"type": "host-local", "subnet": "fd00:9::/64", "routes": [{"dst": "::/0"}]}
    conf = NET | {"type": kind, "bridge": "br0", "isGateway": True, "ipam": ipam}
    box = node.netns("c1")
    result = node.cni("ADD", f"{plugins}/{kind}", conf, "c1", box).ok()
    address = result["ips"][0]["address"].split("/")[0]
    assert world.ping(address, seconds=0)  # one request, and a second for the answer
    node.cni("DEL", f"{plugins}/{kind}", conf, "c1", box).ok()


@pytest.mark.parametrize("kind", ["bridge", "ptp"])
def test_enabledad_is_for_the_hosts_end_too(node: Node, ours: str, kind: str) -> None:
    ipam = {"type": "host-local", "subnet": "fd00:9::/64"}
    conf = NET | {"type": kind, "bridge": "br0", "isGateway": True, "enabledad": True, "ipam": ipam}
    box = node.netns("c1")
    result = node.cni("ADD", f"{ours}/{kind}", conf, "c1", box).ok()
    name = result["interfaces"][0]["name"]
    assert node.shell(f"sysctl -n net.ipv6.conf.{name}.accept_dad").strip() == "1"
    assert "nodad" not in node.shell(f"ip -6 address show dev {name} scope link")
    node.cni("DEL", f"{ours}/{kind}", conf, "c1", box).ok()


#: An ICMPv6 redirect (RFC 4861 4.5) in the name of fe80::1: to TARGET, of packets to DESTINATION.
REDIRECT = """
import socket, sys
victim, target, destination = sys.argv[1:4]
raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 255)
index = socket.if_nametoindex("eth0")
raw.bind(("fe80::1", 0, 0, index))
addresses = b"".join(socket.inet_pton(socket.AF_INET6, item) for item in (target, destination))
for _ in range(3):
    raw.sendto(bytes((137, 0, 0, 0, 0, 0, 0, 0)) + addresses, (victim, 0, 0, index))
"""


def test_a_redirect_in_the_gateways_name_is_not_believed(node: Node, ours: str) -> None:
    """Whoever is on the link can send one, and would get what the victim sends to others."""
    ranges = [[{"subnet": "fd00:9::/64", "gateway": "fe80::1"}]]
    ipam = {"type": "host-local", "ranges": ranges, "routes": [{"dst": "::/0"}]}
    conf = NET | {"type": "bridge", "bridge": "br0", "isGateway": True, "ipam": ipam}
    victim, liar = (node.netns(name) for name in ("victim", "liar"))
    results = [node.cni("ADD", f"{ours}/bridge", conf, box.name, box).ok() for box in (victim, liar)]
    address = results[0]["ips"][0]["address"].split("/")[0]
    liar.run(["ip", "addr", "add", "fe80::1/64", "dev", "eth0", "nodad"])
    own = [a["local"] for a in liar.json("ip", "-6", "-j", "addr", "show", "eth0")[0]["addr_info"]]
    target = next(item for item in own if item.startswith("fe80::") and item != "fe80::1")
    assert liar.ping(address)
    liar.run(["python3", "-c", REDIRECT, address, target, "2001:db8::9"])
    assert liar.ping(address)  # which came after it
    assert "via fe80::1" in victim.run(["ip", "-6", "route", "get", "2001:db8::9"]).text
    for box in (victim, liar):
        node.cni("DEL", f"{ours}/bridge", conf, box.name, box).ok()


def test_a_master_too_small_for_ipv6_is_named(node: Node, ours: str) -> None:
    node.uplink()
    node.run(["ip", "link", "set", "eth0", "mtu", "1200"])
    box = node.netns("c1")
    before = snapshot(node, [box])
    conf = NET | {
        "type": "macvlan",
        "master": "eth0",
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "fd00:9::/64"}]]},
    }
    said = node.cni("ADD", f"{ours}/macvlan", conf, "c1", box)
    assert said.error is not None and said.code == 7
    assert "eth0 would have an MTU of 1200, and below 1280 (RFC 8200)" in said.error["msg"]
    assert "raise the MTU of its master" in said.error["details"]
    assert_clean(node, before, "refused", boxes=[box])
