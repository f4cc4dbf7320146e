"""The dhcp plugin against real servers in a private node: leases got, renewed, lost, and given back."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from netns_tests.dhcp_lan import (
    SERVER,
    a_thousand_wait,
    address_of,
    await_renewal,
    began,
    cost_of,
    daemon_of,
    dnsmasq,
    ended_ping,
    kea,
    kill_daemon,
    lan,
    leases,
    lifetime_of,
    macvlan,
    udhcpd,
)
from netns_tests.node import Netns, Node, started, until
from netns_tests.plugins import MESOKIT, service, signal_service


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


def test_leases_are_renewed_while_daemons_die_and_are_replaced(node: Node, ours: str) -> None:
    """Leases of 6 s: the lease daemon is killed, the whole service is killed, and it is upgraded; not one
    packet is lost, and nobody ever takes the address away.
    """
    with lan(node) as server, udhcpd(server, seconds=6):
        box = node.netns("c1")
        with service(node):
            (ip,) = node.cni("ADD", f"{ours}/macvlan", macvlan(), "c1", box).ok()["ips"]
            pings = box.popen(["busybox", "ping", SERVER])
            assert leases(node)[0]["seconds"] <= 6
            killed = kill_daemon(node)
            _renewed(node, box)
            assert daemon_of(node) != killed
            signal_service(node, "KILL")
        with service(node):
            _renewed(node, box)
            with started(node.popen([MESOKIT, "node"])):  # takes over: an upgrade
                _renewed(node, box)
                _renewed(node, box)
                ended_ping(pings)
                assert address_of(box) == [ip["address"]]


def _renewed(node: Node, box: Netns) -> None:
    """Until the lease, of 6 s, is a younger one than now."""
    await_renewal(node, lambda: lifetime_of(box), 6)


def test_a_server_that_is_gone_and_back(node: Node, ours: str) -> None:
    with lan(node) as server, service(node):
        box = node.netns("c1")
        with udhcpd(server, seconds=6):
            node.cni("ADD", f"{ours}/macvlan", macvlan(), "c1", box).ok()
            assert len(address_of(box)) == 1
        until(lambda: address_of(box) == [], what="the address goes with the lease")
        until(lambda: leases(node)[0]["state"] == "init", what="the lease is lost")
        assert "is lost" in leases(node)[0]["told"]
        answer = node.cni(
            "CHECK",
            f"{ours}/macvlan",
            {
                **macvlan(),
                "prevResult": {
                    "cniVersion": "1.0.0",
                    "interfaces": [{"name": "eth0", "sandbox": box.path}],
                    "ips": [],
                },
            },
            "c1",
            box,
        )
        assert answer.code == 999
        with udhcpd(server, seconds=60):
            until(lambda: len(address_of(box)) == 1, what="there is a lease again", seconds=90)
            assert box.ping(SERVER)
            assert any(route.get("gateway") == SERVER for route in box.json("ip", "-j", "route"))
        node.cni("DEL", f"{ours}/macvlan", macvlan(), "c1", box).ok()


def test_a_server_that_refuses_a_lease_gives_another(node: Node, ours: str) -> None:
    with lan(node) as server, service(node):
        box = node.netns("c1")
        with udhcpd(server, seconds=4):
            node.cni("ADD", f"{ours}/macvlan", macvlan(), "c1", box).ok()
        with udhcpd(server, seconds=60, first="10.77.2.1", last="10.77.2.9"):
            until(
                lambda: any(address.startswith("10.77.2.") for address in address_of(box)),
                what="the container has an address of the new pool", seconds=60,
            )  # fmt: skip
            assert len(address_of(box)) == 1
            assert box.ping(SERVER)
            assert leases(node)[0]["address"] == address_of(box)[0]
        node.cni("DEL", f"{ours}/macvlan", macvlan(), "c1", box).ok()


def test_an_address_that_somebody_has_is_declined(node: Node, ours: str) -> None:
    with lan(node) as server, service(node):
        with dnsmasq(server, pool="10.77.1.1,10.77.1.2") as dns:
            box = node.netns("c1")
            for number in (1, 2):
                server.run(["ip", "addr", "add", f"10.77.1.{number}/32", "dev", "lo"])
            answer = node.cni("ADD", f"{ours}/macvlan", macvlan(), "c1", box)
            assert answer.code == 11
            assert "in use by" in str(answer.error)
            assert b"DHCPDECLINE" in dns.errors()
            assert leases(node) == []
            assert box.run(["ip", "-j", "link", "show", "dev", "eth0"], check=False).status != 0
        with udhcpd(server, first="10.77.1.2", last="10.77.1.3"):
            (ip,) = node.cni("ADD", f"{ours}/macvlan", macvlan(), "c1", box).ok()["ips"]
            assert ip["address"] == "10.77.1.3/16"


def test_two_interfaces_have_a_lease_each(node: Node, ours: str) -> None:
    with lan(node) as server, service(node), udhcpd(server, seconds=60):
        box = node.netns("c1")
        second = {**macvlan(), "name": "lan2"}
        for conf, ifname in ((macvlan(), "eth0"), (second, "eth1")):
            node.cni("ADD", f"{ours}/macvlan", conf, "c1", box, ifname=ifname).ok()
        assert address_of(box) != address_of(box, "eth1")
        assert len(leases(node)) == 2
        node.cni("DEL", f"{ours}/macvlan", macvlan(), "c1", box, ifname="eth0").ok()
        (left,) = leases(node)
        assert left["interface"] == "eth1"
        assert [left["address"]] == address_of(box, "eth1")


def test_without_a_lease_daemon_the_error_says_what_to_do(node: Node, ours: str) -> None:
    with lan(node) as server, udhcpd(server):
        box = node.netns("c1")
        answer = node.cni("ADD", f"{ours}/macvlan", macvlan(), "c1", box)
        assert answer.code == 11
        for word in ("lease daemon", "/run/mesokit/dhcp.sock", "mesokit dhcp", "mesokit node"):
            assert word in str(answer.error)
        assert box.run(["ip", "-j", "link", "show", "dev", "eth0"], check=False).status != 0
        node.cni("DEL", f"{ours}/macvlan", macvlan(), "c1", box).ok()
        status = node.cni("STATUS", f"{ours}/macvlan", {**macvlan(), "cniVersion": "1.1.0"}, "", None)
        assert status.code == 11


def test_a_del_gives_back_without_a_daemon(node: Node, ours: str) -> None:
    with lan(node) as server, dnsmasq(server) as dns:
        box = node.netns("c1")
        with started(node.popen([MESOKIT, "dhcp"])):
            until(node.path("/run/mesokit/dhcp.sock").is_socket, what="the lease daemon listens")
            node.cni("ADD", f"{ours}/macvlan", macvlan(), "c1", box).ok()
        node.cni("DEL", f"{ours}/macvlan", macvlan(), "c1", box).ok()
        until(lambda: b"DHCPRELEASE" in dns.errors(), what="the server hears of the release")
        assert leases(node) == []


def test_a_container_that_vanished_is_forgotten(node: Node, ours: str) -> None:
    with lan(node) as server, service(node), udhcpd(server, seconds=4):
        box = node.netns("c1")
        node.cni("ADD", f"{ours}/macvlan", macvlan(), "c1", box).ok()
        box.delete()
        until(lambda: leases(node) == [], what="the lease has ended and is forgotten", seconds=30)
        node.cni("DEL", f"{ours}/macvlan", macvlan(), "c1", None).ok()


def test_as_the_reference_daemon_is_started(node: Node, ours: str) -> None:
    """`dhcp daemon -socketpath PATH -pidfile PATH`, for a runtime that starts it."""
    words = ["-socketpath", "/run/cni/dhcp.sock", "-pidfile=/run/dhcp.pid", "-timeout", "10s", "-broadcast"]
    with lan(node) as server, udhcpd(server, seconds=60):
        with started(node.popen([f"{ours}/dhcp", "daemon", *words])) as running:
            socket = node.path("/run/cni/dhcp.sock")
            until(lambda: running.ended() or socket.is_socket(), what="the daemon listens")
            assert int(node.path("/run/dhcp.pid").read_text()) > 0
            box = node.netns("c1")
            conf = macvlan(daemonSocketPath="/run/cni/dhcp.sock")
            node.cni("ADD", f"{ours}/macvlan", conf, "c1", box).ok()
            assert len(address_of(box)) == 1
            node.cni("DEL", f"{ours}/macvlan", conf, "c1", box).ok()
        assert node.run([f"{ours}/dhcp", "daemon", "-wrong"], check=False).status == 2


def test_a_bridge_asks_by_the_port_that_it_made(node: Node, ours: str) -> None:
    with lan(node) as server, service(node), udhcpd(server, seconds=60):
        node.run(["ip", "link", "add", "br0", "type", "bridge"])
        node.run(["ip", "link", "set", "lan0", "master", "br0"])
        node.run(["ip", "link", "set", "br0", "up"])
        box = node.netns("c1")
        conf = {**macvlan(), "type": "bridge", "bridge": "br0"}
        node.cni("ADD", f"{ours}/bridge", conf, "c1", box).ok()
        assert box.ping(SERVER)
        node.cni("DEL", f"{ours}/bridge", conf, "c1", box).ok()


def test_what_the_client_says_of_itself(node: Node, ours: str) -> None:
    with lan(node) as server, service(node), dnsmasq(server) as dns:
        box = node.netns("c1")
        conf = macvlan(
            provide=[
                {"option": "host-name", "fromArg": "K8S_POD_NAME"},
                {"option": "vendor-class-identifier", "value": "mesokit-test"},
            ],
            request=[{"skipDefault": True, "option": "subnet-mask"}, {"option": "42"}],
        )
        args = {"CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAME=web-1"}
        node.cni("ADD", f"{ours}/macvlan", conf, "c1", box, env=args).ok()
        log = dns.errors().decode()
        assert "client provides name: web-1" in log
        assert "vendor class: mesokit-test" in log
        assert re.search(r"requested options: 1:netmask, 42:ntp-server\n", log)


def test_kea_renews(node: Node, ours: str) -> None:
    with lan(node) as server, service(node), kea(server, seconds=6) as running:
        box = node.netns("c1")
        result = node.cni("ADD", f"{ours}/macvlan", macvlan(), "c1", box).ok()
        assert result["ips"][0]["address"].startswith("10.77.3.")
        assert [(route["dst"], route["gw"]) for route in result["routes"]] == [("10.99.2.0/24", "10.77.0.9")]
        _renewed(node, box)
        _renewed(node, box)
        assert [ip["address"] for ip in result["ips"]] == address_of(box)
        node.cni("DEL", f"{ours}/macvlan", macvlan(), "c1", box).ok()
        until(lambda: b"DHCP4_RELEASE" in running.output(), what="kea hears of the release")


@pytest.mark.cold
def test_fifty_leases_are_renewed_and_cost_nothing_between(node: Node, ours: str) -> None:
    with lan(node) as server, service(node), kea(server, seconds=12):
        boxes = [node.netns(f"c{number}") for number in range(50)]

        def attach(number: int) -> None:
            node.cni("ADD", f"{ours}/macvlan", macvlan(), f"c{number}", boxes[number]).ok()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(attach, range(50)))
        given = {address_of(box)[0] for box in boxes}
        assert len(given) == 50
        before = began(node)
        until(
            lambda: all(now > then for now, then in zip(began(node), before, strict=True)),
            what="all leases are renewed",
        )
        assert {address_of(box)[0] for box in boxes} == given
        until(lambda: cost_of(node)[0] < 30, what="none has a socket between its renewals")
        sys.stderr.write(f"50 leases: {cost_of(node)[1]} kB of memory\n")
        valid = [{"containerID": "c0", "ifname": "eth0"}]
        gc = {**macvlan(), "cniVersion": "1.1.0", "cni.dev/valid-attachments": valid}
        node.cni("GC", f"{ours}/macvlan", gc, "", None, ifname="").ok()
        assert [lease["container"] for lease in leases(node)] == ["c0"]


@pytest.mark.cold
def test_a_thousand_leases_wait_in_one_process(node: Node, ours: str) -> None:
    with lan(node) as server, dnsmasq(server, seconds=3600):
        a_thousand_wait(node, f"{ours}/macvlan", macvlan(), version=4)


def test_the_reference_gets_the_same(node: Node, ours: str, reference: str) -> None:
    """A server gives both the same address. The reference asks for option 121 only if told to, and leaves
    name servers out.
    """
    with lan(node) as server, dnsmasq(
        server,
        f"--dhcp-option=3,{SERVER}",
        "--dhcp-option=121,10.99.0.0/16,10.77.0.9,0.0.0.0/0,10.77.0.1",
        "--dhcp-option=6,10.77.0.53",
        "--dhcp-option=26",
        "--dhcp-option=28",
    ):  # fmt: skip
        box = node.netns("c1")
        conf = {**macvlan(request=[{"option": "121"}]), "runtimeConfig": {"mac": "02:00:00:00:77:01"}}
        with started(node.popen([f"{reference}/dhcp", "daemon"])):
            until(node.path("/run/cni/dhcp.sock").is_socket, what="the reference's daemon listens")
            theirs = node.cni("ADD", f"{reference}/macvlan", conf, "c1", box).ok()
            node.cni("DEL", f"{reference}/macvlan", conf, "c1", box).ok()
            other = macvlan(daemonSocketPath="/run/cni/dhcp.sock")
            refused = node.cni("ADD", f"{ours}/macvlan", other, "c1", box)
            assert refused.code == 11
            assert "no lease daemon of this toolkit" in str(refused.error)
        with service(node):
            result = node.cni("ADD", f"{ours}/macvlan", conf, "c1", box).ok()
            assert result["ips"] == theirs["ips"]
            assert result["routes"] == theirs["routes"]
            assert theirs["dns"] == {}
            assert result["dns"] == {"nameservers": ["10.77.0.53"]}


def test_a_main_plugin_of_the_reference_asks_ours(node: Node, ours: str, reference: str) -> None:
    with lan(node) as server, service(node), udhcpd(server, seconds=6):
        box = node.netns("c1")
        path = f"{ours}:{reference}"
        node.cni("ADD", f"{reference}/macvlan", macvlan(), "c1", box, cni_path=path).ok()
        _renewed(node, box)
        assert len(address_of(box)) == 1
        assert leases(node)[0]["state"] == "bound"
        node.cni("DEL", f"{reference}/macvlan", macvlan(), "c1", box, cni_path=path).ok()
        assert leases(node) == []
