"""bandwidth: what tc shows, what a transfer measures against none, how it goes, and what is refused."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from netns_tests.node import Netns, Node, until

PTP = {
    "type": "ptp",
    "ipam": {"type": "static", "addresses": [{"address": "10.9.0.5/24", "gateway": "10.9.0.1"}]},
}
LIMITS = {"ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 4_000_000, "egressBurst": 400_000}


def bandwidth(**keys: Any) -> dict[str, Any]:
    return {"cniVersion": "1.0.0", "name": "net", "type": "bandwidth", "delegate": PTP, **keys}


def shape_of(node: Node) -> dict[str, Any]:
    """The token buckets of the node by kind of link, and whether a veth redirects what comes in."""
    kinds = {
        item["ifname"]: item.get("linkinfo", {}).get("info_kind")
        for item in node.json("ip", "-d", "-j", "link")
    }
    shape: dict[str, Any] = {}
    for qdisc in node.json("tc", "-j", "qdisc"):
        kind = kinds[qdisc["dev"]]
        if qdisc["kind"] == "tbf":
            shape[f"{kind} bucket"] = {key: qdisc["options"][key] for key in ("rate", "burst")}
        if qdisc["kind"] == "ingress":
            text = node.run(["tc", "filter", "show", "dev", qdisc["dev"], "parent", "ffff:"], check=True).text
            shape[f"{kind} redirects"] = "mirred (Egress Redirect to device bwp" in text
    return shape


def test_limits_both_ways_like_the_reference(node: Node, plugins: str, reference: str) -> None:
    seen = []
    for number, folder in enumerate((reference, plugins)):
        box = node.netns(f"c{number}")
        made = node.cni(
            "ADD",
            f"{folder}/ptp",
            {**PTP, "cniVersion": "1.0.0", "name": "net"},
            box.name,
            box,
            cni_path=f"{folder}:/usr/lib/cni",
        ).ok()
        config = {**bandwidth(**LIMITS), "prevResult": made}
        del config["delegate"]
        result = node.cni("ADD", f"{folder}/bandwidth", config, box.name, box).ok()
        assert [item["name"] for item in result["interfaces"]][-1].startswith("bwp")
        seen.append(shape_of(node))
        check = config | {"prevResult": result}
        node.cni("CHECK", f"{folder}/bandwidth", check, box.name, box).ok()
        # Each folder's DEL takes down what the other's ADD made.
        other = plugins if folder == reference else reference
        node.cni("DEL", f"{other}/bandwidth", check, box.name, box).ok()
        assert not [item for item in node.json("ip", "-j", "link") if item["ifname"].startswith("bwp")]
        node.cni(
            "DEL",
            f"{folder}/ptp",
            {**PTP, "cniVersion": "1.0.0", "name": "net"},
            box.name,
            box,
            cni_path=f"{folder}:/usr/lib/cni",
        ).ok()
    theirs, mine = seen
    assert mine.keys() == theirs.keys() == {"veth bucket", "ifb bucket", "veth redirects"}
    for key in ("veth bucket", "ifb bucket"):
        assert mine[key]["rate"] == theirs[key]["rate"]
        assert mine[key]["burst"] == pytest.approx(theirs[key]["burst"], rel=0.01)
    assert mine["veth redirects"]


def test_alone_with_a_delegate(node: Node, plugins: str) -> None:
    """Packets still pass, CHECK sees a change, DEL needs no more than the identity."""
    box = node.netns("c1")
    config = bandwidth(**LIMITS)
    path = f"{plugins}:/usr/lib/cni"
    result = node.cni("ADD", f"{plugins}/bandwidth", config, "c1", box, cni_path=path).ok()
    assert box.ping("10.9.0.1")
    check = config | {"prevResult": result}
    node.cni("CHECK", f"{plugins}/bandwidth", check, "c1", box, cni_path=path).ok()
    port = next(item["ifname"] for item in node.json("ip", "-j", "link") if item["ifname"].startswith("veth"))
    for _ in range(20):
        # The service looks through its records after its first ADD, and may be quicker to make it again.
        node.run(["tc", "qdisc", "del", "dev", port, "root"])
        changed = node.cni("CHECK", f"{plugins}/bandwidth", check, "c1", box, cni_path=path)
        if changed.error is not None:
            break
    assert changed.error is not None
    assert "ingressRate is 8000000" in changed.error["msg"]
    plain = {"name": "net", "type": "bandwidth"}
    node.cni("DEL", f"{plugins}/bandwidth", plain, "c1", box, cni_path=path).ok()
    assert [item["ifname"] for item in node.json("ip", "-j", "link")] == ["lo"]


def test_two_interfaces_of_one_container(node: Node, plugins: str) -> None:
    """The reference plugin gives both the same ifb name, and the second fails."""
    box = node.netns("c1")
    path = f"{plugins}:/usr/lib/cni"
    for number in (0, 1):
        address = {"address": f"10.{number}.0.5/24", "gateway": f"10.{number}.0.1"}
        delegate = {"type": "ptp", "ipam": {"type": "static", "addresses": [address]}}
        config = bandwidth(**LIMITS, delegate=delegate)
        node.cni("ADD", f"{plugins}/bandwidth", config, "c1", box, ifname=f"eth{number}", cni_path=path).ok()
    assert sum(item["ifname"].startswith("bwp") for item in node.json("ip", "-j", "link")) == 2
    for number in (0, 1):
        node.cni(
            "DEL", f"{plugins}/bandwidth", bandwidth(), "c1", box, ifname=f"eth{number}", cni_path=path
        ).ok()
    assert [item["ifname"] for item in node.json("ip", "-j", "link")] == ["lo"]


LISTEN = """
import socket
server = socket.create_server(("10.9.0.1", 7000))
print("ready", flush=True)
taken = server.accept()[0]
while taken.recv(65536):
    pass
