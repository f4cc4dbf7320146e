"""The dhcp plugin against real servers in a private node: leases got, renewed, lost, and given back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from netns_tests.node import Netns, Node, Running, started, until
from netns_tests.plugins import MESOKIT, service

SERVER = "10.77.0.1"


def macvlan(**ipam: Any) -> dict[str, Any]:
    return {
        "cniVersion": "1.0.0",
        "name": "lan",
        "type": "macvlan",
        "master": "lan0",
        "ipam": {"type": "dhcp", **ipam},
    }


@contextmanager
def lan(node: Node) -> Iterator[Netns]:
    """A link `lan0` of the node whose other end is in a namespace of its own, where servers run."""
    server = node.netns("server")
    node.run(["ip", "link", "add", "lan0", "type", "veth", "peer", "name", "lan1", "netns", "server"])
    node.run(["ip", "link", "set", "lan0", "up"])
    server.run(["ip", "link", "set", "lan1", "up"])
    server.run(["ip", "addr", "add", f"{SERVER}/16", "dev", "lan1"])
    yield server


@contextmanager
def dnsmasq(
    server: Netns, *options: str, seconds: int = 120, pool: str = "10.77.1.1,10.77.1.250"
) -> Iterator[Running]:
    """A server that gives leases of `seconds` (dnsmasq's least is 120)."""
    running = server.popen(
        [
            "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=lan1",
            "--bind-interfaces", "--log-dhcp", "--log-facility=-", "--user=root", "--no-ping",
            "--leasefile-ro", f"--dhcp-range={pool},255.255.0.0,{seconds}", *options,
        ]
    )  # fmt: skip
    with started(running):
        until(lambda: running.ended() or b"started" in running.errors(), what="dnsmasq serves")
        yield running


def address_of(box: Netns, ifname: str = "eth0") -> list[str]:
    """The IPv4 addresses of an interface."""
    found = box.run(["ip", "-j", "addr", "show", "dev", ifname], check=False)
    listed = json.loads(found.text or "[]") if found.status == 0 else []
    return [
        f"{item['local']}/{item['prefixlen']}"
        for link in listed
        for item in link.get("addr_info", [])
        if item.get("family") == "inet"
    ]


def lifetime_of(box: Netns) -> int:
    """Seconds that the address of eth0 is valid for."""
    (link,) = box.json("ip", "-j", "addr", "show", "dev", "eth0")
    return int(next(item["valid_life_time"] for item in link["addr_info"] if item["family"] == "inet"))


def leases(node: Node) -> list[dict[str, Any]]:
    told = node.run([MESOKIT, "dhcp", "leases", "--json"]).text
    return [json.loads(line) for line in told.splitlines()]


@pytest.fixture
def daemon(node: Node, request: pytest.FixtureRequest) -> Iterator[str]:
    """Whoever renews: the node service, or a lease daemon of its own."""
    if request.param == "service":
        with service(node):
            yield "service"
        return
    with started(node.popen([MESOKIT, "dhcp"])):
        until(node.path("/run/mesokit/dhcp.sock").is_socket, what="the lease daemon listens")
        yield "alone"


BOTH = pytest.mark.parametrize("daemon", ["service", "alone"], indirect=True)


@BOTH
def test_a_lease_from_dnsmasq_and_back(node: Node, ours: str, daemon: str) -> None:
    with lan(node) as server, dnsmasq(
        server,
        f"--dhcp-option=3,{SERVER}",
        "--dhcp-option=6,10.77.0.53",
        "--dhcp-option=15,example.net",
        "--dhcp-option=119,a.example.net,example.org",
        "--dhcp-option=121,10.99.0.0/16,10.77.0.9,0.0.0.0/0,10.77.0.1",
        "--dhcp-option=26,1400",
    ) as dns:  # fmt: skip
        box = node.netns("c1")
        result = node.cni("ADD", f"{ours}/macvlan", macvlan(), "c1", box).ok()
        (ip,) = result["ips"]
        assert re.fullmatch(r"10\.77\.1\.\d+/16", ip["address"])
        assert ip["gateway"] == SERVER
        assert {(route["dst"], route.get("gw")) for route in result["routes"]} == {
            ("10.99.0.0/16", "10.77.0.9"),
            ("0.0.0.0/0", SERVER),
        }
        assert result["dns"] == {
            "nameservers": ["10.77.0.53"], "domain": "example.net",
            "search": ["a.example.net", "example.org"],
        }  # fmt: skip
        assert address_of(box) == [ip["address"]]
        assert box.ping(SERVER)
        (link,) = box.json("ip", "-j", "link", "show", "dev", "eth0")
        assert link["mtu"] == 1400
        until(lambda: lifetime_of(box) <= 120, what="the address lives as long as the lease")
        node.cni("CHECK", f"{ours}/macvlan", {**macvlan(), "prevResult": result}, "c1", box).ok()
        assert [lease["address"] for lease in leases(node)] == [ip["address"]]
        node.cni("DEL", f"{ours}/macvlan", macvlan(), "c1", box).ok()
        until(lambda: b"DHCPRELEASE" in dns.errors(), what="the server hears of the release")
        assert leases(node) == []
        node.cni("DEL", f"{ours}/macvlan", macvlan(), "c1", box).ok()
