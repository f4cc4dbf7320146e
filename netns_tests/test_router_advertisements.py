"""Addresses, routes and names from router advertisements: radvd and dnsmasq in a private node."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from netns_tests.dhcp_lan import lan, leases, macvlan
from netns_tests.node import Netns, Node, Running, started, until
from netns_tests.plugins import service
from netns_tests.test_dhcp6 import SERVER, dnsmasq6, global_of, kea6, lan6, texts

MAC = "02:00:00:00:77:05"
MADE = "fd77::ff:fe00:7705/64"  # of that MAC address


def slaac(**ipam: Any) -> dict[str, Any]:
    return {**macvlan(families=["ipv6"], ra=True, **ipam), "runtimeConfig": {"mac": MAC}}


@contextmanager
def radvd(server: Netns, interface: str = "", *, prefix: str = "prefix fd77::/64 { };") -> Iterator[Running]:
    """A router; `interface` and `prefix` are lines of radvd.conf."""
    node = server.node
    server.run(["sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"])
    conf = (
        "interface lan1 { AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; "
        f"{interface} {prefix} }};\n"
    )
    node.path("/run/radvd.conf").write_text(conf)
    words = ["radvd", "-n", "-C", "/run/radvd.conf", "-p", "/run/radvd.pid", "-m", "stderr", "-u", "root"]
    with started(server.popen(words)) as running:
        until(lambda: running.ended() or node.path("/run/radvd.pid").exists(), what="radvd runs")
        assert not running.ended(), running.errors()
        yield running


def default_routes(box: Netns) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = box.json("ip", "-6", "-j", "route", "show", "default")
    return found


def test_an_address_and_a_route_of_a_router(node: Node, ours: str) -> None:
    names = "RDNSS fd77::53 fd77::54 { }; DNSSL a.example.net example.org { };"
    with lan6(node) as server, service(node), radvd(server, names):
        box = node.netns("c1")
        result = node.cni("ADD", f"{ours}/macvlan", slaac(), "c1", box).ok()
        (ip,) = result["ips"]
        assert ip["address"] == MADE
        assert ip["gateway"].startswith("fe80::")
        assert result["routes"] == [{"dst": "::/0", "gw": ip["gateway"]}]
        assert result["dns"] == {
            "nameservers": ["fd77::53", "fd77::54"], "search": ["a.example.net", "example.org"],
        }  # fmt: skip
        assert texts(box) == [MADE]
        (route,) = default_routes(box)
        assert (route["gateway"], route["protocol"]) == (ip["gateway"], "ra")
        assert "expires" in str(box.run(["ip", "-6", "route", "show", "default"]).text)
        assert global_of(box)[0]["valid_life_time"] < 2**32 - 1, "the kernel renews it"
        assert box.ping(SERVER)
        assert leases(node) == []
        node.cni("CHECK", f"{ours}/macvlan", {**slaac(), "prevResult": result}, "c1", box).ok()
        node.cni("DEL", f"{ours}/macvlan", slaac(), "c1", box).ok()
        assert box.run(["ip", "link", "show", "eth0"], check=False).status != 0


def test_a_router_that_has_gone_takes_its_route_along(node: Node, ours: str) -> None:
    with lan6(node) as server, service(node):
        box = node.netns("c1")
        # The kernel looks for routes that have ended every 30 s.
        box.run(["sysctl", "-qw", "net.ipv6.route.gc_interval=1"])
        with radvd(server, "AdvDefaultLifetime 5;"):
            node.cni("ADD", f"{ours}/macvlan", slaac(), "c1", box).ok()
            assert len(default_routes(box)) == 1
        until(lambda: default_routes(box) == [], what="the kernel has collected the route")


def test_managed_addresses_come_by_dhcp(node: Node, ours: str) -> None:
    prefix = "prefix fd77::/64 { AdvAutonomous off; };"
    with (
        lan6(node) as server,
        service(node),
        radvd(server, "AdvManagedFlag on;", prefix=prefix),
        kea6(server, seconds=60),
    ):
        box = node.netns("c1")
        conf = slaac(priority=77)
        result = node.cni("ADD", f"{ours}/macvlan", conf, "c1", box).ok()
        (ip,) = result["ips"]
        assert ip["address"].startswith("fd77::3")
        assert [ip["address"]] == texts(box)
        assert result["dns"]["nameservers"] == ["fd77::53", "fd77::54"]
        assert box.ping(SERVER), "the prefix is on the link, as the router says"
        assert len(default_routes(box)) == 1
        assert [lease["address"] for lease in leases(node)] == [ip["address"]]
        node.cni("CHECK", f"{ours}/macvlan", {**conf, "prevResult": result}, "c1", box).ok()
        node.cni("DEL", f"{ours}/macvlan", conf, "c1", box).ok()
        assert leases(node) == []


def test_names_alone_come_by_dhcp(node: Node, ours: str) -> None:
    with lan6(node) as server, service(node), radvd(server, "AdvOtherConfigFlag on;"), kea6(server):
        box = node.netns("c1")
        result = node.cni("ADD", f"{ours}/macvlan", slaac(), "c1", box).ok()
        assert [ip["address"] for ip in result["ips"]] == [MADE]
        assert result["dns"]["nameservers"] == ["fd77::53", "fd77::54"]
        assert leases(node) == []


def test_dnsmasq_is_router_and_server(node: Node, ours: str) -> None:
    with lan6(node) as server, service(node), dnsmasq6(
        server, "--enable-ra", "--dhcp-option=option6:dns-server,[fd77::53]",
        "--dhcp-range=10.77.1.1,10.77.1.250,255.255.0.0,120", "--dhcp-option=3,10.77.0.1",
    ):  # fmt: skip
        box = node.netns("c1")
        conf = macvlan(families=["ipv4", "ipv6"], ra=True)
        result = node.cni("ADD", f"{ours}/macvlan", conf, "c1", box).ok()
        assert {ip["address"].split(".")[0].split(":")[0] for ip in result["ips"]} == {"10", "fd77"}
        assert {route["dst"] for route in result["routes"]} == {"0.0.0.0/0", "::/0"}
        assert "fd77::53" in result["dns"]["nameservers"]
        node.cni("DEL", f"{ours}/macvlan", conf, "c1", box).ok()


def test_a_bridge_port_hears_routers_too(node: Node, ours: str) -> None:
    with lan6(node) as server, service(node), radvd(server):
        node.run(["ip", "link", "add", "br0", "type", "bridge"])
        node.run(["ip", "link", "set", "lan0", "master", "br0"])
        node.run(["ip", "link", "set", "br0", "up"])
        box = node.netns("c1")
        conf = {**slaac(), "type": "bridge", "bridge": "br0"}
        result = node.cni("ADD", f"{ours}/bridge", conf, "c1", box).ok()
        assert [ip["address"] for ip in result["ips"]] == [MADE] == texts(box)
        assert box.ping(SERVER)
        node.cni("DEL", f"{ours}/bridge", conf, "c1", box).ok()


@pytest.mark.parametrize(
    ("interface", "prefix", "said"),
    [
        (None, "", "no router advertised itself on eth0"),
        ("", "prefix fd77::/64 { AdvAutonomous off; };", "advertise no prefix to make an address of"),
    ],
)
def test_what_gives_no_address_is_said(
    node: Node, ours: str, interface: str | None, prefix: str, said: str
) -> None:
    with lan6(node) as server, service(node):
        box = node.netns("c1")
        if interface is None:
            answer = node.cni("ADD", f"{ours}/macvlan", slaac(), "c1", box)
        else:
            with radvd(server, interface, prefix=prefix):
                answer = node.cni("ADD", f"{ours}/macvlan", slaac(), "c1", box)
        assert answer.code == 11
        assert said in str(answer.error)
        assert box.run(["ip", "link", "show", "eth0"], check=False).status != 0


def test_a_main_plugin_of_the_reference_is_told(node: Node, ours: str, reference: str) -> None:
    with lan6(node) as server, service(node), radvd(server):
        box = node.netns("c1")
        path = f"{ours}:{reference}"
        answer = node.cni("ADD", f"{reference}/macvlan", slaac(), "c1", box, cni_path=path)
        assert "none of this toolkit" in str(answer.error)


@pytest.mark.parametrize(
    ("ipam", "said"),
    [
        ({"ra": True}, "ipam.ra is true, and ipam.families (ipv4) has no ipv6"),
        ({"families": []}, "ipam.families is empty"),
        ({"families": ["ipv5"]}, "ipam.families[0] is 'ipv5': not one of ipv4, ipv6"),
        ({"duid": "00030001"}, "ipam.duid is given, and ipam.families has no ipv6"),
        ({"families": ["ipv6"], "duid": "x"}, "ipam.duid is 'x': not a DUID"),
    ],
)
def test_keys_that_contradict(node: Node, ours: str, ipam: dict[str, Any], said: str) -> None:
    with lan(node):
        answer = node.cni("ADD", f"{ours}/macvlan", macvlan(**ipam), "c1", node.netns("c1"))
        assert answer.code == 7
        assert said in str(answer.error)


def test_addresses_of_ours_are_alone(node: Node, ours: str) -> None:
    """Where host-local or static chooses, no router on the link adds an address or a route."""
    with lan6(node) as server, radvd(server):
        box = node.netns("c1")
        ipam = {"type": "static", "addresses": [{"address": "fd77::7/64"}]}
        node.cni("ADD", f"{ours}/macvlan", {**macvlan(), "ipam": ipam}, "c1", box).ok()
        heard = "grep -q 'Icmp6InRouterAdvertisements[[:space:]]*[2-9]' /proc/net/dev_snmp6/eth0"
        until(lambda: box.run(["sh", "-c", heard], check=False).status == 0, what="two advertisements came")
        assert texts(box) == ["fd77::7/64"]
        assert default_routes(box) == []
