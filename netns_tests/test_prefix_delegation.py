"""A bridge whose IPv6 prefix a router delegates (DHCPv6, IA_PD), against Kea and a hostile server."""

from __future__ import annotations

import os
from ipaddress import ip_address, ip_interface, ip_network

from netns_tests.dhcp_lan import began, kill_daemon, leases
from netns_tests.node import Netns, Node, started, until
from netns_tests.plugins import MESOKIT, service
from netns_tests.test_dhcp6 import at_once, bridged, global_of, kea6, lan6, texts
from netns_tests.test_dhcp6_hostile import hostile

POOL = ("fd78::/48", 60)
RELEASE = b"8"  # what the hostile server answered


def unreachable(node: Node) -> list[str]:
    """Networks that the host refuses to send to."""
    return [item["dst"] for item in node.json("ip", "-6", "-j", "route", "show", "type", "unreachable")]


def prefix_of(node: Node) -> str:
    (lease,) = leases(node)
    return str(lease["address"])


def routed(node: Node, server: Netns, prefix: str) -> None:
    """What a delegating router does: the prefix by the requesting router, whose uplink has an address."""
    node.run(["ip", "addr", "replace", "fd77::7/64", "dev", "lan0", "nodad"])
    server.run(["ip", "-6", "route", "replace", prefix, "via", "fd77::7"])


def test_one_prefix_for_a_network_and_back_with_its_last_container(node: Node, ours: str) -> None:
    with lan6(node) as server, kea6(server, seconds=60, delegated=POOL) as kea, service(node):
        conf, boxes = bridged(), [node.netns("c1"), node.netns("c2")]
        results = [node.cni("ADD", f"{ours}/bridge", conf, box.name, box).ok() for box in boxes]
        (lease,) = leases(node)
        assert (lease["container"], lease["interface"], lease["network"]) == ("", "lan0", "web")
        assert lease["address"].endswith("::/60"), lease
        assert unreachable(node) == [lease["address"]]
        start = lease["address"].removesuffix("::/60")
        assert [ip["address"] for result in results for ip in result["ips"][1:]] == [
            f"{start}::2/64", f"{start}::3/64",
        ]  # fmt: skip
        assert {result["ips"][1]["gateway"] for result in results} == {f"{start}::1"}
        assert f"{start}::1/64" in node.run(["ip", "-6", "addr", "show", "dev", "web0"]).text
        routed(node, server, lease["address"])
        assert boxes[0].ping("fd77::1"), "out by the uplink and back"
        assert boxes[0].ping(f"{start}::3")
        rules = node.run(["nft", "list", "ruleset"]).text
        assert "10.60.0.2" in rules and start not in rules, "no address of a delegated prefix is hidden"
        assert not boxes[0].ping(f"{start[:-1]}1::9", seconds=0.5), "what no link has goes nowhere"
        node.cni("CHECK", f"{ours}/bridge", {**conf, "prevResult": results[0]}, "c1", boxes[0]).ok()
        node.cni("DEL", f"{ours}/bridge", conf, "c1", boxes[0]).ok()
        assert prefix_of(node) == lease["address"], "the other container needs it"
        node.cni("DEL", f"{ours}/bridge", conf, "c2", boxes[1]).ok()
        until(lambda: b"DHCP6_RELEASE_PD" in kea.output(), what="kea hears of the release")
        assert leases(node) == []
        assert unreachable(node) == []


def deprecated(box: Netns) -> list[str]:
    """The IPv6 addresses that new connections do not take."""
    return [item["local"] for item in global_of(box) if item.get("deprecated")]


def doctor(node: Node) -> str:
    return node.run([MESOKIT, "doctor", "--json"], check=False).text


