"""`mesokit trace`: packets of a container, through every rule, to where they go or end."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from netns_tests.node import Netns, Node, started, until
from netns_tests.plugins import MESOKIT
from netns_tests.test_view import POINT, WEB, attach, published

PACKETS = ("ping", "-c", "1", "-W", "1")


@contextmanager
def tracing(node: Node, *words: str) -> Iterator[Any]:
    """A trace that listens; `.packets()` ends it and gives what it told."""
    with started(node.popen([MESOKIT, "trace", *words, "--json"])) as running:
        until(lambda: running.ended() or "mesokit-trace-" in node.shell("nft list tables"), what="the trace")
        assert not running.ended(), running.errors()
        yield running


def lines(running: Any, number: int = signal.SIGINT) -> list[dict[str, Any]]:
    running.kill(number)
    finished = running.wait()
    told = [json.loads(line) for line in finished.text.splitlines()]
    assert told[-1]["kind"] == "end" and not finished.stderr, finished.stderr
    return told


def echo(box: Netns, address: str, *more: str) -> None:
    box.run(["busybox", *PACKETS, *more, address], check=False)


def test_a_packet_that_somebody_elses_rule_drops(node: Node, ours: str) -> None:
    box = attach(node, ours, WEB, "c1")
    node.uplink()
    node.shell(
        "nft add table ip filter; nft add chain ip filter DOCKER-USER\n"
        "nft add rule ip filter DOCKER-USER ip daddr 192.0.2.1 counter drop\n"
        "nft 'add chain ip filter FORWARD { type filter hook forward priority 0; policy accept; }'\n"
        "nft add rule ip filter FORWARD jump DOCKER-USER\n"
        "nft add table ip6 walls\n"
        "nft 'add chain ip6 walls forward { type filter hook forward priority 0; policy drop; }'\n"
    )
    before = node.shell("nft list tables")
    with tracing(node, "c1", "icmp") as running:
        echo(box, "192.0.2.1")
        echo(box, "2001:db8::1", "-6")
        until(lambda: running.output().count(b'"dropped"') >= 2, what="both packets")
        told = lines(running)
    four, six = (
        next(item for item in told if item.get("target") == address)
        for address in ("192.0.2.1", "2001:db8::1")
    )
    assert four["about"] == "10.9.0.2 -> 192.0.2.1 icmp echo-request" and four["bytes"] == 84
    assert four["verdict"] == "dropped" and four["whose"] == "not ours: Docker"
    assert "chain DOCKER-USER, by rule ip daddr 192.0.2.1 counter" in four["where"]
    assert four["came_in"].startswith("veth") and four["went_out"] == "eth0"
    assert [step["verdict"] for step in four["steps"][-2:]] == ["jump DOCKER-USER", "drop"]
    assert six["verdict"] == "dropped" and "chain forward, by policy drop" in six["where"]
    assert node.shell("nft list tables") == before


def test_where_packets_go_that_pass(node: Node, ours: str) -> None:
    one, _two = attach(node, ours, published(WEB, 8080), "c1"), attach(node, ours, POINT, "c2")
    world = node.uplink()
    with tracing(node, "c1") as running:
        echo(one, "10.8.0.2")
        echo(one, "10.9.0.1")
        world.run(["busybox", "nc", "-w", "1", "192.0.2.2", "8080"], check=False)
        until(lambda: b" tcp SYN" in running.output() and b"10.9.0.1 icmp" in running.output(), what="all")
        told = lines(running)
    first = next(item for item in told if item.get("target") == "10.8.0.2")
    assert first["verdict"] == "left" and first["where"].endswith("to container c2")
    assert first["became"] == "10.8.0.1 -> 10.8.0.2 icmp echo-request"  # masqueraded
    assert next(i for i in told if i.get("target") == "10.9.0.1")["verdict"] == "delivered"
    syn = next(item for item in told if " tcp SYN" in item.get("about", "") and item["came_in"] == "eth0")
    assert ":80 tcp" in syn["about"] and syn["where"].endswith("to container c1")
    assert any("packets in" in line for line in told[-1]["counters"])


def test_a_policy_is_named_by_its_file_and_line(node: Node, ours: str) -> None:
    place = node.path("/etc/mesokit/policy.d")
    place.mkdir(parents=True)
    egress = '{"allow": ["tcp/443"], "to": [{"cidr": "0.0.0.0/0"}]}'
    text = f'{{"policies": [{{"name": "quiet", "for": {{"network": "ptp-net"}},\n"egress": [{egress}]}}]}}'
    (place / "p.json").write_text(text)
    box = attach(node, ours, POINT | {"policy": "open"}, "c1")
    box.run(["ip", "route", "add", "default", "via", "10.8.0.1"])
    node.uplink()
    with tracing(node, "c1") as running:
        echo(box, "192.0.2.1")
        until(lambda: b'"dropped"' in running.output(), what="the packet")
        told = lines(running)
    assert told[0]["whose"] == "mesokit's own" and "table inet mesokit" in told[0]["where"]
    assert any("quiet" in reason for reason in told[0]["reasons"]), told[0]["reasons"]
    assert any("p.json:" in reason for reason in told[0]["reasons"]), told[0]["reasons"]


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        ("ip route del default", "the host has no route to 192.0.2.1"),
        ("sysctl -qw net.ipv4.ip_forward=0", "the host does not forward IPv4: net.ipv4.ip_forward = 0"),
    ],
)
def test_a_packet_that_no_rule_drops(node: Node, ours: str, harm: str, reason: str) -> None:
    box = attach(node, ours, POINT, "c1")
    node.uplink()
    box.run(["ip", "route", "add", "default", "via", "10.8.0.1"])
    node.shell(
        "ip addr flush dev eth0; ip addr add 198.51.100.2/24 dev eth0\n"
        f"ip route replace default via 198.51.100.1; {harm}"
    )
    with tracing(node, "c1", "--to", "192.0.2.1") as running:
        echo(box, "192.0.2.1")
        until(lambda: b'"lost"' in running.output(), what="the packet")
        told = lines(running)
    lost = next(item for item in told if item.get("verdict") == "lost")
    assert reason in lost["reasons"] and "no rule dropped it" in lost["where"]


def test_the_reverse_path_filter_is_named(node: Node, ours: str) -> None:
    box = attach(node, ours, POINT, "c1")
    node.uplink()
    box.run(["ip", "route", "replace", "default", "via", "10.8.0.1"])
    echo(box, "192.0.2.1")  # neighbours know each other
    link = node.run([MESOKIT, "ls", "--json"]).json()["items"][0]["host_interface"]
    node.shell(f"sysctl -qw net.ipv4.conf.{link}.rp_filter=1; ip route replace 10.8.0.2/32 dev eth0")
    node.shell(f"ip route del 10.8.0.2/32 dev {link}", check=False)
    with tracing(node, "c1") as running:
        echo(box, "192.0.2.1")
        until(lambda: b'"lost"' in running.output(), what="the packet")
        told = lines(running)
    lost = next(item for item in told if item.get("verdict") == "lost")
    assert any(f"the reverse path filter of {link}" in item for item in lost["reasons"]), lost
    assert any("IPReversePathFilter" in line for line in told[-1]["counters"])


def test_two_at_once_and_one_that_is_killed(node: Node, ours: str) -> None:
    one, two = attach(node, ours, POINT, "c1"), attach(node, ours, POINT, "c2")
    with tracing(node, "c1") as first, tracing(node, "c2") as second:
        until(lambda: node.shell("nft list tables").count("ip mesokit-trace-") == 2, what="two traces")
        echo(one, "10.8.0.1")
        echo(two, "10.8.0.1")
        until(lambda: first.output() and second.output(), what="packets of both")
        second.kill()
        second.wait()
        until(lambda: node.shell("nft list tables").count("ip mesokit-trace-") == 1, what="one trace")
        told = lines(first)
    assert {item["source"] for item in told[:-1]} == {"10.8.0.1", "10.8.0.2"}
    assert "mesokit-trace-" not in node.shell("nft list tables")


def test_a_flood_is_not_followed(node: Node, ours: str) -> None:
    box = attach(node, ours, POINT, "c1")
    with tracing(node, "c1", "--rate", "2") as running:
        script = (
            "import socket; sender = socket.socket(type=socket.SOCK_DGRAM)\n"
            "for number in range(3000): sender.sendto(bytes(8), ('10.8.0.1', 9))"
        )
        box.run(["/usr/bin/python3", "-I", "-c", script])
        until(running.output, what="a packet")
        told = lines(running)
    assert 1 <= len(told) - 1 < 300 and told[-1]["lost_events"] == 0


def test_inside_where_the_host_sees_nothing(node: Node, ours: str) -> None:
    node.uplink()
    conf = {"cniVersion": "1.0.0", "name": "lan", "type": "macvlan", "master": "eth0"}
    ipam = {"type": "host-local", "subnet": "192.0.2.0/24", "rangeStart": "192.0.2.50"}
    box = attach(node, ours, conf | {"ipam": ipam}, "c1")
    with started(node.popen([MESOKIT, "trace", "c1", "--json"])) as running:
        until(lambda: "mesokit-trace-" in box.run(["nft", "list", "tables"]).text, what="the trace")
        echo(box, "192.0.2.1")
        until(running.output, what="a packet")
        told = lines(running)
    assert told[0]["verdict"] == "left" and told[0]["where"] == "it left by eth0"


def test_for_people_and_for_those_who_may_not(node: Node, ours: str) -> None:
    box = attach(node, ours, POINT, "c1")
    with started(node.popen([MESOKIT, "trace", "c1", "--count", "2"], env={"COLUMNS": "60"})) as running:
        until(lambda: "mesokit-trace-" in node.shell("nft list tables"), what="the trace")
        echo(box, "10.8.0.1")
        finished = running.wait()
    assert finished.status == 0 and b"following c1 (10.8.0.2)" in finished.stderr
    assert "10.8.0.2 -> 10.8.0.1 icmp echo-request, 84 bytes, in by veth" in finished.text
    assert "delivered: it was handed to a program of the host" in finished.text
    assert "meanwhile" in finished.text
    nothing = node.run([MESOKIT, "trace", "c1", "--duration", "200ms"])
    assert b"no packet was seen" in nothing.stderr
    bare = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"]
    told = node.run([*bare, MESOKIT, "trace", "c1"], check=False)
    assert told.status == 1 and told.stderr.count(b"\n") == 1 and b"needs root (CAP_NET_ADMIN)" in told.stderr
    for words, status in (
        (["c1", "http/80"], 2),
        (["c1", "--to", "nowhere"], 1),
        (["c1", "--duration", "s"], 2),
    ):
        assert node.run([MESOKIT, "trace", *words], check=False).status == status
    none = node.run([MESOKIT, "trace", "c1", "--to", "fd00::1"], check=False)
    assert none.status == 1 and b"no address of the family of fd00::1" in none.stderr
