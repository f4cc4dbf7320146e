"""`mesokit update --add-network` and `--remove-network`: networks that come to a running container and go,
and how what its runtime knows nothing of ends with it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from netns_tests.case import bridge, local
from netns_tests.node import Netns, Node, until
from netns_tests.plugins import MESOKIT, service
from netns_tests.runtime import attach, network
from netns_tests.snapshot import assert_clean, snapshot
from netns_tests.test_crash import Driver, driver, make_box, shim
from netns_tests.test_update import CHAIN, flowing, update

__all__ = ["shim"]

PORTS = {"type": "portmap", "capabilities": {"portMappings": True}}
#: What an operator adds: a list, with a default route in both families, and one for a single interface.
STORAGE = network(
    [
        bridge(
            local("10.8.0.0/24", "fd00:8::/64", routes=[{"dst": "10.30.0.0/16"}]),
            bridge="stor0",
            isDefaultGateway=True,
            ipMasq=True,
        ),
        {"type": "tuning", "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}},
        PORTS,
    ],
    name="stor",
)
ROUTED = {"cniVersion": "1.0.0", "name": "routed", "type": "ptp", "ipam": local("10.7.0.0/24", "fd00:7::/64")}


def files(node: Node, *documents: Mapping[str, Any]) -> None:
    place = node.path("/etc/cni/net.d")
    place.mkdir(parents=True, exist_ok=True)
    for document in documents:
        suffix = "conflist" if "plugins" in document else "conf"
        (place / f"{document['name']}.{suffix}").write_text(json.dumps(document))


def ways(box: Netns) -> str:
    """What the container reaches how."""
    return "".join(
        box.run(["ip", *family, "route", "get", target], check=False).text
        for family, target in (
            ([], "192.0.2.77"),
            ([], "10.30.1.1"),
            (["-6"], "2001:db8::77"),
        )
    )


def call(node: Node, ours: str, verb: str, box: Netns | None, conf: Mapping[str, Any], **more: Any) -> Any:
    return node.cni(verb, f"{ours}/{conf['type']}", {**conf, **more}, "c1", box)


def outcomes(node: Node, *words: str, status: int = 0) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = update(node, "c1", *words, status=status)
    return listed


def rules(node: Node) -> str:
    return node.run(["nft", "list", "ruleset"]).text


def test_added_and_removed_while_packets_flow(node: Node, plugins: str) -> None:
    """Both families; what the container reached it goes on reaching the same way."""
    files(node, STORAGE, ROUTED)
    box = node.netns("c1")
    clean = snapshot(node, [box])
    result = call(node, plugins, "ADD", box, CHAIN).ok()
    before, reached = snapshot(node, [box]), ways(box)
    with flowing(node, box) as felt:
        (added, other) = outcomes(node, "--add-network", "stor", "--add-network", "routed:net9")
    assert felt["lost"] == 0, felt
    assert [added["action"], added["changed"]] == ["add", True]
    assert [entry["address"] for entry in added["result"]["ips"]] == ["10.8.0.2/24", "fd00:8::2/64"]
    assert [item["ifname"] for item in (added, other)] == ["eth1", "net9"]
    for address in ("10.8.0.1", "fd00:8::1", "10.9.0.1"):
        assert box.ping(address)
    for address in ("10.8.0.2", "fd00:8::2", "10.7.0.2", "fd00:7::2"):
        assert node.ping(address)
    assert ways(box) == reached
    assert "10.8.0.2" in rules(node)
    call(node, plugins, "CHECK", box, CHAIN, prevResult=result).ok()
    listed = json.loads(node.run([MESOKIT, "ls", "--json"]).text)["items"]
    assert {(item["network"], item["interface"], item["state"]) for item in listed} == {
        ("net", "eth0", "up"),
        ("stor", "eth1", "up"),
        ("routed", "net9", "up"),
    }
    (outcome,) = update(node, "c1", "--network", "stor", "ports+=9090:90")
    assert re.search(r"9090 .*10\.8\.0\.2 \. 90", rules(node)), outcome
    (refused,) = outcomes(node, "--remove-network", "stor", status=1)
    assert "--disrupt allows it" in refused["problems"][0]
    with flowing(node, box) as felt:
        outcomes(node, "--remove-network", "stor", "--remove-network", "routed", "--disrupt")
    assert felt["lost"] == 0, felt
    assert_clean(node, before, "after both went", boxes=[box])
    call(node, plugins, "DEL", box, CHAIN).ok()
    assert_clean(node, clean, "after DEL", boxes=[box])


def test_a_dry_run_changes_nothing(node: Node, ours: str) -> None:
    files(node, STORAGE)
    box = node.netns("c1")
    call(node, ours, "ADD", box, CHAIN).ok()
    before = snapshot(node, [box])
    done = node.run([MESOKIT, "update", "c1", "--add-network", "stor", "--dry-run"])
    assert done.text == "c1 eth1 on stor: would be added\n"
    assert_clean(node, before, "a dry run of adding", boxes=[box])
    outcomes(node, "--add-network", "stor")
    before = snapshot(node, [box])
    done = node.run([MESOKIT, "update", "c1", "--remove-network", "stor", "--dry-run"])
    assert "c1 eth1 on stor: would be removed" in done.text
    assert "needs --disrupt: every flow over eth1 ends at once, for good" in done.text
    assert_clean(node, before, "a dry run of removing", boxes=[box])


@pytest.mark.parametrize(
    ("document", "words", "told"),
    [
        (STORAGE, ["--add-network", "nowhere"], "no network 'nowhere'"),
        (STORAGE, ["--add-network", "stor:eth0"], "container c1 has an interface eth0"),
        (STORAGE, ["--add-network", "stor:a/b"], "'a/b' is no name of an interface"),
        (STORAGE, ["--remove-network", "stor"], "no record knows container c1 on network stor"),
        (STORAGE, ["--remove-network", "net"], "its runtime attached eth0"),
        (
            network([bridge(local("10.9.0.0/16"), bridge="stor0")], name="stor"),
            ["--add-network", "stor"],
            "the container has 10.9.0.2/24 on eth0: a container is in a subnet once",
        ),
        (
            network([bridge(local("10.8.0.0/24")), {"type": "tuning", "mtu": "x"}], name="stor"),
            ["--add-network", "stor"],
            "mtu is 'x'",
        ),
        (
            network([bridge(local("10.8.0.0/24", "fd00:8::/64"), mtu=1279)], name="stor"),
            ["--add-network", "stor"],
            "1280",
        ),
        (network([{"type": "nothing"}], name="stor"), ["--add-network", "stor"], "nothing"),
        (network([], name="stor"), ["--add-network", "stor"], "'plugins' is empty"),
    ],
)
def test_what_cannot_be_is_said_and_leaves_nothing(
    node: Node, ours: str, document: Mapping[str, Any], words: list[str], told: str
) -> None:
    files(node, document)
    box = node.netns("c1")
    call(node, ours, "ADD", box, CHAIN).ok()
    before = snapshot(node, [box])
    done = node.run([MESOKIT, "update", "c1", *words, "--json"], check=False)
    assert done.status == 1
    said = done.text or done.stderr.decode()
    assert told in said, said
    assert_clean(node, before, "refused", boxes=[box])


def test_a_container_that_nobody_here_attached(node: Node, ours: str) -> None:
    files(node, STORAGE)
    node.netns("c1")
    (outcome,) = outcomes(node, "--add-network", "stor", status=1)
    assert "its runtime attached container c1 to no network of ours" in outcome["problems"][0]


@pytest.mark.parametrize("gone", [False, True], ids=["", "namespace gone"])
def test_the_del_of_the_last_own_network_takes_the_added_along(node: Node, plugins: str, gone: bool) -> None:
    """A list whose plugins a runtime calls one by one, and a second network of its own."""
    files(node, STORAGE)
    before = snapshot(node)
    box = node.netns("c1")
    clean = before if gone else snapshot(node, [box])
    first = network([bridge(local("10.9.0.0/24", "fd00:9::/64"), isGateway=True), PORTS])
    second = network([bridge(local("10.6.0.0/24"), bridge="six0")], name="six")
    ports = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}
    one = attach(node, plugins, first, "c1", box, capabilities=ports)
    two = attach(node, plugins, second, "c1", box, ifname="eth5")
    outcomes(node, "--add-network", "stor")
    if gone:
        box.delete()
    one.delete(previous=False).ok()
    assert "10.8.0.2" in rules(node)
    two.delete(previous=False).ok()
    assert_clean(node, clean, "after the last DEL", boxes=[] if gone else [box])


def test_gc_of_the_added_network_spares_it_and_gc_of_its_own_takes_it(node: Node, plugins: str) -> None:
    files(node, STORAGE)
    clean = snapshot(node)
    box = node.netns("c1")
    own = network([bridge(local("10.9.0.0/24", "fd00:9::/64"), isGateway=True)], version="1.1.0")
    held = attach(node, plugins, own, "c1", box)
    outcomes(node, "--add-network", "stor")
    another = node.netns("c2")
    other = attach(node, plugins, STORAGE | {"cniVersion": "1.1.0"}, "c2", another)
    other.collect([("c2", "eth0")]).ok()
    assert node.run([MESOKIT, "gc"]).text == "nothing is stale\n"
    node.run([MESOKIT, "cni", "gc", "stor"])
    assert box.ping("10.8.0.1")
    assert "10.8.0.2" in rules(node)
    other.delete().ok()
    another.delete()
    box.delete()
    held.collect([]).ok()
    assert_clean(node, clean, "after GC of the container's own network")


def test_mesokit_gc_takes_all_of_a_container_that_is_no_more(node: Node, plugins: str) -> None:
    files(node, STORAGE)
    clean = snapshot(node)
    box = node.netns("c1")
    call(node, plugins, "ADD", box, CHAIN).ok()
    outcomes(node, "--add-network", "stor")
    box.delete()
    node.run([MESOKIT, "gc"])
    assert_clean(node, clean, "after gc")


def test_one_that_the_runtime_attached_is_taken_away_by_force(node: Node, plugins: str) -> None:
    files(node, STORAGE)
    box = node.netns("c1")
    clean = snapshot(node, [box])
    first = attach(node, plugins, network([bridge(local("10.9.0.0/24")), PORTS]), "c1", box)
    second = attach(
        node,
        plugins,
        network([bridge(local("10.6.0.0/24"), bridge="six0")], name="six"),
        "c1",
        box,
        ifname="eth5",
    )
    outcomes(node, "--add-network", "stor")
    outcomes(node, "--remove-network", "net", "--force", "--disrupt")
    assert "10.9.0.2" not in box.run(["ip", "addr"]).text
    (outcome,) = outcomes(node, "--remove-network", "six", "--force", "--disrupt", status=1)
    assert "it is the last one that its runtime attached" in outcome["problems"][0]
    first.delete().ok()
    assert box.ping("10.8.0.1")
    second.delete().ok()
    assert_clean(node, clean, "after DEL", boxes=[box])


def test_policy_knows_it_by_what_the_agent_said(node: Node, ours: str) -> None:
    """Groups of the task hold on a network that is added."""
    mesos = {"args": {"org.apache.mesos": {"network_info": {"name": "net", "groups": ["web"]}}}}
    files(node, network([bridge(local("10.8.0.0/24"), bridge="stor0", policy="groups")], name="stor"))
    boxes = [node.netns(name) for name in ("c1", "c2")]
    for box in boxes:
        conf = {**CHAIN, **mesos, "runtimeConfig": {}}
        node.cni("ADD", f"{ours}/chain", conf, box.name, box).ok()
        update(node, box.name, "--add-network", "stor")
    assert boxes[0].ping("10.8.0.3")
    update(node, "c2", "--network", "stor", "groups=db")
    assert not boxes[0].ping("10.8.0.3", seconds=0)


ALLOWED = [r"file /run/lock/crash-counter", r"file /run/mesokit/(attachments|host-local)/"]
GONE = STORAGE | {"plugins": []}
HOW = ("reload", "check", "update", "del")


class Ends:
    """Who finishes what was killed; `del` also attaches the container anew."""

    def __init__(self, node: Node, ours: str, plugin: Driver, box: Netns) -> None:
        self.node, self.ours, self.plugin, self.box = node, ours, plugin, box
        self.clean = snapshot(node, [box])
        self._add()
        self.before = snapshot(node, [box])

    def _add(self) -> None:
        self.result = json.loads(self.plugin.call("ADD", self.box)["stdout"])

    def by(self, how: str, why: str) -> None:
        if how == "reload":
            self.node.run([MESOKIT, "reload"])
        elif how == "check":
            self.plugin.succeed("CHECK", self.box, prevResult=self.result)
        elif how == "del":
            self.plugin.succeed("DEL", self.box)
            assert_clean(self.node, self.clean, why, boxes=[self.box], allowed=ALLOWED)
            self._add()

    def as_before(self, why: str) -> None:
        assert_clean(self.node, self.before, why, boxes=[self.box], allowed=ALLOWED)

    def is_there(self) -> bool:
        return "eth1" in self.box.run(["ip", "-br", "link"]).text


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("how", HOW)
def test_adding_that_was_killed_is_taken_back(node: Node, ours: str, shim: Path, how: str) -> None:
    """By a reload, a CHECK or another update of the container, or its DEL; what was complete stays."""
    node.uplink()
    box = make_box(node)
    with driver(node, shim, CHAIN) as plugin:
        ends = Ends(node, ours, plugin, box)
        crash = 1
        while plugin.move(STORAGE, crash)["status"] == -9:
            why = f"adding killed before change {crash}"
            ends.by(how, why)
            if how == "update":
                complete = ends.is_there() and box.ping("10.8.0.1", seconds=0)
                assert complete or plugin.move(STORAGE)["status"] == 0, why
            if how != "del" and ends.is_there():  # whole, or it would have been taken back
                assert box.ping("10.8.0.1"), why
                assert plugin.move(GONE)["status"] == 0, why
            if how != "del":
                ends.as_before(why)
            crash += 1 if how == "reload" else 4
        assert crash > 20
        plugin.succeed("DEL", box)
        assert_clean(node, ends.clean, "at the end", boxes=[box], allowed=ALLOWED)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("how", HOW)
def test_removing_that_was_killed_is_finished(node: Node, ours: str, shim: Path, how: str) -> None:
    node.uplink()
    box = make_box(node)
    with driver(node, shim, CHAIN) as plugin:
        ends = Ends(node, ours, plugin, box)
        assert plugin.move(STORAGE)["status"] == 0
        crash = 1
        while plugin.move(GONE, crash)["status"] == -9:
            why = f"removing killed before change {crash}"
            marked = bool(list(node.path("/run/mesokit/added").glob("*/*.going")))
            ends.by(how, why)
            if how == "update":
                plugin.move(GONE)  # it may be gone by now, which it says
            elif how != "del" and not marked and ends.is_there():  # it had not begun
                assert plugin.move(GONE)["status"] == 0, why
            if how != "del":
                ends.as_before(why)
            assert plugin.move(STORAGE)["status"] == 0, why
            crash += 1
        assert crash > 8
        plugin.succeed("DEL", box)
        assert_clean(node, ends.clean, "at the end", boxes=[box], allowed=ALLOWED)


def test_the_service_ends_what_was_killed(node: Node, ours: str, shim: Path) -> None:
    """Its upkeep, when it looks through the records at its start."""
    box = make_box(node)
    with driver(node, shim, CHAIN) as plugin:
        ends = Ends(node, ours, plugin, box)
        assert plugin.move(STORAGE, 20)["status"] == -9
        with service(node):
            gone = node.path("/run/mesokit/added")
            until(lambda: not list(gone.glob("*/*")), what="what was killed is ended")
        assert_clean(
            node,
            ends.before,
            "the service was there",
            boxes=[box],
            allowed=[*ALLOWED, r"process ", r"socket /run/mesokit/"],
        )
