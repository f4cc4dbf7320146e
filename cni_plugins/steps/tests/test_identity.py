"""What is undone is what was made: by MAC address, namespace and tag, never by a name alone."""

import json
import time
from typing import Any

import pytest

from cni_plugins.conftest import World
from cni_plugins.kernel import links
from cni_plugins.kernel.netlink.route import Netlink
from cni_plugins.spec.deadline import after

IPAM = {"type": "host-local", "subnet": "10.9.0.0/24"}
BRIDGE: dict[str, Any] = {"cniVersion": "1.1.0", "name": "n", "type": "bridge", "bridge": "br0", "ipam": IPAM}
PTP: dict[str, Any] = {**BRIDGE, "type": "ptp"}
LIMITS = {
    "type": "bandwidth",
    "ingressRate": 8_000_000,
    "ingressBurst": 800_000,
    "egressRate": 4_000_000,
    "egressBurst": 400_000,
}


def die(world: World, box: str, link: str = "web0") -> None:
    """Let a container's namespace die, and its pair with it, which the kernel does in its own time."""
    world.forget(box)
    end = time.monotonic() + 30
    while link in world.links():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("conf", [BRIDGE, PTP], ids=["bridge", "ptp"])
def test_a_late_del_leaves_the_link_that_took_the_name(world: World, conf: dict[str, Any]) -> None:
    """C2. The old namespace dies, a new container gets the same `hostInterface`, then the old one's DEL."""
    conf = conf | {"hostInterface": "web0"}
    world.add(conf, "old")
    die(world, "old")
    result = world.add(conf, "new")
    world.delete({"name": "n", "type": conf["type"]}, "old")
    assert "web0" in world.links()
    assert "eth0" in world.links("new")
    assert world.call("CHECK", conf | {"prevResult": result}, "new").status == 0
    world.delete(conf, "new")
    assert world.links() == ["lo"]


def test_a_late_del_leaves_the_limits_of_the_link_that_took_the_name(world: World) -> None:
    """C2 for traffic shaping: bandwidth around a ptp with a fixed `hostInterface`."""
    conf = {
        "cniVersion": "1.1.0",
        "name": "n",
        **LIMITS,
        "delegate": {"type": "ptp", "hostInterface": "web0", "ipam": IPAM},
    }
    world.add(conf, "old")
    die(world, "old")
    result = world.add(conf, "new")
    world.delete({"name": "n", "type": "bandwidth"}, "old")
    assert "tbf" in world.run("tc", "qdisc", "show", "dev", "web0")
    assert world.call("CHECK", conf | {"prevResult": result}, "new").status == 0


def test_a_late_del_leaves_a_stranger_s_link(world: World) -> None:
    """The operator gave the name to a link of his own meanwhile."""
    conf = PTP | {"hostInterface": "web0"}
    world.add(conf, "old")
    die(world, "old")
    world.run("ip", "link", "add", "web0", "type", "veth", "peer", "name", "web1")
    world.delete(conf, "old")
    assert world.links() == ["lo", "web0", "web1"]


@pytest.mark.parametrize("apart", [False, True], ids=["in one namespace", "to a nested one"])
@pytest.mark.parametrize("kind", ["bridge", "ptp", "bandwidth", "tuning"])
def test_a_forged_peer_is_not_believed(world: World, kind: str, apart: bool) -> None:
    """S10. A container with CAP_NET_ADMIN renames eth0 and makes a veth of its own in its place, whose peer
    has the index of another container's host end (and whose own index is that of the other's eth0). DEL
    twice, or a meta plugin's ADD, must not touch the other's link.
    """
    plain = PTP if kind in {"ptp", "bandwidth", "tuning"} else BRIDGE
    world.run("ip", "link", "add", "one", "type", "veth", "peer", "name", "two")  # indices go apart
    victim = world.add(plain | {"hostInterface": "victim"}, "victim")
    host_end = world.json("ip", "-j", "link", "show", "victim")[0]
    eth0 = world.json("ip", "-j", "link", "show", "eth0", box="victim")[0]
    world.add(plain, "evil")
    world.run("ip", "link", "set", "eth0", "down", box="evil")
    world.run("ip", "link", "set", "eth0", "name", "gone", box="evil")
    if world.json("ip", "-j", "link", "show", "gone", box="evil")[0]["ifindex"] == eth0["ifindex"]:
        own = ["index", "77"]
    else:
        own = ["index", str(eth0["ifindex"])]
    world.run(
        "ip",
        "link",
        "add",
        "eth0",
        *own,
        "type",
        "veth",
        "peer",
        "name",
        "p",
        "index",
        str(host_end["ifindex"]),
        box="evil",
    )
    if apart:
        with Netlink(world.boxes["evil"], after(10)) as inside:
            inside.request(links.change("p", 0, net_ns_fd=world.box("nested").fd))
    before = world.json("ip", "-j", "link", "show", "victim")[0]
    if kind in {"bandwidth", "tuning"}:
        asked = LIMITS if kind == "bandwidth" else {"type": "tuning", "mtu": 1300}
        previous = {"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": "x"}]}
        world.call("ADD", {**PTP, **asked, "prevResult": previous}, "evil")
    else:
        world.delete(plain, "evil")
        world.delete(plain, "evil")
    assert world.json("ip", "-j", "link", "show", "victim")[0] == before
    assert "tbf" not in world.run("tc", "qdisc", "show", "dev", "victim")
    answer = world.call("CHECK", plain | {"prevResult": victim}, "victim")
    assert answer.status == 0, answer.document