def test_a_prefix_ends_and_another_comes(node: Node, ours: str) -> None:
    """Containers keep what they have, deprecated; new ones get an address of the new prefix."""
    conf, box, later = bridged(), node.netns("c1"), node.netns("c2")
    with lan6(node) as server, service(node):
        with kea6(server, seconds=5, delegated=POOL):
            result = node.cni("ADD", f"{ours}/bridge", conf, "c1", box).ok()
            old, address = prefix_of(node), texts(box)[0].partition("/")[0]
            kill_daemon(node)
            before = began(node)
            until(lambda: began(node) > before, what="another daemon renews it")
            assert (prefix_of(node), unreachable(node)) == (old, [old])
        until(lambda: leases(node)[0]["state"] == "init", what="it ends without a server")
        assert "lost" in leases(node)[0]["told"]
        until(lambda: deprecated(box) == [address], what="the container's address is deprecated")
        assert unreachable(node) == []
        checked = node.cni("CHECK", f"{ours}/bridge", {**conf, "prevResult": result}, "c1", box)
        assert "is over" in str(checked.error), checked
        assert "network web has no IPv6 prefix" in doctor(node)
        with kea6(server, seconds=60, delegated=("fd79::/48", 62)):
            fresh = node.cni("ADD", f"{ours}/bridge", conf, "c2", later).ok()  # asks at once
            assert f"is {prefix_of(node)} now, it was {old}" in leases(node)[0]["told"]
            assert unreachable(node) == [prefix_of(node)]
            assert fresh["ips"][1]["address"] == "fd79::2/64"
            assert later.ping("fd79::1") and box.ping(result["ips"][1]["gateway"])
            assert texts(box) == [result["ips"][1]["address"]]
            checked = node.cni("CHECK", f"{ours}/bridge", {**conf, "prevResult": result}, "c1", box)
            assert f"the prefix of network web is {prefix_of(node)} by now" in str(checked.error)
            node.cni("CHECK", f"{ours}/bridge", {**conf, "prevResult": fresh}, "c2", later).ok()
            assert "network web has containers with IPv6 addresses of a prefix" in doctor(node)
            pools = node.run([MESOKIT, "ip", "web"]).text
            assert "range fd79::1-fd79::ffff" in pools, pools[150:]
            node.cni("DEL", f"{ours}/bridge", conf, "c2", later).ok()
            assert prefix_of(node).startswith("fd79:")
            node.cni("DEL", f"{ours}/bridge", conf, "c1", box).ok()
            assert (leases(node), unreachable(node)) == ([], [])


def test_prefixes_that_no_network_can_have(node: Node, ours: str) -> None:
    """Of length 0, 129 and 255, too large, too small, of a link, multicast: passed over, for the right one.
    What the node has itself is given back."""
    conf, box = bridged(), node.netns("c1")
    with lan6(node) as server, started(node.popen([MESOKIT, "dhcp"])) as daemon:
        until(node.path("/run/mesokit/dhcp.sock").is_socket, what="the lease daemon listens")
        with hostile(server, "noise", "naked", "once", given="fd78:0:0:10::/60", seconds=4):
            node.cni("ADD", f"{ours}/bridge", conf, "c1", box).ok()
            assert unreachable(node) == ["fd78:0:0:10::/60"]
            until(lambda: leases(node)[0]["told"], what="a lifetime of 0 ends it")
            assert unreachable(node) == []
            until(lambda: leases(node)[0]["state"] == "bound", what="the server's next word is taken")
            assert unreachable(node) == ["fd78:0:0:10::/60"] and deprecated(box) == []
            node.cni("DEL", f"{ours}/bridge", conf, "c1", box).ok()
            assert (leases(node), unreachable(node)) == ([], [])
        node.run(["ip", "addr", "add", "fd77::7/64", "dev", "lan0", "nodad"])
        with hostile(server, "once", given="fd77::/56"):
            refused = node.cni("ADD", f"{ours}/bridge", conf, "c1", box)
            assert refused.code == 11
            assert "fd77::/56 is in use by lan0, which has fd77::7/64" in str(refused.error)
        assert not daemon.ended()
        assert (leases(node), unreachable(node), texts(box)) == ([], [], [])


