"""A routed IPv6 network whose gateway is fe80::1 for every container: no address of the prefix is spent."""

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
