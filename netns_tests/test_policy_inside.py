"""Policy of interfaces whose packets the host does not see: judged in the container's own namespace.

macvlan and host-device here; ipvlan and VLANs are in test_qemu_policy.py.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from netns_tests.node import Netns, Node, Running, until
from netns_tests.plugins import MESOKIT, service
from netns_tests.policy_box import Box, apply, write
from netns_tests.policy_lan import CLOSED, DB, add_lan, closes_and_leaves_nothing, device, lan, lan_matrix
from netns_tests.snapshot import assert_clean, snapshot
from netns_tests.test_crash import DHCP_SERVER
from netns_tests.test_policy import SERVER, answers
from netns_tests.test_policy_changes import SENDER, counts, ends_with_the_change, receiving


@pytest.fixture
def world(node: Node) -> Netns:
    """A machine of the LAN, and the node's link to it."""
    return node.uplink()


def _heard(receiver: Running) -> bool:
    return counts(receiver).get("1000", (0, 0, 0))[0] > 10


def macvlan(default: str = "open", **keys: Any) -> dict[str, Any]:
    return lan("macvlan", default, **keys)


def test_defaults(node: Node, plugins: str, world: Netns) -> None:
    """Containers and another machine of the LAN, both families."""
    found = {}
    for default in ("open", "isolated", "groups"):
        boxes = [
            Box(node, plugins, f"{name}-{default}", macvlan(default, name=f"net-{default}"), groups)
            for name, groups in (("a", ["x"]), ("b", ["x"]), ("c", []))
        ]
        found[default] = lan_matrix(boxes, world)
        for box in boxes:
            box.call("DEL").ok()
    everybody = {"ab", "ac", "ba", "bc", "ca", "cb", "a-", "b-", "c-", "-a", "-b", "-c"}
    assert found["open"] == everybody
    assert found["isolated"] == set()
    assert found["groups"] == {"ab", "ba", "a-", "b-", "c-", "-a", "-b", "-c"}


def test_a_policy_changes_under_running_containers(node: Node, plugins: str, world: Netns) -> None:
    """Labels select; a change holds at once in every namespace, and whoever comes or goes is known there."""
    db, web, other = (Box(node, plugins, name, macvlan(), role=name) for name in ("db", "web", "x"))
    assert other.reaches(db)
    apply(node, [DB])
    assert web.reaches(db) and not other.reaches(db) and other.reaches(web)
    assert not world.ping(db.four, seconds=0.6) and world.ping(web.four, seconds=2)
    late = Box(node, plugins, "late", macvlan(), role="web")
    assert late.reaches(db)
    for port, passes in ((5432, True), (5433, False)):
        assert answers(node, late, db.six, port, server=db.netns) == passes
    late.call("DEL").ok()
    assert late.four not in db.netns.run(["nft", "list", "ruleset"]).text
    apply(node, [])
    assert other.reaches(db) and world.ping(db.six, seconds=2)
    for box in (db, web, other):
        assert not box.call("CHECK").error
        box.call("DEL").ok()
    assert json.loads(node.path("/run/mesokit/policy/state.json").read_text())["endpoints"] == []


def test_egress_too(node: Node, ours: str, world: Netns) -> None:
    """By its address on the LAN, with the answers to it and nothing else."""
    db, web = (Box(node, ours, name, macvlan(), role=name) for name in ("db", "web"))
    rule = {"allow": ["tcp/80", "icmp"], "to": [{"cidr": "192.0.2.1/32"}]}
    apply(node, [{"name": "out", "for": {"labels": {"role": "web"}}, "egress": [rule]}])
    assert web.reaches("192.0.2.1") and not web.reaches(db) and db.reaches(web)
    assert answers(node, web, "192.0.2.1", 80, server=world)
    assert not answers(node, web, "192.0.2.1", 81, server=world)


def test_a_device_of_the_host(node: Node, plugins: str) -> None:
    """host-device: its own link, whose other end is another machine."""
    neighbour = node.netns("neighbour")
    node.shell(
        "ip link add spare0 type veth peer name spare1 netns neighbour\n"
        "ip -n neighbour addr add 10.9.0.1/24 dev spare1; ip -n neighbour link set spare1 up"
    )
    db = Box(node, plugins, "db", device("host-device", device="spare0"), role="db")
    closes_and_leaves_nothing(node, db, neighbour)
    assert "spare0" in node.shell("ip link")


