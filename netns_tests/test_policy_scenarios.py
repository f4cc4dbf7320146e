"""What others do on a node with policies: marks, flows that nobody tracks, many who apply at once; packets
that come in pieces.
"""

from __future__ import annotations

import json

import pytest

from netns_tests.node import Node, until
from netns_tests.plugins import MESOKIT
from netns_tests.policy_box import Box, apply, conf, matrix, write
from netns_tests.test_policy import DB, LISTENING

SENDING = "import socket, sys; socket.socket(2, 2).sendto(bytes(int(sys.argv[2])), (sys.argv[1], 9000))"
FIRST = {
    "name": "w",
    "for": {"labels": {"role": "db"}},
    "ingress": [{"allow": ["udp/9000"], "from": [{"labels": {"role": "web"}}]}],
}


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


def test_many_who_apply_at_once(node: Node, ours: str) -> None:
    boxes = three(node, ours)
    write(node, [DB])
    running = [node.popen([MESOKIT, "policy", "apply", "--json"]) for _ in range(5)]
    answers = [json.loads(each.wait(120).stdout) for each in running]
    assert sorted(each["elements"]["added"] > 0 for each in answers) == [False] * 4 + [True]
    assert matrix(list(boxes)) == {"wd", "dw", "dx", "wx", "xw"}


def test_a_datagram_in_pieces(node: Node, ours: str) -> None:
    db, web, other = three(node, ours)
    apply(node, [FIRST])
    listening = db.netns.popen(["python3", "-u", "-c", LISTENING])
    until(lambda: b"ready" in listening.output(), what="it listens")
    other.netns.run(["python3", "-c", SENDING, db.four, "3000"])
    web.netns.run(["python3", "-c", SENDING, db.four, "3000"])
    until(lambda: web.four.encode() in listening.output(), what="the allowed one arrives whole")
    listening.kill()
    assert other.four.encode() not in listening.output()


@pytest.mark.parametrize("priority", [-20, 20])
def test_an_administrators_own_chain_still_drops(node: Node, ours: str, priority: int) -> None:
    """Before ours and after it: what a policy allows, and what has no policy."""
    boxes = three(node, ours)
    apply(node, [DB])
    node.shell(
        "nft 'add table inet others; add chain inet others theirs "
        f"{{ type filter hook forward priority {priority}; }}; "
        "add rule inet others theirs icmp type echo-request drop; "
        "add rule inet others theirs icmpv6 type echo-request drop'"
    )
    assert matrix(list(boxes)) == set()
    node.shell("nft delete table inet others")
    assert matrix(list(boxes)) == {"wd", "dw", "dx", "wx", "xw"}


def test_an_address_of_two_networks_is_refused(node: Node, ours: str) -> None:
    """Addresses are what policy tells containers by; nothing is left of the second."""
    db = Box(node, ours, "d", conf(), role="db")
    second = conf(name="second", bridge="br1", policy="isolated")
    answer = node.cni("ADD", f"{ours}/bridge", second, "e", node.netns("e"))
    assert answer.code == 7 and f"address {db.four} is that of container d on network net" in str(
        answer.error
    )
    shown = node.run([MESOKIT, "policy", "show", "--json"]).json()
    assert [each["container"] for each in shown["endpoints"]] == ["d"]
    assert not db.call("CHECK").error