taken.send(b"x")
"""
SEND = """
import socket
sent = socket.create_connection(("10.9.0.1", 7000))
sent.sendall(bytes(1_000_000))
sent.shutdown(1)
sent.recv(1)
"""


def test_a_limit_is_felt(node: Node, plugins: str) -> None:
    """What a container sends goes through its bucket, which holds it back."""
    box = node.netns("c1")
    path = f"{plugins}:/usr/lib/cni"
    node.cni("ADD", f"{plugins}/bandwidth", bandwidth(**LIMITS), "c1", box, cni_path=path).ok()
    listener = node.popen(["python3", "-c", LISTEN])
    until(lambda: b"ready" in listener.output(), what="the listener")
    box.run(["python3", "-c", SEND], check=True)
    listener.wait(30)
    (bucket,) = [item for item in node.json("tc", "-s", "-j", "qdisc") if item["dev"].startswith("bwp")]
    assert bucket["bytes"] > 1_000_000
    assert bucket["overlimits"] > 0
    node.cni("DEL", f"{plugins}/bandwidth", bandwidth(), "c1", box, cni_path=path).ok()


def test_the_runtimes_limits(node: Node, plugins: str) -> None:
    box = node.netns("c1")
    path = f"{plugins}:/usr/lib/cni"
    asked = {"runtimeConfig": {"bandwidth": {"egressRate": 1_000_000, "egressBurst": 100_000}}}
    node.cni("ADD", f"{plugins}/bandwidth", bandwidth() | asked, "c1", box, cni_path=path).ok()
    assert shape_of(node).keys() == {"ifb bucket", "veth redirects"}
    node.cni("DEL", f"{plugins}/bandwidth", bandwidth(), "c1", box, cni_path=path).ok()


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"ingressRate": 1000}, ["ingressRate is 1000", "ingressBurst is 0"]),
        ({"egressRate": "1M", "egressBurst": 1}, ["egressRate", "1M"]),
        ({"ingressRate": -1}, ["ingressRate", "-1"]),
        ({"ingresRate": 1000}, ["ingresRate", "ingressRate"]),
        ({"runtimeConfig": {"bandwidth": {"egressRate": 5}}}, ["runtimeConfig.bandwidth.egressRate is 5"]),
    ],
)
def test_refused_before_anything_is_made(
    node: Node, plugins: str, keys: dict[str, Any], words: list[str]
) -> None:
    box = node.netns("c1")
    answer = node.cni(
        "ADD", f"{plugins}/bandwidth", bandwidth(**keys), "c1", box, cni_path=f"{plugins}:/usr/lib/cni"
    )
    text = json.dumps(answer.error)
    assert all(word in text for word in words), text
    assert [item["ifname"] for item in node.json("ip", "-j", "link")] == ["lo"]


def _chained(node: Node, plugins: str, box: Netns, previous: dict[str, Any] | None, **limits: Any) -> Any:
    """ADD of ptp where there is no result yet, then of bandwidth on its result."""
    named = {"cniVersion": "1.0.0", "name": "net"}
    path = f"{plugins}:/usr/lib/cni"
    if previous is None:
        previous = node.cni("ADD", f"{plugins}/ptp", {**PTP, **named}, "c1", box, cni_path=path).ok()
    config = {**named, "type": "bandwidth", **limits, "prevResult": previous}
    return node.cni("ADD", f"{plugins}/bandwidth", config, "c1", box).ok()


def test_a_second_add_changes_in_place(node: Node, plugins: str) -> None:
    """The same qdisc with another rate, its counters go on; CHECK is about the new one; one record, and DEL
    leaves nothing."""
    box = node.netns("c1")
    first = _chained(node, plugins, box, None, **LIMITS)
    assert box.ping("10.9.0.1")
    before = {
        item["dev"]: item["packets"] for item in node.json("tc", "-s", "-j", "qdisc") if item["kind"] == "tbf"
    }
    doubled = {key: value * 2 for key, value in LIMITS.items()}
    second = _chained(node, plugins, box, first, **doubled)
    assert second == first
    shape = shape_of(node)
    assert shape["veth bucket"]["rate"] == 2_000_000 and shape["ifb bucket"]["rate"] == 1_000_000
    after = {
        item["dev"]: item["packets"] for item in node.json("tc", "-s", "-j", "qdisc") if item["kind"] == "tbf"
    }
    assert before.keys() == after.keys()
    assert all(after[name] >= count > 0 for name, count in before.items()), (before, after)
    config = {"cniVersion": "1.0.0", "name": "net", "type": "bandwidth", **doubled, "prevResult": second}
    node.cni("CHECK", f"{plugins}/bandwidth", config, "c1", box).ok()
    node.cni("DEL", f"{plugins}/bandwidth", {"name": "net", "type": "bandwidth"}, "c1", box).ok()
    assert not [item for item in node.json("tc", "-j", "qdisc") if item["kind"] in {"tbf", "ingress"}]
    assert not [item for item in node.json("ip", "-j", "link") if item["ifname"].startswith("bwp")]


#: Three seconds, after one that does not count: what the burst holds is over then.
_STEADY = ("-t", "3", "-O", "1")


def _measured(
    node: Node, box: Netns, *options: str, to: str = "10.9.0.1", much: Sequence[str] = _STEADY
) -> float:
    """Bits a second that iperf3 sees arrive."""
    server = node.popen(["iperf3", "-s", "-1", "-B", to])
    until(lambda: node.run(["ss", "-Hltn", "sport", "=", ":5201"]).text, what="iperf3 listens")
    report = box.run(["iperf3", "-c", to, "-J", *much, *options], timeout=60).json()
    server.wait(30)
    return float(report["end"]["sum_received"]["bits_per_second"])


@pytest.mark.timeout(180)
def test_rates_are_kept_within_a_tenth(node: Node, plugins: str) -> None:
    """Both ways, by iperf3 over TCP (its share of a frame is 1448 of 1514 bytes)."""
    box = node.netns("c1")
    limits = {
        "ingressRate": 40_000_000,
        "ingressBurst": 400_000,
        "egressRate": 20_000_000,
        "egressBurst": 400_000,
    }
    _chained(node, plugins, box, None, **limits)
    assert _measured(node, box) == pytest.approx(20_000_000 * 1448 / 1514, rel=0.1)
    assert _measured(node, box, "-R") == pytest.approx(40_000_000 * 1448 / 1514, rel=0.1)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("key", ["unshapedSubnets", "shapedSubnets"])
def test_subnets_are_told_apart(node: Node, plugins: str, key: str) -> None:
    """Both ways and both families' filters: what is limited is, and the rest is not."""
    box = node.netns("c1")
    node.shell("ip addr add 10.77.0.1/32 dev lo; ip addr add fd00:77::1/128 dev lo")
    limits = {
        "ingressRate": 8_000_000,
        "ingressBurst": 80_000,
        "egressRate": 8_000_000,
        "egressBurst": 80_000,
    }
    subnets = ["10.77.0.0/24", "fd00:77::/64"]
    first = _chained(node, plugins, box, None, **limits)
    made = _chained(node, plugins, box, first, **limits, **{key: subnets})
    box.run(["ip", "route", "replace", "default", "via", "10.9.0.1"])
    for address in ("10.9.0.1", "10.77.0.1"):
        limited = (address == "10.77.0.1") == (key == "shapedSubnets")
        for options in ((), ("-R",)):
            rate = _measured(node, box, *options, to=address, much=("-n", "1M"))
            assert (rate < 12_000_000) == limited, (address, options, rate)
    named = {"cniVersion": "1.0.0", "name": "net", "type": "bandwidth", **limits, key: subnets}
    node.cni("CHECK", f"{plugins}/bandwidth", {**named, "prevResult": made}, "c1", box).ok()
    node.cni("DEL", f"{plugins}/bandwidth", {"name": "net", "type": "bandwidth"}, "c1", box).ok()
    assert not [item for item in node.json("tc", "-j", "qdisc") if item["kind"] in {"tbf", "htb", "ingress"}]


