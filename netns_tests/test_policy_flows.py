"""Policy and flows that exist: what a change cuts, what it leaves alone, and whose beginning nobody saw."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from netns_tests.node import Node, started, until
from netns_tests.plugins import MESOKIT
from netns_tests.policy_box import Box, apply, conf, write
from netns_tests.policy_streams import Stream, streams

FOR_DB: dict[str, Any] = {"labels": {"role": "db"}}
TRAFFIC = ["tcp/7000-7100", "udp/7000-7100"]


def ingress(name: str, *peers: Any) -> dict[str, Any]:
    rules = [{"allow": TRAFFIC, "from": list(peers)}] if peers else []
    return {"name": name, "for": FOR_DB, "ingress": rules}


def have_ended(made: list[Stream], at: int) -> None:
    """Nothing that was sent after the moment has come, though it was sent; both ends of TCP are told."""
    sent = [end.sent for each in made for end in each.ends]

    def over() -> bool:
        now = iter(zip([end for each in made for end in each.ends], sent, strict=True))
        return all(end.end or not before or end.sent > before + 100 for end, before in now)

    until(over, what="they have ended, or try in vain")
    for each in made:
        assert all(end.stamp < at for end in each.ends), each.name
        if each.name.startswith("tcp"):
            assert all(end.end == "reset" or not end.sent for end in each.ends), each.name


def are_undisturbed(made: list[Stream]) -> None:
    """They go on, and no datagram is missing."""
    now = time.monotonic_ns()
    hearing = [[end.got > 0 for end in each.ends] for each in made]

    def on() -> bool:
        return all(
            end.stamp > now or not hears
            for each, hear in zip(made, hearing, strict=True)
            for end, hears in zip(each.ends, hear, strict=True)
        )

    until(on, what="they go on", seconds=20)
    for each in made:
        assert all(end.gaps == 0 and not end.end for end in each.ends), each.name


def test_streams_that_are_no_longer_allowed_end_at_once(node: Node, plugins: str) -> None:
    """Of both protocols and families: with the return of `apply` nothing passes, either way."""
    db, web = (Box(node, plugins, name, conf(), role=name) for name in ("db", "web"))
    apply(node, [ingress("a", {"labels": {"role": "web"}})])
    with streams(db.netns, web.netns, db.addresses, 7000) as made:
        apply(node, [ingress("a", {"labels": {"role": "x"}})])
        have_ended(made, time.monotonic_ns())


def test_a_rule_that_goes_and_comes_in_one_change(node: Node, plugins: str) -> None:
    """In a policy of another name, in another place, beside others, as it was: nothing is lost."""
    db, web = (Box(node, plugins, name, conf(), role=name) for name in ("db", "web"))
    peer = {"labels": {"role": "web"}}
    others = {"name": "0", "for": FOR_DB, "ingress": [{"allow": ["tcp/1"], "from": ["any"]}]}
    apply(node, [ingress("a", peer)])
    with streams(db.netns, web.netns, db.addresses, 7000, protocols=("udp",)) as made:
        for listed in ([ingress("b", peer)], [others, ingress("a", peer)], [ingress("a", peer), others],
                       [ingress("a", peer, {"cidr": "10.0.0.0/8"})], [ingress("a", peer)]):  # fmt: skip
            apply(node, listed)
        are_undisturbed(made)


def test_the_first_policy_knows_who_opened_a_stream(node: Node, plugins: str) -> None:
    """Servers send, clients have long been silent: tracked since their containers were attached."""
    db, web, other = (Box(node, plugins, name, conf(), role=name) for name in ("db", "web", "x"))
    closed = {"name": "web", "for": {"labels": {"role": "web"}}, "ingress": []}
    with (
        streams(db.netns, web.netns, db.addresses, 7000, client_sends=False) as allowed,
        streams(db.netns, other.netns, db.addresses, 7010, client_sends=False) as denied,
    ):
        answer = apply(node, [ingress("db", {"labels": {"role": "web"}}), closed])
        have_ended(denied, time.monotonic_ns())
        are_undisturbed(allowed)
        assert answer["unsure"] == {"flows": [], "more": 0}


NOTRACK = (
    "nft 'add table inet theirs; add chain inet theirs raw "
    "{ type filter hook prerouting priority -310; }; add rule inet theirs raw notrack'"
)
#: What clients say is lost for as long as it takes that the servers are heard first.
SILENCE = (
    "add table inet silent; add chain inet silent out { type filter hook output priority 0; }; "
    "add rule inet silent out meta l4proto { tcp, udp } drop"
)
CLOSED_WEB = {"name": "web", "for": {"labels": {"role": "web"}}, "ingress": []}
TURNED = [ingress("db", {"labels": {"role": "web"}}), CLOSED_WEB]


@contextmanager
def turned(node: Node, ours: str) -> Iterator[tuple[list[Stream], list[Stream], Box, Box]]:
    """Streams from db to its clients web and x, of which conntrack believes that db opened them, because of
    somebody's notrack: TURNED would have the former pass and the latter end.
    """
    db, web, other = (Box(node, ours, name, conf(), role=name) for name in ("db", "web", "x"))
    node.shell(NOTRACK)
    with (
        streams(db.netns, web.netns, db.addresses, 7000, client_sends=False) as cut,
        streams(db.netns, other.netns, db.addresses, 7010, client_sends=False) as leaked,
    ):
        for box in (web, other):
            box.netns.run(["nft", SILENCE])
        node.shell("nft delete table inet theirs")
        count = ["sysctl", "-n", "net.netfilter.nf_conntrack_count"]
        until(lambda: int(node.run(count).text) >= len(cut + leaked), what="they are tracked")
        for box in (web, other):
            box.netns.run(["nft", "delete table inet silent"])
        are_undisturbed(cut + leaked)
        yield cut, leaked, db, other


#: Datagrams from a port such as servers have to many such as clients have.
MANY = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.bind(("", 7099))
    for port in range(40000, 40040):
        try:
            s.sendto(b"x", (sys.argv[1], port))
        except ConnectionRefusedError:
            s.sendto(b"x", (sys.argv[1], port))
"""