def test_what_a_server_does_to_a_prefix_that_it_gave(node: Node, ours: str) -> None:
    """Another in its place; one that the node has; not preferred any more; not renewed while preferred."""
    ways = ("moved", "taken", "aged", "deaf")
    boxes = {way: node.netns(way) for way in ways}
    confs = {way: bridged(duid=way.encode().hex()) | {"name": way, "bridge": way} for way in ways}
    for number, way in enumerate(ways):
        confs[way]["ipam"]["subnet"] = f"10.60.{number}.0/24"
    with lan6(node) as server, started(node.popen([MESOKIT, "dhcp"])) as daemon:
        until(node.path("/run/mesokit/dhcp.sock").is_socket, what="the lease daemon listens")
        node.run(["ip", "addr", "add", "fd77::7/64", "dev", "lan0", "nodad"])
        with hostile(server, "each", "once", given="::/0", seconds=5):
            answers = at_once(ours, *((boxes[way], confs[way]) for way in ways))
            had = {
                way: f"{ip_interface(answer.ok()['ips'][1]['address']).network.network_address}/60"
                for way, answer in zip(ways, answers, strict=True)
            }
            until(lambda: b"fd77::/56 is in use by lan0" in daemon.errors(), what="it is not taken")
            until(lambda: "fd78:0:0:f0::/60" in unreachable(node), what="another takes its place")
            until(lambda: all(deprecated(boxes[way]) for way in ("moved", "aged", "deaf")), what="deprecated")
            assert had["moved"] not in unreachable(node)
            assert f"its server wants {had['aged']} to be given up".encode() in daemon.errors()
            for way in ways:
                node.cni("DEL", f"{ours}/bridge", confs[way], way, boxes[way]).ok()
            assert (leases(node), unreachable(node)) == ([], [])


def test_many_at_once_and_gc(node: Node, ours: str) -> None:
    """One lease for all of a network; another network, of routed containers, has one of its own."""
    conf, far = bridged(subnet=3), {**bridged(), "name": "far", "type": "ptp"}
    far["ipam"]["routes"] = [{"dst": "::/0"}]
    boxes, there = [node.netns(f"c{number}") for number in range(6)], node.netns("far")
    with lan6(node) as server, kea6(server, seconds=60, delegated=POOL) as kea, service(node):
        answers = at_once(ours, (there, far), *((box, conf) for box in boxes))
        other, *addresses = [answer.ok()["ips"][1]["address"] for answer in answers]
        assert kea.output().count(b"DHCP6_PD_LEASE_ALLOC") == 2
        assert {item["network"] for item in leases(node)} == {"far", "web"}
        (web,) = [item["address"].partition("/")[0] for item in leases(node) if item["network"] == "web"]
        first = ip_address(web) + (3 << 64)
        assert sorted(addresses) == [f"{first + number}/64" for number in range(2, 8)]
        assert boxes[0].ping(other.partition("/")[0])
        node.cni("DEL", f"{ours}/ptp", far, "far", there).ok()
        assert [item["network"] for item in leases(node)] == ["web"]
        for box in boxes:
            box.delete()
        keep = {"cni.dev/valid-attachments": [{"containerID": "c0", "ifname": "eth0"}]}
        node.cni("GC", f"{ours}/bridge", {**conf, **keep}).ok()
        assert len(leases(node)) == 1
        node.cni("GC", f"{ours}/bridge", {**conf, "cni.dev/valid-attachments": []}).ok()
        assert (leases(node), unreachable(node)) == ([], [])


