"""static and chain, as Mesos calls them."""

from typing import Any

from netns_tests.node import Node

TWO = [{"address": "10.9.0.5/24", "gateway": "10.9.0.1"}, {"address": "fd00:9::5/64", "gateway": "fd00:9::1"}]
MESOS = {"org.apache.mesos": {"network_info": {"name": "net"}}}


def static(version: str = "1.0.0", **ipam: Any) -> dict[str, Any]:
    return {"cniVersion": version, "name": "net", "type": "any", "ipam": {"type": "static", **ipam}}


def test_static_sources(node: Node, plugins: str) -> None:
    box = node.netns("c1")

    def ask(config: dict[str, Any], **more: Any) -> list[str]:
        result = node.cni("ADD", f"{plugins}/static", config, "c1", box, **more).ok()
        return [f"{item['address']} {item.get('gateway', '-')}" for item in result["ips"]]

    both = ["10.9.0.5/24 10.9.0.1", "fd00:9::5/64 fd00:9::1"]
    assert ask(static(addresses=TWO)) == both
    assert ask(static(addresses=TWO), args="IP=10.9.0.6/24;GATEWAY=10.9.0.254") == [
        "10.9.0.5/24 10.9.0.254",
        both[1],
        "10.9.0.6/24 10.9.0.254",
    ]
    config = static(addresses=TWO) | {"args": {"cni": {"ips": ["10.7.0.1/16"]}}}
    assert ask(config) == ["10.7.0.1/16 -"]
    assert ask(config | {"runtimeConfig": {"ips": ["10.9.0.77"]}}) == ["10.9.0.77/24 10.9.0.1"]
    oldest = node.cni("ADD", f"{plugins}/static", static("0.2.0", addresses=TWO), "c1", box).ok()
    assert oldest["ip4"] == {"ip": "10.9.0.5/24", "gateway": "10.9.0.1"}
    assert oldest["ip6"]["ip"] == "fd00:9::5/64"


def test_static_refusals(node: Node, plugins: str) -> None:
    box = node.netns("c1")
    cases: list[tuple[dict[str, Any], str]] = [
        (static(), "no address"),
        (static(addresses=[{"gateway": "10.9.0.1"}]), "addresses[0]"),
        (static(addresses=[{"address": "10.9.0.300/24"}]), "10.9.0.300/24"),
        (static(addreses=TWO), "'addreses'"),
        (static(addresses=TWO) | {"runtimeConfig": {"ips": ["172.16.0.1"]}}, "172.16.0.1"),
        (static("0.2.0", addresses=[TWO[0], {"address": "10.8.0.1/24"}]), "0.2.0"),
    ]
    for config, word in cases:
        answer = node.cni("ADD", f"{plugins}/static", config, "c1", box)
        assert answer.error is not None
        assert word in answer.error["msg"] + answer.error.get("details", ""), answer.error


def member(kind: str, **keys: Any) -> dict[str, Any]:
    return {"type": kind, **keys}


def chain(*members: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return {"name": "net", "type": "chain", "args": MESOS, "plugins": list(members), **keys}


PTP = member("ptp", ipam={"type": "static", "addresses": TWO})


def test_chain_of_ours_and_a_stranger(node: Node, plugins: str) -> None:
    """The members run in order; DEL takes all down, with nothing but the identity of the attachment."""
    box = node.netns("c1")
    config = chain(PTP, member("tuning", mtu=1380), member("loopback"))
    path = f"{plugins}:/usr/lib/cni"
    result = node.cni("ADD", f"{plugins}/chain", config, "c1", box, cni_path=path).ok()
    assert result["ip4"]["ip"] == "10.9.0.5/24", "what Mesos reads"
    assert box.json("ip", "-j", "link", "show", "eth0")[0]["mtu"] == 1380
    assert "UP" in box.json("ip", "-j", "link", "show", "lo")[0]["flags"]
    bare = {"name": "net", "type": "chain"}
    node.cni("DEL", f"{plugins}/chain", bare, "c1", box, cni_path=path).ok()
    assert [item["ifname"] for item in box.json("ip", "-j", "link")] == ["lo"]
    assert not [
        item for item in node.path("/run/mesokit").rglob("*") if item.is_file() and "attach" in str(item)
    ]
    node.cni("DEL", f"{plugins}/chain", config, "c1", box, cni_path=path).ok()


def test_chain_fails_as_one(node: Node, plugins: str) -> None:
    box = node.netns("c1")
    late = chain(PTP, member("tuning", sysctl={"net.core.no_such_thing": "1"}))
    answer = node.cni("ADD", f"{plugins}/chain", late, "c1", box, cni_path=f"{plugins}:/usr/lib/cni")
    assert answer.error is not None
    assert answer.error["msg"].startswith("plugins[1] (tuning): ")
    assert [item["ifname"] for item in box.json("ip", "-j", "link")] == ["lo"]


def test_chain_validates_before_it_changes(node: Node, plugins: str) -> None:
    box = node.netns("c1")
    cases = [
        (chain(PTP, member("tuning", mtu="big")), "plugins[1] (tuning)"),
        (chain(PTP, member("no-such-plugin")), "no-such-plugin"),
        (chain(PTP, chain(PTP)), "chain cannot be a member"),
        (chain(), "plugins"),
        (chain(member("tuning", mtu=1400)), "prevResult"),
    ]
    for config, word in cases:
        answer = node.cni("ADD", f"{plugins}/chain", config, "c1", box, cni_path=f"{plugins}:/usr/lib/cni")
        assert answer.error is not None
        assert word in answer.error["msg"] + answer.error.get("details", ""), answer.error
        assert [item["ifname"] for item in box.json("ip", "-j", "link")] == ["lo"]
