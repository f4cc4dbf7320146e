"""tuning: alone with `delegate` as Mesos needs it, chained, and after the reference plugin."""

import json
from typing import Any

import pytest

from netns_tests.node import Netns, Node

PTP = {
    "type": "ptp",
    "ipam": {"type": "static", "addresses": [{"address": "10.9.0.5/24", "gateway": "10.9.0.1"}]},
}
SETTINGS = {
    "sysctl": {
        "net.ipv4.conf.IFNAME.arp_filter": "1",
        "net/core/somaxconn": "500",
        "net.ipv4.ip_local_port_range": "2000 3000",
    },
    "mac": "0A:58:0A:09:00:05",
    "mtu": 1400,
    "txQLen": 77,
    "promisc": True,
    "allmulti": True,
}


def tuning(**keys: Any) -> dict[str, Any]:
    return {"cniVersion": "1.0.0", "name": "net", "type": "tuning", **keys}


def link(box: Netns) -> dict[str, Any]:
    (found,) = box.json("ip", "-d", "-j", "link", "show", "eth0")
    assert isinstance(found, dict)
    return found


def test_alone_with_a_delegate(node: Node, plugins: str) -> None:
    box = node.netns("c1")
    config = tuning(**SETTINGS, delegate=PTP)
    result = node.cni("ADD", f"{plugins}/tuning", config, "c1", box, cni_path=f"{plugins}:/usr/lib/cni").ok()
    inside = next(item for item in result["interfaces"] if item.get("sandbox"))
    assert inside["mac"] == "0a:58:0a:09:00:05"
    found = link(box)
    assert (found["address"], found["mtu"], found["txqlen"]) == ("0a:58:0a:09:00:05", 1400, 77)
    assert found["promiscuity"] >= 1
    assert found["allmulti"] >= 1
    (host_end,) = [
        item
        for item in node.json("ip", "-j", "-d", "link")
        if item.get("linkinfo", {}).get("info_kind") == "veth"
    ]
    assert host_end["mtu"] == 1400
    assert box.run(["sysctl", "-n", "net.ipv4.conf.eth0.arp_filter", "net.core.somaxconn"]).text.split() == [
        "1",
        "500",
    ]
    check = config | {"prevResult": result}
    node.cni("CHECK", f"{plugins}/tuning", check, "c1", box, cni_path=f"{plugins}:/usr/lib/cni").ok()
    box.run(["ip", "link", "set", "eth0", "mtu", "1300"], check=True)
    changed = node.cni("CHECK", f"{plugins}/tuning", check, "c1", box, cni_path=f"{plugins}:/usr/lib/cni")
    assert changed.error is not None
    assert "mtu of eth0 is 1300, tuning set 1400" in changed.error["msg"]
    node.cni("DEL", f"{plugins}/tuning", config, "c1", box, cni_path=f"{plugins}:/usr/lib/cni").ok()
    assert not [item for item in box.json("ip", "-j", "link") if item["ifname"] == "eth0"]


def test_what_del_puts_back(node: Node, plugins: str) -> None:
    box = node.netns("c1")
    box.run(["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "p"], check=True)
    before = link(box)
    somaxconn = box.run(["sysctl", "-n", "net.core.somaxconn"]).text.strip()
    config = tuning(
        **SETTINGS,
        prevResult={"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": str(box.path)}]},
    )
    node.cni("ADD", f"{plugins}/tuning", config, "c1", box).ok()
    assert link(box)["address"] != before["address"]
    node.cni("DEL", f"{plugins}/tuning", config, "c1", box).ok()
    after = link(box)
    assert [after[key] for key in ("address", "mtu", "txqlen", "promiscuity", "allmulti", "flags")] == [
        before[key] for key in ("address", "mtu", "txqlen", "promiscuity", "allmulti", "flags")
    ]
    assert box.run(["sysctl", "-n", "net.core.somaxconn"]).text.strip() == somaxconn
    node.cni("DEL", f"{plugins}/tuning", config, "c1", box).ok()


def test_takes_over_what_the_reference_saved(node: Node, plugins: str, reference: str) -> None:
    box = node.netns("c1")
    box.run(["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "p"], check=True)
    before = link(box)
    config = tuning(
        mac="0a:58:0a:09:00:05",
        mtu=1400,
        prevResult={"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": str(box.path)}]},
    )
    node.cni("ADD", f"{reference}/tuning", config, "c1", box).ok()
    assert link(box)["mtu"] == 1400
    node.cni("DEL", f"{plugins}/tuning", config, "c1", box).ok()
    assert (link(box)["mtu"], link(box)["address"]) == (before["mtu"], before["address"])
    assert not list(node.path("/run/cni/tuning").glob("*.json"))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"mtu": "1400"}, ["mtu", "'1400'"]),
        ({"mac": "zz"}, ["mac", "'zz'"]),
        ({"sysctl": {"kernel.domainname": "x"}}, ["kernel.domainname"]),
        ({"sysctl": {"net/../kernel/domainname": "x"}}, ["net/../kernel/domainname"]),
        ({"sysctl": {"net.core.somaxconn": 5}}, ["net.core.somaxconn", "string"]),
        ({"sysctl": {"net.core.nothing": "5"}}, ["net/core/nothing"]),
        ({"args": {"cni": {"promisc": "yes"}}}, ["args.cni.promisc", "'yes'"]),
    ],
)
def test_refusals_name_key_and_value(
    node: Node, plugins: str, keys: dict[str, Any], words: list[str]
) -> None:
    box = node.netns("c1")
    previous = {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": str(box.path)}]}
    answer = node.cni("ADD", f"{plugins}/tuning", tuning(**keys, prevResult=previous), "c1", box)
    text = json.dumps(answer.error)
    assert all(json.dumps(word)[1:-1] in text for word in words), text


def test_the_allowlist(node: Node, plugins: str) -> None:
    box = node.netns("c1")
    allowlist = node.path("/etc/cni/tuning/allowlist.conf")
    allowlist.parent.mkdir(parents=True)
    allowlist.write_text("^net.ipv4.conf.IFNAME.[a-z_]*$\n")
    previous = {"cniVersion": "1.0.0", "interfaces": [{"name": "lo", "sandbox": str(box.path)}]}
    for name, allowed in (("net.ipv4.conf.IFNAME.arp_filter", True), ("net.core.somaxconn", False)):
        config = tuning(sysctl={name: "1"}, prevResult=previous)
        answer = node.cni("ADD", f"{plugins}/tuning", config, "c1", box, ifname="lo")
        assert (answer.code is None or answer.code == 0) == allowed, answer.error