def test_nothing_is_left(node: Node, plugins: str, world: Netns) -> None:
    """After DEL, on the host and in the namespace; and after a GC of what died without one."""
    boxes = [node.netns(name) for name in ("c1", "c2")]
    before = snapshot(node, boxes)
    made = macvlan("isolated")
    for box in boxes:
        result = node.cni("ADD", f"{plugins}/macvlan", made, box.name, box).ok()
        assert "inside_input" in box.run(["nft", "list", "ruleset"]).text
        assert node.shell("nft list ruleset").strip() == ""
    node.cni("DEL", f"{plugins}/macvlan", made | {"prevResult": result}, "c2", boxes[1]).ok()
    node.cni("GC", f"{plugins}/macvlan", made | {"cni.dev/valid-attachments": []}).ok()
    assert_clean(
        node, before, boxes=boxes, allowed=[r"node: file /run/mesokit/policy", r"file /run/mesokit/policy"]
    )


def test_no_packet_comes_before_the_policy(node: Node, ours: str, world: Netns) -> None:
    """A machine of the LAN sends from before the ADD until after the DEL."""
    apply(node, [DB | {"ingress": [{"allow": ["udp/1000"], "from": ["any"]}]}])
    sender = world.popen([sys.executable, "-c", SENDER, "192.0.2.9", "1000", "2000"])
    for number in range(3):
        box = node.netns(f"db{number}")
        receiver = receiving(box, 1000, 2000)
        made = macvlan(ipam={"type": "static", "addresses": [{"address": "192.0.2.9/24"}]})
        result = add_lan(node, ours, made, box, role="db")
        until(partial(_heard, receiver), what="it arrives")
        node.cni("DEL", f"{ours}/macvlan", made | {"prevResult": result}, box.name, box).ok()
        assert counts(receiver)["2000"][0] == 0
    sender.kill()


def test_what_is_denied_ends_with_the_change(node: Node, ours: str, world: Netns) -> None:
    db, web = (Box(node, ours, name, macvlan(), role=name) for name in ("db", "web"))
    ends_with_the_change(node, db, web, CLOSED)


def test_an_address_of_another_interface_is_no_way_in(node: Node, ours: str, world: Netns) -> None:
    """Linux answers for all its addresses on every interface: what comes by a closed one is judged there."""
    closed = Box(node, ours, "a", macvlan("isolated"))
    closed.netns.run(["ip", "addr", "add", "10.77.0.1/32", "dev", "lo"])
    server = closed.netns.popen(["python3", "-c", SERVER, "10.77.0.1", "80"])
    world.run(["ip", "route", "add", "10.77.0.1", "via", closed.four])
    assert not world.ping("10.77.0.1", seconds=0.6)
    assert closed.netns.ping("10.77.0.1", seconds=2)
    server.kill()


@pytest.mark.parametrize(
    "harm", ["flush ruleset", "delete table inet mesokit", "flush set inet mesokit inside_links"]
)
def test_what_the_container_took_away_is_told_and_made_again(
    node: Node, ours: str, world: Netns, harm: str
) -> None:
    """By CHECK and `policy apply` without the service."""
    db, web = (Box(node, ours, name, macvlan(), role=name) for name in ("db", "web"))
    apply(node, [CLOSED])
    db.netns.run(["nft", *harm.split()])
    assert web.reaches(db)
    error = db.call("CHECK").error
    assert error is not None and "the policy" in str(error), error
    assert apply(node)["restored"] > 0
    assert not web.reaches(db) and not db.call("CHECK").error
    assert apply(node)["restored"] == 0
    db.netns.run(["nft", *harm.split()])
    node.run([MESOKIT, "reload"])
    assert not web.reaches(db)


def test_the_service_makes_it_again_and_says_so(node: Node, ours: str, world: Netns) -> None:
    """A container that has CAP_NET_ADMIN deletes its table; the files' changes reach it too, and a restart of
    the service takes nothing away.
    """
    db, web = (Box(node, ours, name, macvlan("isolated"), role=name) for name in ("db", "web"))
    running = node.popen([MESOKIT, "node"])
    until(node.path("/run/mesokit/node.sock").is_socket, what="the node service listens")
    time.sleep(1)
    db.netns.run(["nft", "delete", "table", "inet", "mesokit"])
    until(lambda: "inside_input" in db.netns.run(["nft", "list", "ruleset"]).text, what="the rules are back")
    assert not web.reaches(db)
    running.kill(signal.SIGTERM)
    told = running.wait(30).stderr.decode()
    assert "policy: container db on network net: somebody removed" in told
    assert not web.reaches(db)
    with service(node):
        write(node, [DB, {"name": "out", "for": {}, "egress": [{"allow": ["any"], "to": ["any"]}]}])
        until(lambda: web.netns.ping(db.four, seconds=0.4), what="the policy holds in the namespaces")
        write(node, [])
        until(lambda: not web.netns.ping(db.four, seconds=0.4), what="the network's default holds")


