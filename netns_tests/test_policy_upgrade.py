"""50: the fixed chains of an older release are written anew under flows: no datagram that is allowed is lost,
none that is refused passes, and elements stay.
"""

from __future__ import annotations

import sys
import time

import pytest

from cni_plugins.kernel.nft import inside_rules, policy_rules
from cni_plugins.kernel.nft.policy_rules import SECTION
from netns_tests.node import Node, until
from netns_tests.plugins import service
from netns_tests.policy_box import Box, apply, conf
from netns_tests.policy_lan import lan
from netns_tests.test_policy import DB
from netns_tests.test_policy_changes import SENDER, counts, receiving

#: The chains of flows that nobody tracks as the release before made them, without what this one has beside.
OLD = "\n".join(
    (
        f"delete chain inet mesokit {SECTION.version}",
        "add chain inet mesokit policy_3",
        *(f"flush chain inet mesokit policy_untracked{v}" for v in (4, 6)),
        *(f"flush chain inet mesokit policy_taken{v}" for v in (4, 6)),
        *(
            f"add rule inet mesokit policy_untracked{v} {ip} {side} @policy_shut_{way}{v} goto policy_deny"
            for ip, v in (("ip", 4), ("ip6", 6))
            for side, way in (("saddr", "out"), ("daddr", "in"))
        ),
        *(f"delete chain inet mesokit policy_taken{v}" for v in (4, 6)),
        "delete chain inet mesokit policy_deny_untracked",
        *(f"delete map inet mesokit policy_{name}{v}" for name in ("send", "take") for v in (4, 6)),
    )
)


def test_a_version_is_told_by_a_name_that_no_chain_has() -> None:
    """Else what an older release left looks as if it were there already."""
    rules = policy_rules
    listed = [SECTION, rules.SOURCES, rules.PORTS, rules.PORTS_UNTAGGED, rules.BRIDGED, inside_rules.INSIDE]
    for section in listed:
        assert section.version not in {chain.name for chain in section.chains}


def test_a_containers_own_chains_too(node: Node, ours: str) -> None:
    """Those of a macvlan container, by the first change of the new release; policy holds all the while."""
    node.uplink()
    db, web, other = (Box(node, ours, name, lan("macvlan"), role=name) for name in ("db", "web", "x"))
    apply(node, [DB])
    now = db.netns.run(["nft", "list", "chain", "inet", "mesokit", "inside_input"]).text
    marker = inside_rules.INSIDE.version
    table = "inet mesokit"
    db.netns.run(
        ["nft", f"delete chain {table} {marker}\nadd chain {table} policy_inside_2\n"
         f"flush chain {table} inside_input\nadd rule {table} inside_input iifname != @inside_links accept\n"
         f"add rule {table} inside_input icmpv6 type 133-136 accept\n"
         f"add rule {table} inside_input ct direction reply goto inside_in_reply\n"
         f"add rule {table} inside_input meta nfproto ipv4 iifname vmap @inside_in4\n"
         f"add rule {table} inside_input meta nfproto ipv6 iifname vmap @inside_in6\n"
         f"add rule {table} inside_input iifname @inside_shut_in goto policy_deny\n"
         f"flush chain {table} inside_in_untracked\n"]
    )  # fmt: skip
    assert web.reaches(db) and not other.reaches(db)
    apply(node, [DB, DB | {"name": "more", "untracked": "both"}])
    assert db.netns.run(["nft", "list", "chain", "inet", "mesokit", "inside_input"]).text == now
    assert marker in db.netns.run(["nft", "list", "chains", "inet"]).text
    assert web.reaches(db) and not other.reaches(db) and not db.call("CHECK").error


@pytest.mark.parametrize("family", [4, 6])
def test_flows_notice_nothing(node: Node, ours: str, family: int) -> None:
    """Ten times: by a change of policies, by one that comes, by a look at all of it; then by the service."""
    db, web = (Box(node, ours, name, conf(), role=name) for name in ("db", "web"))
    policy = DB | {"ingress": [{"allow": ["udp/1000", "icmp"], "from": [{"labels": {"role": "web"}}]}]}
    apply(node, [policy])
    receiver = receiving(db.netns, 1000, 2000)
    target = db.four if family == 4 else db.six
    sender = web.netns.popen([sys.executable, "-c", SENDER, target, "1000", "2000"])
    until(lambda: counts(receiver).get("1000", (0, 0, 0))[0] > 10, what="the allowed flow arrives")

    def held() -> str:
        return node.shell("nft list map inet mesokit policy_in4; nft list set inet mesokit policy_known6")

    def is_new() -> bool:
        chains = node.shell("nft list chains inet")
        return SECTION.version in chains and "policy_deny_untracked" in chains

    before = held()
    for number in range(9):
        node.run(["nft", OLD])
        assert not is_new()
        if number % 3 == 0:
            apply(node, [policy | {"egress": [{"allow": ["any"], "to": ["any"]}]}])
            apply(node, [policy])
        elif number % 3 == 1:
            Box(node, ours, f"late{number}", conf(), role="late").call("DEL").ok()
        else:
            apply(node)
        assert is_new() and held() == before
    node.run(["nft", OLD])
    with service(node):
        until(is_new, what="the service writes them")
    sender.kill()
    time.sleep(0.2)  # what is under way arrives
    came, last, first = counts(receiver)["1000"]
    assert came == last - first + 1, f"{last - first + 1 - came} of {last} datagrams lost"
    assert counts(receiver)["2000"][0] == 0 and held() == before
