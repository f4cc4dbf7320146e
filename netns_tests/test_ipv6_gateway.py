"""The host as an IPv6 gateway: fe80::1 for every container, no packet that waits for the host's own end."""

import pytest

from netns_tests.node import Node
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
