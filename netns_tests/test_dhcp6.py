"""The dhcp plugin's IPv6 side against real servers in a private node."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from netns_tests.dhcp_lan import (
    a_thousand_wait,
    address_of,
    await_renewal,
    ended_ping,
    kill_daemon,
    lan,
    leases,
    macvlan,
)
from netns_tests.node import Answer, Netns, Node, Running, started, until
from netns_tests.plugins import MESOKIT, service, signal_service

SERVER = "fd77::1"


def six(**ipam: Any) -> dict[str, Any]:
    return macvlan(families=["ipv6"], **ipam)


@contextmanager
def lan6(node: Node) -> Iterator[Netns]:
    with lan(node) as server:
        server.run(["ip", "addr", "add", f"{SERVER}/64", "dev", "lan1", "nodad"])
        until(lambda: "tentative" not in server.run(["ip", "-6", "addr"]).text, what="the server's addresses")
        yield server


def bridged(**delegation: Any) -> dict[str, Any]:
    """A network on a bridge, with a prefix that a router of the link delegates."""
    return {
        "cniVersion": "1.1.0",
        "name": "web",
        "type": "bridge",
        "bridge": "web0",
        "isDefaultGateway": True,
        "ipMasq": True,
        "ipam": {
            "type": "host-local",
            "subnet": "10.60.0.0/24",
            "prefixDelegation": {"uplink": "lan0", "length": 60, **delegation},
        },
    }


def at_once(ours: str, *calls: tuple[Netns, dict[str, Any]]) -> list[Answer]:
    """The answers to an ADD of each container and configuration, which wait together."""

    def add(call: tuple[Netns, dict[str, Any]]) -> Answer:
        box, conf = call
        return box.node.cni("ADD", f"{ours}/{conf['type']}", conf, box.name, box)

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(add, calls))


def global_of(box: Netns, ifname: str = "eth0") -> list[dict[str, Any]]:
    """The IPv6 addresses of an interface but the link-local one."""
    found = box.run(["ip", "-j", "addr", "show", "dev", ifname], check=False)
    listed = json.loads(found.text or "[]") if found.status == 0 else []
    return [
        item
        for link in listed
        for item in link.get("addr_info", [])
        if item.get("family") == "inet6" and item["scope"] != "link"
    ]


def texts(box: Netns, ifname: str = "eth0") -> list[str]:
    return [f"{item['local']}/{item['prefixlen']}" for item in global_of(box, ifname)]


def reaches(box: Netns, server: Netns) -> bool:
    """A ping by the link: DHCPv6 gave no route to the prefix."""
    box.run(["ip", "-6", "route", "replace", f"{SERVER}/128", "dev", "eth0"])
    return box.ping(SERVER)


@contextmanager
def dnsmasq6(
    server: Netns, *options: str, pool: str = "fd77::100,fd77::1ff", seconds: int = 120
) -> Iterator[Running]:
    running = server.popen(
        [
            "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=lan1",
            "--bind-interfaces", "--log-dhcp", "--log-facility=-", "--user=root", "--leasefile-ro",
            f"--dhcp-range={pool},64,{seconds}", *options,
        ]
    )  # fmt: skip
    with started(running):
        until(lambda: running.ended() or b"started" in running.errors(), what="dnsmasq serves")
        assert not running.ended(), running.errors()
        yield running


@contextmanager
def kea6(
    server: Netns, *, seconds: int = 10, pool: str = "fd77::300-fd77::3ff", rapid: bool = False,
    delegated: tuple[str, int] | None = None, **keys: Any,
) -> Iterator[Running]:  # fmt: skip
    """ISC's server, with leases as short as a test wants them; `delegated` are a prefix, and the length of
    those that it delegates out of it.
    """
    node = server.node
    prefixes = []
    if delegated is not None:
        first, _, length = delegated[0].partition("/")
        prefixes = [{"prefix": first, "prefix-len": int(length), "delegated-len": delegated[1]}]
    conf = {
        "Dhcp6": {
            "interfaces-config": {"interfaces": ["lan1"]},
            "lease-database": {"type": "memfile", "persist": False},
            "preferred-lifetime": seconds - 1,
            "valid-lifetime": seconds,
            "renew-timer": seconds // 2,
            "rebind-timer": seconds * 4 // 5,
            "subnet6": [
                {
                    "id": 1,
                    "subnet": "fd77::/64",
                    "interface": "lan1",
                    "rapid-commit": rapid,
                    "pools": [{"pool": pool}],
                    "pd-pools": prefixes,
                    "option-data": [
                        {"name": "dns-servers", "data": "fd77::53, fd77::54"},
                        {"name": "domain-search", "data": "a.example.net, example.org"},
                    ],
                }
            ],
            "loggers": [{"name": "kea-dhcp6", "severity": "INFO", "output_options": [{"output": "stdout"}]}],
            **keys,
        }
    }
    node.path("/run/kea6.json").write_text(json.dumps(conf))
    node.path("/run/kea-dhcp6-serverid").unlink(missing_ok=True)
    node.run(["mkdir", "-p", "/var/lib/kea"])
    env = {"KEA_PIDFILE_DIR": "/run", "KEA_LOCKFILE_DIR": "none"}
    with started(server.popen(["kea-dhcp6", "-c", "/run/kea6.json"], env=env)) as running:
        until(lambda: running.ended() or b"DHCP6_STARTED" in running.output(), what="kea serves")
        assert not running.ended(), running.output()
        yield running


@pytest.mark.parametrize("way", ["service", "alone"])
def test_a_lease_from_dnsmasq_and_back(node: Node, ours: str, way: str) -> None:
    with lan6(node) as server, dnsmasq6(
        server, "--dhcp-option=option6:dns-server,[fd77::53]",
        "--dhcp-option=option6:domain-search,a.example.net,example.org",
    ) as dns, (service(node) if way == "service" else started(node.popen([MESOKIT, "dhcp"]))):  # fmt: skip
        until(node.path("/run/mesokit/dhcp.sock").is_socket, what="the lease daemon listens")
        box = node.netns("c1")
        result = node.cni("ADD", f"{ours}/macvlan", six(), "c1", box).ok()
        (ip,) = result["ips"]
        assert re.fullmatch(r"fd77::1[0-9a-f]{2}/128", ip["address"])
        assert "gateway" not in ip
        assert result.get("routes", []) == []
        assert result["dns"] == {"nameservers": ["fd77::53"], "search": ["a.example.net", "example.org"]}
        assert texts(box) == [ip["address"]]
        assert address_of(box) == []
        assert reaches(box, server)
        until(lambda: global_of(box)[0]["valid_life_time"] <= 120, what="it lives as long as the lease")
        node.cni("CHECK", f"{ours}/macvlan", {**six(), "prevResult": result}, "c1", box).ok()
        assert [lease["address"] for lease in leases(node)] == [ip["address"]]
        assert ip["address"] in node.run([MESOKIT, "dhcp", "leases"]).text
        node.cni("DEL", f"{ours}/macvlan", six(), "c1", box).ok()
        until(lambda: b"DHCPRELEASE" in dns.errors(), what="the server hears of the release")
        assert leases(node) == []
        again = node.cni("ADD", f"{ours}/macvlan", six(), "c1", box).ok()
        assert again["ips"] == result["ips"], "a container that comes back is known"
        node.cni("DEL", f"{ours}/macvlan", six(), "c1", box).ok()
        node.cni("DEL", f"{ours}/macvlan", six(), "c1", box).ok()


def test_both_families_in_one_attachment(node: Node, ours: str) -> None:
    with lan6(node) as server, service(node), dnsmasq6(
        server, "--dhcp-range=10.77.1.1,10.77.1.250,255.255.0.0,120", "--dhcp-option=3,10.77.0.1",
        "--dhcp-option=6,10.77.0.53", "--dhcp-option=option6:dns-server,[fd77::53]",
    ) as dns:  # fmt: skip
        box = node.netns("c1")
        conf = macvlan(families=["ipv4", "ipv6"])
        result = node.cni("ADD", f"{ours}/macvlan", conf, "c1", box).ok()
        assert [ip["address"] for ip in result["ips"]] == [*address_of(box), *texts(box)]
        assert len(result["ips"]) == 2
        assert result["dns"]["nameservers"] == ["10.77.0.53", "fd77::53"]
        assert len(leases(node)) == 2
        node.cni("CHECK", f"{ours}/macvlan", {**conf, "prevResult": result}, "c1", box).ok()
        node.cni("DEL", f"{ours}/macvlan", {"name": "lan", "type": "macvlan"}, "c1", box).ok()
        until(lambda: dns.errors().count(b"DHCPRELEASE") == 2, what="the server hears of both")
        assert leases(node) == []


def _renewed(node: Node, box: Netns) -> None:
    """Until the lease, of 6 s, is a younger one than now."""
    await_renewal(node, lambda: int(global_of(box)[0]["valid_life_time"]), 6)


def test_leases_are_renewed_while_daemons_die_and_are_replaced(node: Node, ours: str) -> None:
    """As for IPv4: not one packet is lost."""
    with lan6(node) as server, kea6(server, seconds=6) as kea:
        box = node.netns("c1")
        with service(node):
            result = node.cni("ADD", f"{ours}/macvlan", six(), "c1", box).ok()
            assert result["dns"] == {
                "nameservers": ["fd77::53", "fd77::54"], "search": ["a.example.net", "example.org"],
            }  # fmt: skip
            assert reaches(box, server)
            pings = box.popen(["busybox", "ping", "-6", SERVER])
            kill_daemon(node)
            _renewed(node, box)
            signal_service(node, "KILL")
        with service(node):
            _renewed(node, box)
            with started(node.popen([MESOKIT, "node"])):  # takes over: an upgrade
                _renewed(node, box)
                ended_ping(pings)
                assert texts(box) == [ip["address"] for ip in result["ips"]]
                node.cni("DEL", f"{ours}/macvlan", six(), "c1", box).ok()
                until(lambda: b"DHCP6_RELEASE" in kea.output(), what="kea hears of the release")


def test_rapid_commit_saves_a_round(node: Node, ours: str) -> None:
    with lan6(node) as server, service(node), kea6(server, seconds=60, rapid=True) as kea:
        box = node.netns("c1")
        node.cni("ADD", f"{ours}/macvlan", six(), "c1", box).ok()
        assert len(texts(box)) == 1
        assert b"DHCP6_LEASE_ALLOC" in kea.output()
        assert b"DHCP6_LEASE_ADVERT" not in kea.output()


def test_a_server_that_is_gone_and_back(node: Node, ours: str) -> None:
    with lan6(node) as server, service(node):
        box = node.netns("c1")
        with kea6(server, seconds=6):
            node.cni("ADD", f"{ours}/macvlan", six(), "c1", box).ok()
            assert len(texts(box)) == 1
        until(lambda: texts(box) == [], what="the address goes with the lease")
        until(lambda: leases(node)[0]["state"] == "init", what="the lease is lost")
        assert "is lost" in leases(node)[0]["told"]
        with kea6(server, seconds=60, pool="fd77::400-fd77::4ff"):
            until(lambda: len(texts(box)) == 1, what="there is a lease again", seconds=90)
            assert leases(node)[0]["address"] == texts(box)[0]
            assert reaches(box, server)
        node.cni("DEL", f"{ours}/macvlan", six(), "c1", box).ok()


def test_a_server_that_forgot_gives_the_same_address(node: Node, ours: str) -> None:
    """NoBinding, as after the loss of its database: the lease goes on without the address having gone."""
    with lan6(node) as server, service(node):
        box = node.netns("c1")
        with kea6(server, seconds=8):
            node.cni("ADD", f"{ours}/macvlan", six(), "c1", box).ok()
            before = texts(box)
            assert reaches(box, server)
            pings = box.popen(["busybox", "ping", "-6", SERVER])
        with kea6(server, seconds=8):
            await_renewal(node, lambda: int(global_of(box)[0]["valid_life_time"]), 8)
            ended_ping(pings)
            assert texts(box) == before


def test_an_address_that_somebody_has_is_declined(node: Node, ours: str) -> None:
    with lan6(node) as server, service(node):
        with kea6(server, seconds=60, pool="fd77::500-fd77::502") as kea:
            for last in ("500", "501", "502"):
                server.run(["ip", "addr", "add", f"fd77::{last}/128", "dev", "lan1", "nodad"])
            box = node.netns("c1")
            answer = node.cni("ADD", f"{ours}/macvlan", six(), "c1", box)
            assert answer.code == 11
            assert "fd77::500 is in use by" in str(answer.error)
            assert b"DHCP6_DECLINE_LEASE" in kea.output()
            assert leases(node) == []
        with kea6(server, seconds=60, pool="fd77::502-fd77::503"):
            (ip,) = node.cni("ADD", f"{ours}/macvlan", six(), "c1", box).ok()["ips"]
            assert ip["address"] == "fd77::503/128"


def test_without_a_server_the_error_says_so(node: Node, ours: str) -> None:
    with lan6(node), service(node):
        address, prefix = at_once(ours, (node.netns("c1"), six()), (node.netns("c2"), bridged()))
        assert (address.code, prefix.code) == (11, 11)
        assert "no DHCPv6 server gave eth0 an address" in str(address.error)
        assert "no DHCPv6 server gave lan0 a prefix" in str(prefix.error)
        assert leases(node) == []


def test_a_container_that_vanished_is_forgotten(node: Node, ours: str) -> None:
    with lan6(node) as server, service(node), kea6(server, seconds=4):
        box = node.netns("c1")
        node.cni("ADD", f"{ours}/macvlan", six(), "c1", box).ok()
        box.delete()
        until(lambda: leases(node) == [], what="the lease has ended and is forgotten", seconds=30)
        node.cni("DEL", f"{ours}/macvlan", six(), "c1", None).ok()


def test_a_bridge_port_asks_too(node: Node, ours: str) -> None:
    """Its interface was up before: the link-local address is waited for."""
    with lan6(node) as server, service(node), kea6(server, seconds=60):
        node.run(["ip", "link", "add", "br0", "type", "bridge"])
        node.run(["ip", "link", "set", "lan0", "master", "br0"])
        node.run(["ip", "link", "set", "br0", "up"])
        box = node.netns("c1")
        conf = {**six(), "type": "bridge", "bridge": "br0"}
        node.cni("ADD", f"{ours}/bridge", conf, "c1", box).ok()
        assert reaches(box, server)
        node.cni("DEL", f"{ours}/bridge", conf, "c1", box).ok()
        assert leases(node) == []


@pytest.mark.cold
def test_a_thousand_leases_wait_in_one_process(node: Node, ours: str) -> None:
    with lan6(node) as server, kea6(server, seconds=3600):
        a_thousand_wait(node, f"{ours}/macvlan", six(), version=6)