def test_host_local_of_somebody_elses_bridge(node: Node, ours: str) -> None:
    """Called by itself it has no record: its reservations say who needs the prefix."""
    conf, box = bridged(), node.netns("c1")
    with lan6(node) as server, kea6(server, seconds=60, delegated=POOL), service(node):
        for name in ("c1", "c2"):
            result = node.cni("ADD", f"{ours}/host-local", conf, name, box).ok()
            assert result["ips"][1]["gateway"] == "fd78::1"
        dead = node.path("/var/lib/cni/networks/web/fd78::9")
        dead.write_text("c9\r\neth0")
        os.setxattr(dead, "user.mesokit.reserved", b"another-boot 5.0")
        node.cni("DEL", f"{ours}/host-local", conf, "c1", box).ok()
        assert unreachable(node) == ["fd78::/60"]
        node.cni("CHECK", f"{ours}/host-local", {**conf, "prevResult": result}, "c2", box).ok()
        node.cni("DEL", f"{ours}/host-local", conf, "c2", box).ok()
        assert (leases(node), unreachable(node)) == ([], [])
        missing = node.cni("ADD", f"{ours}/host-local", bridged(uplink="wan9"), "c1", box)
        assert "ipam.prefixDelegation.uplink is wan9, and there is no such link" in str(missing.error)
        small = node.cni("ADD", f"{ours}/host-local", bridged(subnet=16), "c1", box)
        assert "ipam.prefixDelegation.subnet is 16, and fd78:" in str(small.error)
        assert "/60, which the router delegated, has 16 of /64" in str(small.error)
        assert (leases(node), unreachable(node)) == ([], [])


def test_a_server_that_goes_by_the_duid_alone(node: Node, ours: str) -> None:
    """It gives two networks one prefix: the second is refused, with the way out, and the first keeps it."""
    conf, box, other = bridged(), node.netns("c1"), node.netns("c2")
    far = bridged() | {"name": "far", "bridge": "far0"}
    with lan6(node) as server, started(node.popen([MESOKIT, "dhcp"])):
        until(node.path("/run/mesokit/dhcp.sock").is_socket, what="the lease daemon listens")
        with hostile(server, "once", given="fd78:0:0:10::/60", seconds=60) as running:
            node.cni("ADD", f"{ours}/bridge", conf, "c1", box).ok()
            refused = node.cni("ADD", f"{ours}/bridge", far, "c2", other)
            assert "the prefix fd78:0:0:10::/60, which network web has" in str(refused.error)
            assert "prefixDelegation.duid of its own" in str(refused.error)
            node.cni("DEL", f"{ours}/bridge", far, "c2", other).ok()
            assert RELEASE not in running.output().split(), "that would take it from both"
            assert (prefix_of(node), unreachable(node)) == ("fd78:0:0:10::/60", ["fd78:0:0:10::/60"])
            node.cni("DEL", f"{ours}/bridge", conf, "c1", box).ok()
            until(lambda: RELEASE in running.output().split(), what="the last one gives it back")
            assert (leases(node), unreachable(node)) == ([], [])


def test_a_prefix_outlives_an_upgrade_and_a_reboot(node: Node, ours: str) -> None:
    """A service that takes over goes on renewing; after a reboot, when records and containers are gone, the
    network has the same prefix again, and the DEL of a container of before leaves it.
    """
    conf, box, later = bridged(), node.netns("c1"), node.netns("c2")
    with lan6(node) as server, kea6(server, seconds=6, delegated=POOL):
        with service(node):
            node.cni("ADD", f"{ours}/bridge", conf, "c1", box).ok()
            prefix = prefix_of(node)
            with service(node):
                before = began(node)
                until(lambda: began(node) > before, what="the successor renews it")
                assert (prefix_of(node), unreachable(node), deprecated(box)) == (prefix, [prefix], [])
        box.delete()
        node.shell(
            f"ip link del web0; ip -6 route del unreachable {prefix}; rm -r /run/mesokit\n"
            "echo 11111111-2222-3333-4444-555555555555 > /tmp/boot_id\n"
            "mount --bind /tmp/boot_id /proc/sys/kernel/random/boot_id"
        )
        with service(node):
            result = node.cni("ADD", f"{ours}/bridge", conf, "c2", later).ok()
            assert (prefix_of(node), unreachable(node)) == (prefix, [prefix])
            assert ip_interface(result["ips"][1]["address"]).ip in ip_network(prefix)
            node.cni("DEL", f"{ours}/bridge", conf, "c1").ok()
            before = began(node)
            until(lambda: began(node) > before, what="it is renewed in the new boot")
            assert prefix_of(node) == prefix
            node.cni("DEL", f"{ours}/bridge", conf, "c2", later).ok()
            assert (leases(node), unreachable(node)) == ([], [])