def test_explain_and_show_know_it(node: Node, ours: str, world: Netns) -> None:
    """The verdict is read from the container's own sets; how it is enforced is told, and who could end it."""
    db, web = (Box(node, ours, name, macvlan(), role=name) for name in ("db", "web"))
    apply(node, [DB])
    told = node.run([MESOKIT, "policy", "explain", "web", "db", "tcp/5432", "--json"])
    assert all(answer["allowed"] for answer in json.loads(told.text))
    assert "inside_in4 -> in_" in told.text
    refused = node.run([MESOKIT, "policy", "explain", "192.0.2.1", "db", "tcp/5432"], check=False)
    assert refused.status == 1 and "is refused (by the target's side)" in refused.text
    shown = node.run([MESOKIT, "policy", "show", "--json"]).json()
    assert {item["enforced"] for item in shown["endpoints"]} == {"in its own network namespace"}
    assert shown["missing"] == 0
    assert [item["admins"] for item in shown["endpoints"]] == [[], []]
    task = db.netns.popen(["sleep", "60"])
    shown = node.run([MESOKIT, "policy", "show", "--json"]).json()
    (found,) = (item["admins"] for item in shown["endpoints"] if item["container"] == "db")
    assert len(found) == 1
    assert "may take it away" in node.run([MESOKIT, "policy", "show"]).text
    task.kill()
    web.netns.run(["nft", "flush", "ruleset"])
    assert node.run([MESOKIT, "policy", "show", "--json"]).json()["missing"] > 0


def test_the_host_and_the_agent(node: Node, ours: str, world: Netns) -> None:
    """The node's own addresses, reached over the LAN, are `host`: it reaches an isolated container, and the
    container reaches the agent's port alone.
    """
    # The LAN machine sends on what is for the node: macvlan itself keeps a container from its host.
    box = Box(node, ours, "a", macvlan("isolated"))
    world.run(["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.proxy_arp=1"])
    node.shell("ip addr add 198.51.100.7/32 dev lo")
    world.run(["ip", "route", "add", "198.51.100.7", "via", "192.0.2.2"])
    node.shell(f"ip route add {box.four} via 192.0.2.1")
    box.netns.run(["ip", "route", "add", "198.51.100.7", "via", "192.0.2.1"])
    apply(node)
    assert answers(node, box, "198.51.100.7", 5051)
    assert not answers(node, box, "198.51.100.7", 5052)
    assert not answers(node, box, "192.0.2.1", 5051, server=world)


def test_an_address_by_dhcp_is_known_to_policy(node: Node, ours: str, world: Netns, tmp_path: Path) -> None:
    """The interface is closed before it asks for its address, and others know the address then."""
    node.shell(DHCP_SERVER)
    daemon = node.popen([MESOKIT, "dhcp"])
    until(node.path("/run/mesokit/dhcp.sock").is_socket, what="the daemon listens")
    db = Box(node, ours, "db", macvlan("open", ipam={"type": "dhcp"}), role="db")
    web = Box(node, ours, "web", macvlan("open", ipam={"type": "dhcp"}), role="web")
    apply(node, [DB])
    assert web.reaches(db) and not world.ping(db.four, seconds=0.6)
    assert not db.call("CHECK").error
    for box in (db, web):
        box.call("DEL").ok()
    assert json.loads(node.path("/run/mesokit/policy/state.json").read_text())["endpoints"] == []
    daemon.kill()


def test_a_vrf_is_no_way_around_the_policy(node: Node, plugins: str, world: Netns) -> None:
    """The rules in the namespace see what comes for a VRF's port as the VRF's."""
    box = node.netns("db")
    result = add_lan(node, plugins, macvlan("isolated"), box)
    vrf = {"cniVersion": "1.1.0", "name": "net", "type": "vrf", "vrfname": "blue", "prevResult": result}
    said = node.cni("ADD", f"{plugins}/vrf", vrf, "db", box)
    assert said.code == 7 and said.error is not None
    assert "vrfname is 'blue', and eth0 is under policy in its own network namespace" in said.error["msg"]