def test_flows_that_nobody_tracked_are_named(node: Node, plugins: str) -> None:
    """Those that are judged by the wrong end, with what is done with them; and no more than ten."""
    with turned(node, plugins) as (cut, leaked, db, other):
        told = apply(node, TURNED)["unsure"]
        named = {
            (each["protocol"], each["source"], each["sourcePort"], each["passes"]) for each in told["flows"]
        }
        assert named == {
            (*made.name.split(), port + at, passes)
            for listed, port, passes in ((cut, 7000, False), (leaked, 7010, True))
            for at, made in enumerate(listed)
        }
        db.netns.run(["python3", "-c", MANY, other.four])
        told = apply(node)["unsure"]
        assert len(told["flows"]) == 10 and told["more"] >= 30
        lines = node.run([MESOKIT, "policy", "apply"]).stderr.decode().splitlines()
        assert len(lines) == 11 and "its beginning was not tracked, and if" in lines[0]
        assert lines[-1] == f"and up to {told['more']} more flows of that kind"


def test_the_service_names_them_too(node: Node, ours: str) -> None:
    with turned(node, ours), started(node.popen([MESOKIT, "node"])) as running:
        until(node.path("/run/mesokit/node.sock").is_socket, what="the node service listens")
        write(node, TURNED)
        until(lambda: b"more flows" in running.errors() or running.errors().count(b"not tracked") == 8,
              what="all are named")  # fmt: skip
        assert b" is refused: its beginning was not tracked" in running.errors()
        assert b" passes: its beginning was not tracked" in running.errors()


def test_flows_of_who_is_outside_are_named(node: Node, ours: str, reference: str) -> None:
    """Attached before there was any policy, and by another's plugin: no policy judges what they exchange."""
    early, late = (Box(node, ours, name, conf(None), role="db") for name in ("early", "late"))
    made = conf(None, cniVersion="1.0.0") | {
        "ipam": {"type": "static", "addresses": [{"address": "10.9.0.77/24"}]}
    }
    theirs = node.netns("theirs")
    node.cni("ADD", f"{reference}/bridge", made, "theirs", theirs).ok()
    web = Box(node, ours, "web", conf(), role="web")
    with (
        streams(early.netns, late.netns, early.addresses, 7000),
        streams(early.netns, theirs, [early.four], 7010),
        streams(early.netns, web.netns, [early.four], 7020),
    ):
        answer = apply(node, [ingress("db", {"labels": {"role": "x"}})])
        assert {each["container"] for each in answer["outside"]} == {"early", "late"}
        assert {each["targetPort"] for each in answer["unjudged"]["flows"]} == {
            7000,
            7001,
            7002,
            7003,
            7010,
            7011,
        }
        told = node.run([MESOKIT, "policy", "apply"]).stderr.decode()
        assert f"to {early.four}:7010 passes: no policy judges either end of it" in told
        assert "early: eth0 on network net is OUTSIDE POLICY" in told and str(web.four) not in told