def test_a_previous_result_of_another_link_is_refused(node: Node, plugins: str) -> None:
    """As the reference does: prevResult names links of the host, and none is the end of this interface."""
    box = node.netns("c1")
    named = {"cniVersion": "1.0.0", "name": "net"}
    made = node.cni("ADD", f"{plugins}/ptp", {**PTP, **named}, "c1", box).ok()
    (host,) = [item["name"] for item in made["interfaces"] if not item.get("sandbox")]
    other = [{**item, "name": "other0"} if item["name"] == host else item for item in made["interfaces"]]
    config = {**named, "type": "bandwidth", **LIMITS, "prevResult": {**made, "interfaces": other}}
    refused = node.cni("ADD", f"{plugins}/bandwidth", config, "c1", box)
    assert refused.code == 7
    assert f"the host's end of eth0 is {host}, and prevResult has other0" in str(refused.error)
    assert shape_of(node) == {}
    unnamed = [item for item in made["interfaces"] if item.get("sandbox")]
    config["prevResult"] = {**made, "interfaces": unnamed, "ips": []}
    assert node.cni("ADD", f"{plugins}/bandwidth", config, "c1", box).ok()
    node.cni("DEL", f"{plugins}/bandwidth", config, "c1", box).ok()
    node.cni("DEL", f"{plugins}/ptp", {**PTP, **named}, "c1", box).ok()
