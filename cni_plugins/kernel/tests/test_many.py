"""What a node has many of: ports of a bridge, routes of a container and of the node itself."""

import random
import socket
import subprocess
from collections.abc import Iterator, Sequence
from ipaddress import ip_address, ip_interface

import pytest

from cni_plugins.conftest import World, new_namespace
from cni_plugins.kernel import bridges, links, routes
from cni_plugins.kernel.namespace import entered
from cni_plugins.kernel.netlink import route as netlink_route
from cni_plugins.kernel.netlink.route import Netlink
from cni_plugins.spec.deadline import after
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.result import Route

PORTS = 1023


@pytest.fixture
def netlink(namespace: Namespace) -> Iterator[Netlink]:
    with Netlink(namespace, after(300)) as opened:
        yield opened


def ip_batch(namespace: Namespace, lines: Sequence[str]) -> None:
    """Lines for ip(8), then those that begin with -6."""
    six = [line.removeprefix("-6 ") for line in lines if line.startswith("-6 ")]
    four = [line for line in lines if not line.startswith("-6 ")]
    with entered(namespace):
        for family, some in (("-4", four), ("-6", six)):
            subprocess.run(["ip", family, "-batch", "-"], input="\n".join(some), text=True, check=True)


def add_port(netlink: Netlink, number: int, bridge: int, other: Namespace) -> None:
    mac, peer = links.random_mac(), links.random_mac()
    name = f"v{number}"
    netlink.request(
        links.create_veth(name, f"e{number}", other.fd, mtu=0, mac=mac, peer_mac=peer, master=bridge)
    )


def test_a_port_with_a_high_number_is_a_port(netlink: Netlink) -> None:
    """A bridge that had 1,023 ports and has the last one left is not removed under it, and says when it is
    full.
    """
    other = new_namespace()
    bridges.create(netlink, "br0", "02:00:00:00:00:01", mtu=0, promisc=False, vlan_filtering=False)
    bridge = bridges.find(netlink, "br0")
    assert bridge is not None
    for number in range(PORTS):
        add_port(netlink, number, bridge.index, other)
    with pytest.raises(CniError, match="cannot create veth v1023") as caught:
        add_port(netlink, PORTS, bridge.index, other)
    assert "the bridge has 1,023 ports" in caught.value.details
    ip_batch(netlink.namespace, [f"link set v{number} group 7" for number in range(PORTS - 1)])
    ip_batch(netlink.namespace, ["link del group 7"])
    assert bridges.has_ports(netlink, "br0")
    assert not bridges.release(netlink, "br0", bridge.mac)
    links.remove(netlink, f"v{PORTS - 1}")
    assert bridges.release(netlink, "br0", bridge.mac)


