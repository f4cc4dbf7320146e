"""A container that sends whatever it likes gets nothing past a policy to another on the same bridge."""

from __future__ import annotations

import json
from pathlib import Path

from netns_tests.node import Node, until
from netns_tests.policy_box import Box, apply, conf
from netns_tests.test_policy import DB

PROGRAM = Path(__file__).with_name("policy_attack.py")


def host_of(box: Box) -> list[str]:
    mac = next(item["mac"] for item in box.result["interfaces"] if item.get("sandbox"))
    return [mac, box.four, box.six]


def sent(attacker: Box, victim: Box) -> tuple[set[str], set[str]]:
    """The names of frames that one sends to the other, and of those that come in there."""
    listening = victim.netns.popen(["python3", str(PROGRAM), "listen", "eth0"])
    try:
        until(lambda: b"ready" in listening.output(), what="somebody listens")
        said = {"mine": host_of(attacker), "his": host_of(victim), "gateway": ["10.9.0.1", "fd09::1"]}
        told = attacker.netns.run(["python3", str(PROGRAM), "send", "eth0", json.dumps(said)]).text
        # A frame of the host's own, after all of these, and heard in any case.
        victim.node.run(["python3", "-c", LAST, victim.four])
        until(lambda: b"\nlast\n" in listening.output(), what="all that comes has come")
        heard = set(listening.output().decode().splitlines()) - {"ready", "last"}
    finally:
        listening.kill()
    return set(told.splitlines()), heard


LAST = "import socket, sys; socket.socket(2, 2).sendto(b'<last>', (sys.argv[1], 9))"
#: What the kernel itself keeps from a neighbour on an open network: fragments that are never whole.
NEVER = {"fragment", "fragment6"}


EGRESS = {"name": "x", "for": {"labels": {"role": "x"}}, "egress": [{"allow": ["any"], "to": ["world"]}]}
#: A flow of the receiver's that an error may be about.
FLOW = "import socket; s = socket.socket(2, 2); s.bind(('', 7777)); s.sendto(b'x', ('192.0.2.1', 9))"


def assert_nothing_gets_past(node: Node, ours: str) -> None:
    """Closed at the receiver, then at the sender; on an open network all of it arrives."""
    node.uplink()
    db, web, other = (Box(node, ours, name, conf(), role=name) for name in ("db", "web", "x"))
    names, heard = sent(other, db)
    assert names - heard <= NEVER, names - heard
    for policy in (DB, EGRESS):
        apply(node, [policy])
        db.netns.run(["python3", "-c", FLOW])
        _, heard = sent(other, db)
        assert sorted(heard) == []
    apply(node, [DB])
    assert web.reaches(db)


def test_nothing_gets_past_a_policy(node: Node, ours: str) -> None:
    assert_nothing_gets_past(node, ours)
