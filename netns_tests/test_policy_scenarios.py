"""What others do on a node with policies: marks, flows that nobody tracks, many who apply at once; packets
that come in pieces.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from netns_tests.node import Netns, Node, started, until
from netns_tests.plugins import IN_QEMU, MESOKIT
from netns_tests.policy_box import Box, apply, conf, matrix, write
from netns_tests.policy_lan import lan
from netns_tests.policy_world import PROBE
from netns_tests.test_policy import DB

SENDING = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
said = (sys.argv[2].encode() * 1000)[:3000]
socket.socket(family, socket.SOCK_DGRAM).sendto(said, (sys.argv[1], 9000))
"""
LISTENING = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as s:
    s.bind((sys.argv[1], 9000)); print("ready", flush=True)
    while True:
        data = s.recv(9000)
        print(len(data), data[:3].decode(), flush=True)
"""
PROGRAM = Path(__file__).with_name("policy_attack.py")
FIRST = {
    "name": "w",
    "for": {"labels": {"role": "db"}},
    "ingress": [{"allow": ["udp/9000"], "from": [{"labels": {"role": "web"}}]}],
}


#: Others' rules for a name server's packets.
NOTRACK = "th dport 53 notrack", "th sport 53 notrack"
ASKED = {
    "name": "d",
    "for": {"labels": {"role": "db"}},
    "ingress": [{"allow": ["udp/53", "tcp/53"], "from": [{"labels": {"role": "web"}}]}],
    "egress": [],
}
ASKING = {
    "name": "w",
    "for": {"labels": {"role": "web"}},
    "ingress": [],
    "egress": [{"allow": ["udp/53", "tcp/53", "udp/54"], "to": ["any"]}],
}
HOSTS = {
    "name": "h",
    "for": {"labels": {"role": "db"}},
    "ingress": [{"allow": ["udp/53", "tcp/53"], "from": ["host"]}],
    "egress": [],
}


def notrack(place: Node | Netns, family: str = "inet") -> None:
    """An administrator's rules at all hooks where a flow is found."""
    hooks = ("prerouting",) if family == "bridge" else ("prerouting", "output")
    lines = [f"add table {family} others"]
    for hook in hooks:
        lines.append(f"add chain {family} others {hook} {{ type filter hook {hook} priority -300; }}")
        # The words of ports are those of both families.
        lines += [f"add rule {family} others {hook} {rule}" for rule in NOTRACK]
    place.run(["nft", "\n".join(lines)])


def assert_untracked_is_judged(node: Node, ours: str, kind: str, *, family: str = "inet") -> None:
    made = lan("macvlan") if kind == "macvlan" else conf(type=kind)
    if kind == "macvlan":
        node.uplink()
    db, web, other = (Box(node, ours, name, made, role=name) for name in ("db", "web", "x"))
    serving = [box.netns.popen(["python3", PROBE, "serve", "53,54"]) for box in (db, web)]
    until(lambda: all(b"ready" in each.output() for each in serving), what="both serve")

    def passes(box: Box, target: Box) -> set[str]:
        """By protocol and port, where both families say the same."""
        asked = [
            (address, protocol, port)
            for protocol, port in (("udp", 53), ("tcp", 53), ("udp", 54))
            for address in target.addresses
        ]
        words = ["python3", PROBE, "ask", "5" if IN_QEMU else "0.8"]
        answers = box.netns.run(words, input=json.dumps(asked)).json()
        assert answers[::2] == answers[1::2], (asked, answers)
        return {f"{each[1]}/{each[2]}" for each, answered in zip(asked, answers, strict=True) if answered}

    def all_of_it() -> list[set[str]]:
        return [passes(*pair) for pair in ((web, db), (other, db), (db, web), (other, web))]

    assert web.reaches(db) and other.reaches(web)  # the first packet of a pair may have to wait
    apply(node, [ASKED, ASKING])
    question = {"udp/53", "tcp/53"}
    assert all_of_it() == [question, set(), set(), set()]
    for place in (db.netns, web.netns) if kind == "macvlan" else (node,):
        notrack(place, family)
    assert all_of_it() == [set(), set(), set(), set()]
    said = explained(node, "web", "db", "udp/53")
    assert not any(each["allowed"] for each in said)
    assert {each["others"][0]["rule"] for each in said} == {"notrack" if kind == "macvlan" else NOTRACK[0]}
    assert all("leaves it untracked, which the source's side refuses" in str(each["others"]) for each in said)
    assert kind == "macvlan" or _warned(node)
    apply(node, [ASKED | {"untracked": "both"}, ASKING])
    assert kind == "macvlan" or _warned(node)
    assert passes(web, db) == set(), "who asks takes no answer"
    apply(node, [ASKED | {"untracked": "both"}, ASKING | {"untracked": "both"}])
    assert all_of_it() == [question, set(), set(), set()]
    assert all(each["allowed"] for each in explained(node, "web", "db", "udp/53"))
    assert not any(each["allowed"] for each in explained(node, "db", "web", "udp/53"))
    assert not _warned(node)
    assert all(not box.call("CHECK").error for box in (db, web, other))
    apply(node, [ASKED, ASKING])
    assert all_of_it() == [set(), set(), set(), set()]
    for each in serving:
        each.kill()


