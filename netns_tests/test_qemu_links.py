"""vlan, ipvlan, dummy and vrf, on a kernel that has their links."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from netns_tests.case import DUAL, bridge, local
from netns_tests.cases_links import LAN, TAGGED
from netns_tests.node import Netns, Node
from netns_tests.snapshot import assert_clean, snapshot

pytestmark = pytest.mark.timeout(400)
#: Of the first VRF of a namespace: the kernel's rule for all of them stays.
L3MDEV = [r"\w+: rule "]


def conf(kind: str, **keys: Any) -> dict[str, Any]:
    return {"cniVersion": "1.1.0", "name": "net", "type": kind, **keys}


def add(node: Node, plugins: str, config: dict[str, Any], box: Netns, ifname: str = "eth0") -> dict[str, Any]:
    """ADD, then CHECK of its result."""
    folder = f"{plugins}/{config['type']}"
    result = node.cni("ADD", folder, config, box.name, box, ifname=ifname).ok()
    check = node.cni("CHECK", folder, {**config, "prevResult": result}, box.name, box, ifname=ifname)
    assert check.error is None, check.error
    return result


def delete(
    node: Node, plugins: str, config: dict[str, Any], name: str, box: Netns | None, **more: Any
) -> None:
    answer = node.cni("DEL", f"{plugins}/{config['type']}", config, name, box, **more)
    assert answer.error is None, answer.error


def kinds(box: Netns) -> dict[str, str]:
    links = box.json("ip", "-j", "-d", "link")
    return {item["ifname"]: item.get("linkinfo", {}).get("info_kind", "") for item in links}


def test_vlan_on_vlan_and_renamed_by_the_task(node: Node, plugins: str) -> None:
    """A VLAN is once on its master: what a task renamed must go too, or nobody gets that VLAN any more."""
    node.uplink()
    node.shell(TAGGED)
    node.shell("ip link add link eth0 name outer type vlan id 7; ip link set outer addrgenmode none up")
    box, other = node.netns("c1"), node.netns("c2")
    before = snapshot(node, [box, other])
    tagged = conf("vlan", master="eth0", vlanId=100, ipam=DUAL)
    inner = conf("vlan", master="outer", vlanId=100) | {"name": "inner"}
    result = add(node, plugins, tagged, box)
    assert box.ping("10.9.0.1")
    add(node, plugins, inner, other)
    refused = node.cni("ADD", f"{plugins}/vlan", tagged, "c2", other, ifname="eth1")
    assert refused.code == 7 and "has a link for that VLAN already" in str(refused.error)
    box.run(["ip", "link", "set", "eth0", "down"])
    box.run(["ip", "link", "set", "eth0", "name", "mine"])
    delete(node, plugins, {"cniVersion": "1.1.0", "name": "net", "type": "vlan"}, "c1", box)
    assert kinds(box) == {"lo": ""}
    assert result["interfaces"][0]["mac"]
    node.shell("ip link del outer")  # and the VLAN on it
    delete(node, plugins, inner, "c2", other)
    node.shell("ip link add link eth0 name outer type vlan id 7; ip link set outer addrgenmode none up")
    assert_clean(node, before, boxes=[box, other])


def test_ipvlan_in_every_mode_and_chained(node: Node, plugins: str) -> None:
    world = node.uplink()
    box = node.netns("c1")
    before = snapshot(node, [box])
    far = {**LAN, "routes": [{"dst": "0.0.0.0/0"}]}
    for mode in ("l2", "l3", "l3s"):
        config = conf("ipvlan", master="eth0", mode=mode, ipam=far)
        add(node, plugins, config, box)
        if mode == "l2":
            assert world.ping("192.0.2.50")
        delete(node, plugins, config, "c1", box)
    alone = {"type": "static", "addresses": [{"address": "203.0.113.9/32", "gateway": "192.0.2.1"}]}
    config = conf("ipvlan", mode="l3", ipam={**alone, "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]})
    add(node, plugins, config, box)
    (route,) = box.json("ip", "-j", "-4", "route")
    assert (route["dst"], route["dev"], "gateway" in route) == ("default", "eth0", False)
    delete(node, plugins, config, "c1", box)
    previous = {"interfaces": [{"name": "eth0"}], "ips": [{"address": "192.0.2.140/24"}]}
    chained = {**conf("ipvlan"), "cniVersion": "1.0.0", "prevResult": previous | {"cniVersion": "1.0.0"}}
    result = node.cni("ADD", f"{plugins}/ipvlan", chained, "c1", box).ok()
    assert result["ips"] == [{"interface": 0, "address": "192.0.2.140/24"}]
    assert box.ping("192.0.2.1")
    delete(node, plugins, chained, "c1", box)
    two = {**previous, "interfaces": [{"name": "eth0"}, {"name": "eth1"}], "cniVersion": "1.0.0"}
    refused = node.cni("ADD", f"{plugins}/ipvlan", {**chained, "prevResult": two}, "c1", box)
    assert refused.code == 7 and "prevResult has 2 interfaces" in str(refused.error)
    assert_clean(node, before, boxes=[box])


def test_a_master_in_the_container(node: Node, plugins: str) -> None:
    box = node.netns("c1")
    box.run(["ip", "link", "add", "up0", "type", "dummy"])
    box.run(["ip", "link", "set", "up0", "up"])
    before = snapshot(node, [box])
    for kind, keys in (("vlan", {"vlanId": 5}), ("ipvlan", {}), ("macvlan", {})):
        config = conf(kind, master="up0", linkInContainer=True, ipam=DUAL, **keys)
        add(node, plugins, config, box)
        assert kinds(box)["eth0"] == kind
        delete(node, plugins, config, "c1", box)
    assert_clean(node, before, boxes=[box])


def test_dummy_needs_addresses(node: Node, plugins: str) -> None:
    box = node.netns("c1")
    before = snapshot(node, [box])
    add(node, plugins, conf("dummy", ipam=DUAL, mtu=1400), box)
    assert kinds(box)["eth0"] == "dummy"
    delete(node, plugins, conf("dummy"), "c1", box)
    assert_clean(node, before, boxes=[box])
    refused = node.cni("ADD", f"{plugins}/dummy", conf("dummy"), "c1", box)
    assert refused.code == 7 and refused.error is not None
    assert "key 'ipam' is missing" in refused.error["details"]


def test_a_vrf_is_shared_and_goes_with_its_last_interface(node: Node, plugins: str) -> None:
    box = node.netns("c1")
    before = snapshot(node, [box])
    inner = bridge(local("10.9.0.0/24", "fd00:9::/64", routes=[{"dst": "0.0.0.0/0"}]), isGateway=True)
    config = conf("vrf", vrfname="blue", delegate=inner)
    names = ("eth0", "eth1")
    for name in names:
        add(node, plugins, config, box, name)
    assert kinds(box)["blue"] == "vrf"
    table = box.json("ip", "-j", "-4", "route", "show", "table", "1")
    assert {"default", "10.9.0.0/24"} <= {item["dst"] for item in table}
    held = box.json("ip", "-j", "addr", "show", "eth0")[0]["addr_info"]
    assert "fd00:9::2" in {item["local"] for item in held}
    assert box.run(["ip", "vrf", "exec", "blue", "true"], check=False).status in {0, 1, 255}
    other = conf("vrf", vrfname="blue", table=77, delegate=inner) | {"name": "other"}
    refused = node.cni("ADD", f"{plugins}/vrf", other, "c1", box, ifname="eth2")
    assert refused.code == 7 and "with table 1 already" in str(refused.error)
    delete(node, plugins, config, "c1", box, ifname="eth0")
    assert kinds(box)["blue"] == "vrf"
    delete(node, plugins, config, "c1", box, ifname="eth1")
    assert kinds(box) == {"lo": ""}
    assert_clean(node, before, boxes=[box], allowed=L3MDEV)


def test_no_module_is_called_like_an_interface(node: Node, ours: str, tmp_path: Path) -> None:
    """The kernel, asked by ioctl(2) for an interface that is not there, starts modprobe twice and waits: each
    ADD did so, because its interface must not be there yet."""
    box, config = node.netns("c1"), conf("dummy", ipam=LAN)
    asked, program = tmp_path / "asked", tmp_path / "modprobe"
    program.write_text(f'#!/bin/busybox sh\nbusybox echo "$@" >> {asked}\nexec /sbin/modprobe "$@"\n')
    program.chmod(0o755)
    setting = Path("/proc/sys/kernel/modprobe")
    before = setting.read_text()
    setting.write_text(str(program))
    try:
        node.run(["busybox", "ifconfig", "nothing0"], check=False)
        add(node, ours, config, box)
        delete(node, ours, config, box.name, box)
    finally:
        setting.write_text(before)
    told = asked.read_text()
    assert "nothing0" in told and "eth0" not in told, told