def test_the_other_end_is_found_from_either_side(world: World) -> None:
    world.box("c1")
    world.run("ip", "link", "add", "va", "type", "veth", "peer", "name", "vb")
    world.run("ip", "link", "add", "vc", "type", "veth", "peer", "name", "vd")
    with Netlink(world.host, after(10)) as host, Netlink(world.boxes["c1"], after(10)) as inside:
        host.request(links.change("vb", 0, net_ns_fd=world.boxes["c1"].fd))
        a, b = links.find(host, "va"), links.find(inside, "vb")
        c, d = links.find(host, "vc"), links.find(host, "vd")
        assert a and b and c and d
        assert links.other_end(host, inside, b) == a
        assert links.other_end(inside, host, a) == b
        assert links.other_end(host, host, c) == d
        assert links.other_end(inside, host, c) is None


def test_del_finds_a_host_end_that_was_renamed(world: World) -> None:
    result = world.add(PTP)
    name = result["interfaces"][0]["name"]
    world.run("ip", "link", "set", name, "down")
    world.run("ip", "link", "set", name, "name", "renamed")
    world.delete(PTP)
    assert world.links() == ["lo"]


def test_macvlan_whose_task_changed_its_address_is_deleted(world: World) -> None:
    world.run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1")
    conf = {**BRIDGE, "type": "macvlan", "master": "up0"}
    world.add(conf)
    world.run("ip", "link", "set", "eth0", "address", "02:00:00:00:00:09", box="c1")
    world.delete(conf)
    assert world.links("c1") == ["lo"]


def test_macvlan_leaves_what_took_its_name(world: World) -> None:
    """A task renamed its macvlan; what is called eth0 now is its own affair, and the macvlan goes."""
    world.run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1")
    conf = {**BRIDGE, "type": "macvlan", "master": "up0"}
    world.add(conf)
    world.run("ip", "link", "set", "eth0", "name", "mine", box="c1")
    world.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0p", box="c1")
    world.delete(conf)
    assert world.links("c1") == ["eth0", "eth0p", "lo"]


def test_macvlan_is_checked_against_the_master_it_was_made_on(world: World) -> None:
    """C11. The default route moves to another link after ADD."""
    for name in ("up0", "down0"):
        world.run("ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}p")
        world.run("ip", "link", "set", name, "up")
        world.run("ip", "link", "set", f"{name}p", "up")
    world.run("ip", "addr", "add", "192.0.2.1/24", "dev", "up0")
    world.run("ip", "addr", "add", "198.51.100.1/24", "dev", "down0")
    world.run("ip", "route", "add", "default", "via", "192.0.2.254")
    conf = {**BRIDGE, "type": "macvlan"}
    result = world.add(conf)
    world.run("ip", "route", "replace", "default", "via", "198.51.100.254")
    answer = world.call("CHECK", conf | {"prevResult": result})
    assert answer.status == 0, answer.document
    for path in world.records():  # as after an upgrade, or for a container of the reference plugin's
        path.unlink()
    answer = world.call("CHECK", conf | {"prevResult": result})
    assert answer.status == 0, answer.document


# Legacy clean-up


def test_del_of_an_interface_that_never_was_leaves_the_limits_of_another(world: World) -> None:
    """C3. eth1 was never attached; eth0's ifb is named after the container alone."""
    conf = {"cniVersion": "1.1.0", "name": "n", **LIMITS, "delegate": {"type": "ptp", "ipam": IPAM}}
    result = world.add(conf)
    world.delete(conf, "c1", ifname="eth1")
    assert world.call("CHECK", conf | {"prevResult": result}).status == 0
    world.delete(conf)
    assert world.links() == ["lo"]


@pytest.mark.parametrize("kind", ["bridge", "portmap"])
def test_del_of_an_interface_that_never_was_leaves_the_iptables_rules_of_another(
    world: World, kind: str
) -> None:
    """C3. The chains of the iptables backend are named after the container alone."""
    conf = BRIDGE | {"isGateway": True, "ipMasq": True, "ipMasqBackend": "iptables"}
    if kind == "portmap":
        mappings = [{"hostPort": 8080, "containerPort": 80}]
        conf = {
            **BRIDGE,
            "type": "portmap",
            "backend": "iptables",
            "runtimeConfig": {"portMappings": mappings},
            "delegate": BRIDGE | {"isDefaultGateway": True},
        }
    result = world.add(conf)
    before = world.run("iptables-save", "-t", "nat")
    world.delete(conf, "c1", ifname="eth1")
    assert _rules(world.run("iptables-save", "-t", "nat")) == _rules(before)
    assert world.call("CHECK", conf | {"prevResult": result}).status == 0


def _rules(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("-A")]


# Records


def test_a_step_of_a_newer_release_is_told_and_touches_nothing(world: World) -> None:
    world.add(BRIDGE)
    (path,) = world.records()
    line = json.dumps({"step": "wireguard", "id": 99, "args": {"key": "x"}})
    path.write_text(path.read_text() + line + "\n")
    before = path.read_bytes()
    for verb in ("DEL", "GC"):
        answer = world.call(verb, BRIDGE | {"cni.dev/valid-attachments": []})
        assert answer.status == 1
        assert "wireguard" in answer.document["details"] and "newer release" in answer.document["details"]
        assert path.read_bytes() == before
    assert "eth0" in world.links("c1")
    assert world.reserved("n") == ["10.9.0.2"]