def _warned(node: Node) -> bool:
    """Whether doctor names the rule with its table, chain and handle."""
    told = node.run([MESOKIT, "doctor", "--json"], check=False).json()
    found = [each for each in told["items"] if each["check"] == "foreign-rules"]
    for each in found:
        assert each["level"] == "warn" and "others, chain " in each["evidence"], each
        assert ", handle " in each["evidence"] and "untracked: both" in each["remedy"], each
    return bool(found)


def explained(node: Node, source: str, target: str, traffic: str) -> list[dict[str, Any]]:
    words = [MESOKIT, "policy", "explain", source, target, traffic, "--json"]
    found: list[dict[str, Any]] = json.loads(node.run(words, check=False).text)
    return found


def three(node: Node, ours: str) -> tuple[Box, Box, Box]:
    db, web, other = (Box(node, ours, name, conf(), role=role) for name, role in
                      (("d", "db"), ("w", "web"), ("x", "x")))  # fmt: skip
    return db, web, other


def test_marks_of_others_stay_and_open_nothing(node: Node, ours: str) -> None:
    boxes = three(node, ours)
    node.shell(
        "nft 'add table inet others; add chain inet others before "
        "{ type filter hook forward priority -20; }; add rule inet others before ct mark set 0x55; "
        "add chain inet others after { type filter hook forward priority 20; }; "
        "add rule inet others after ct mark 0x55 counter; add rule inet others after ct mark != 0x55 counter'"
    )
    apply(node, [DB])
    assert matrix(list(boxes)) == {"wd", "dw", "dx", "wx", "xw"}
    theirs, not_theirs = (
        line for line in node.shell("nft list chain inet others after").splitlines() if "ct mark" in line
    )
    assert "packets 0 " not in theirs and "packets 0 " in not_theirs


def test_what_nobody_tracks_is_denied_to_who_is_closed(node: Node, ours: str) -> None:
    """A flow without ends can be judged by nobody's rules; those without policy notice nothing."""
    boxes = three(node, ours)
    apply(node, [DB])
    node.shell(
        "nft 'add table inet others; add chain inet others before "
        "{ type filter hook prerouting priority -300; }; add rule inet others before notrack'"
    )
    assert matrix(list(boxes)) == {"wx", "xw"}
    apply(node, [DB | {"audit": True}])
    assert matrix(list(boxes)) == {"wd", "dw", "dx", "xd", "wx", "xw"}