def test_where_the_old_question_is_gone_the_ports_are_listed(
    netlink: Netlink, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(descriptor: int, request: int, argument: bytes) -> bytes:
        raise OSError(95, "Operation not supported")

    bridges.create(netlink, "br0", "02:00:00:00:00:01", mtu=0, promisc=False, vlan_filtering=False)
    bridge, other = bridges.find(netlink, "br0"), new_namespace()
    assert bridge is not None
    monkeypatch.setattr("cni_plugins.kernel.bridges.fcntl.ioctl", refused)
    assert not bridges.has_ports(netlink, "br0")
    add_port(netlink, 0, bridge.index, other)
    assert bridges.has_ports(netlink, "br0")


@pytest.mark.parametrize("count", [300, 5000])
def test_a_batch_has_any_size(netlink: Netlink, count: int) -> None:
    """Answers of the kernel fill the socket's queue after some 270; every one is heard, in order."""
    ip_batch(netlink.namespace, ["link set lo up"])
    wanted = [Route(ip_interface(f"10.{n >> 8}.{n & 255}.0/24"), None) for n in range(count)]
    answers = netlink.request(*[routes.add(route, 1) for route in wanted])
    assert [answer.error for answer in answers] == [0] * count
    assert {item.route.dst for item in routes.every(netlink, 4, table=254)} == {item.dst for item in wanted}
    last = Route(ip_interface("10.255.255.0/24"), ip_address("192.0.2.1"))
    with pytest.raises(CniError, match=r"add route to 10\.255\.255"):
        netlink.request(routes.add(last, 1), *[routes.delete(route, 1) for route in wanted])
    assert routes.every(netlink, 4, table=254) == []


def test_three_hundred_routes_of_an_ipam(world: World) -> None:
    listed = [{"dst": f"10.{200 + n // 100}.{n % 100}.0/24"} for n in range(300)]
    ipam = {"type": "static", "addresses": [{"address": "10.1.0.2/24", "gateway": "10.1.0.1"}]}
    config = {"cniVersion": "1.0.0", "name": "n", "type": "ptp", "ipam": ipam | {"routes": listed}}
    assert len(world.add(config)["routes"]) == 300
    assert len(world.json("ip", "-j", "route", box="c1")) >= 300
    world.delete(config)


def uplinks(namespace: Namespace, more: Sequence[str] = ()) -> None:
    ip_batch(
        namespace,
        [
            "link set lo up",
            "link add up0 type veth peer name up1",
            "link set up0 up",
            "link set up1 up",
            "addr add 10.9.0.1/24 dev up0",
            "-6 addr add fd00::1/64 dev up0 nodad",
            *more,
        ],
    )


@pytest.mark.parametrize(
    ("version", "lines", "expected"),
    [
        (4, [], ""),
        (6, [], ""),
        (4, ["route add default via 10.9.0.2"], "up0"),
        (6, ["-6 route add default via fd00::2"], "up0"),
        (4, ["route add default via 10.9.0.2 metric 9", "route add default dev up1 metric 5"], "up1"),
        (6, ["-6 route add default via fd00::2 metric 9", "-6 route add default dev up1 metric 5"], "up1"),
        (4, ["route add default nexthop via 10.9.0.2 nexthop via 10.9.0.3"], "up0"),
        (6, ["-6 route add default nexthop via fd00::2 nexthop via fd00::3"], "up0"),
        # The addresses that are asked for have routes of their own, or another table has the last word.
        (4, ["route add default dev up0", "route add 128.0.0.0/1 dev up1"], "up0"),
        (6, ["-6 route add default dev up0", "-6 route add ::/1 dev up1"], "up0"),
        (4, ["route add default dev up0", "route add default dev up1 table 7", "rule add table 7"], "up0"),
        (
            6,
            ["-6 route add default dev up0", "-6 route add default dev up1 table 7", "-6 rule add table 7"],
            "up0",
        ),
        (4, ["route add blackhole default metric 9", "route add default dev up1 metric 20"], "up1"),
    ],
)
def test_the_link_of_the_default_route(
    netlink: Netlink, version: int, lines: list[str], expected: str
) -> None:
    uplinks(netlink.namespace, lines)
    link = links.find_index(netlink, routes.default_link(netlink, version) or 1 << 30)
    assert (link.name if link is not None else "") == expected


def test_the_default_link_of_a_router_is_not_looked_for_among_its_routes(
    netlink: Netlink, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = [f"route add {16 + n // 62500}.{n // 250 % 250}.{n % 250}.0/24 dev up1" for n in range(20_000)]
    more += [f"-6 route add 2001:db8:{n:x}::/48 dev up1" for n in range(500)]
    uplinks(netlink.namespace, [*more, "route add default dev up0", "-6 route add default dev up0"])

    def refused(self: Netlink, doing: str, *rest: object) -> list[bytes]:
        raise AssertionError(doing)

    monkeypatch.setattr(netlink_route.Netlink, "dump", refused)
    found = [links.find_index(netlink, routes.default_link(netlink, version)) for version in (4, 6)]
    assert [link.name if link else "" for link in found] == ["up0", "up0"]


def listen(box: Namespace) -> socket.socket:
    with entered(box):
        return socket.create_server(("0.0.0.0", 80), backlog=200)


def answers(host: Namespace, address: str) -> bool:
    with entered(host):
        asking = socket.socket()
    with asking:
        asking.settimeout(30)
        return asking.connect_ex((address, 80)) == 0


def test_ports_come_and_go_in_any_order_beside_one_that_stays(world: World) -> None:
    """1,000 ports on one bridge: one container answers all the time, whoever is detached."""
    config = {
        "cniVersion": "1.0.0",
        "name": "n",
        "type": "bridge",
        "bridge": "app0",
        "isDefaultGateway": True,
        "ipam": {"type": "host-local", "subnet": "10.50.0.0/16"},
    }
    staying = world.add(config, "stays")["ips"][0]["address"].split("/")[0]
    with Netlink(world.host, after(300)) as netlink, listen(world.box("stays")):
        bridge = bridges.find(netlink, "app0")
        assert bridge is not None
        other = world.box("others")
        for number in range(980):  # as many calls would take a minute
            add_port(netlink, number, bridge.index, other)
        for number in range(20):
            world.add(config, f"c{number}")
        order = [f"v{number}" for number in range(980)] + [f"c{number}" for number in range(20)]
        random.Random(7).shuffle(order)
        for start in range(0, 1000, 20):
            some = order[start : start + 20]
            ports = [name for name in some if name.startswith("v")]
            for name in set(some).difference(ports):
                world.delete(config, name)
            links.remove(netlink, ports.pop())
            # One after another would take 20 ms each: the kernel takes a group at once.
            ip_batch(world.host, [*(f"link set {name} group {start + 1}" for name in ports)])
            ip_batch(world.host, [f"link del group {start + 1}"])
            assert answers(world.host, staying)
        assert len(links.every(netlink, master=bridge.index)) == 1
        assert answers(world.host, staying)
        world.delete(config, "stays")
        assert bridges.find(netlink, "app0") is None