@pytest.mark.parametrize("kind", ["bridge", "ptp"])
def test_untracked_answers_to_the_host(node: Node, ours: str, kind: str) -> None:
    """The host asks a container that is closed to it: an answer needs a rule that allows it the question."""
    db = Box(node, ours, "db", conf("isolated", type=kind), role="db")
    serving = db.netns.popen(["python3", PROBE, "serve", "53,54"])
    until(lambda: b"ready" in serving.output(), what="it serves")

    def passes() -> list[bool]:
        asked = [(address, "udp", port) for address in db.addresses for port in (53, 54)]
        answers: list[bool] = node.run(["python3", PROBE, "ask", "0.8"], input=json.dumps(asked)).json()
        return answers

    apply(node, [HOSTS])
    assert passes() == [True] * 4
    notrack(node)
    assert passes() == [False, True] * 2
    apply(node, [HOSTS | {"untracked": "both"}])
    assert passes() == [True] * 4
    apply(node, [HOSTS | {"untracked": "both", "ingress": []}])
    assert passes() == [False, True] * 2
    serving.kill()


@pytest.mark.parametrize("kind", ["bridge", "ptp", "macvlan"])
def test_what_nobody_tracks_is_judged_where_a_policy_wants_it(node: Node, plugins: str, kind: str) -> None:
    """40: with `untracked: both` a question passes and its answer, by the port of who is asked; nothing else
    does, and without the key nothing at all.
    """
    assert_untracked_is_judged(node, plugins, kind)


def test_many_who_apply_at_once(node: Node, ours: str) -> None:
    boxes = three(node, ours)
    write(node, [DB])
    running = [node.popen([MESOKIT, "policy", "apply", "--json"]) for _ in range(5)]
    answers = [json.loads(each.wait(120).stdout) for each in running]
    assert sorted(each["elements"]["added"] > 0 for each in answers) == [False] * 4 + [True]
    assert matrix(list(boxes)) == {"wd", "dw", "dx", "wx", "xw"}


@pytest.mark.parametrize("family", [4, 6])
def test_a_datagram_in_pieces(node: Node, plugins: str, family: int) -> None:
    """38: the allowed one arrives whole; of the denied one no piece reaches the interface."""
    db, web, other = three(node, plugins)
    assert web.reaches(db) and other.reaches(db)
    apply(node, [FIRST])
    target = db.four if family == 4 else db.six
    with (
        started(db.netns.popen(["python3", "-u", "-c", LISTENING, target])) as whole,
        started(db.netns.popen(["python3", str(PROGRAM), "listen", "eth0"])) as pieces,
    ):
        until(lambda: b"ready" in whole.output() and b"ready" in pieces.output(), what="both listen")
        for box in (other, web):
            box.netns.run(["python3", "-c", SENDING, target, f"<{box.name}>"])
        until(lambda: b"3000 <w>" in whole.output(), what="the allowed one arrives whole")
        until(lambda: pieces.output().count(b"w\n") > 1, what="in pieces")
        assert b"<x>" not in whole.output() and b"x\n" not in pieces.output()


@pytest.mark.parametrize("priority", [-20, 20])
def test_an_administrators_own_chain_still_drops(node: Node, ours: str, priority: int) -> None:
    """Before ours and after it: what a policy allows, and what has no policy."""
    boxes = three(node, ours)
    apply(node, [DB])
    assert explained(node, "w", "d", "icmp")[0]["allowed"]
    node.shell(
        "nft 'add table inet others; add chain inet others theirs "
        f"{{ type filter hook forward priority {priority}; }}; "
        "add rule inet others theirs tcp dport 81 drop; "
        "add rule inet others theirs icmp type echo-request drop; "
        "add rule inet others theirs icmpv6 type echo-request drop'"
    )
    assert matrix(list(boxes)) == set()
    for answer, handle in zip(explained(node, "w", "d", "icmp"), (3, 4), strict=True):
        assert not answer["allowed"] and answer["refusedBy"] == "others"
        (met,) = answer["others"]
        assert (met["table"], met["chain"], met["handle"]) == ("others", "theirs", handle), met
    told = node.run([MESOKIT, "policy", "explain", "w", "d", "icmp"], check=False)
    assert told.status == 1 and "is refused (by a rule of others)" in told.text
    said = "table inet others, chain theirs (forward), handle 3: icmp type echo-request drop: drops it"
    assert said in told.text
    assert all(answer["allowed"] and not answer["others"] for answer in explained(node, "w", "d", "tcp/5432"))
    node.shell("nft delete table inet others")
    assert matrix(list(boxes)) == {"wd", "dw", "dx", "wx", "xw"}
