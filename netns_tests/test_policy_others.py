"""Policy beside the firewalls of others: what they flush and set up opens nothing of ours."""

from __future__ import annotations

import sys
import time

import pytest

from netns_tests.node import Node, started, until
from netns_tests.policy_box import Box, apply, conf
from netns_tests.test_firewall import CMD, ENV, firewalld
from netns_tests.test_policy import DB
from netns_tests.test_policy_changes import SENDER, counts, receiving

#: What an administrator's script does first.
FLUSHING = """
for each in iptables ip6tables; do
    $each -F; $each -X; $each -t nat -F; $each -t nat -X; $each -t mangle -F; $each -P FORWARD ACCEPT
done
"""
#: As Docker's daemon makes them when it starts.
DOCKER = """
iptables -P FORWARD DROP
for each in DOCKER DOCKER-USER DOCKER-FORWARD DOCKER-BRIDGE DOCKER-CT DOCKER-ISOLATION-STAGE-1; do
    iptables -N $each
done
iptables -A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
iptables -A DOCKER-FORWARD -j DOCKER-CT
iptables -A DOCKER-FORWARD -j DOCKER-ISOLATION-STAGE-1
iptables -A DOCKER-FORWARD -j DOCKER-BRIDGE
iptables -A DOCKER-BRIDGE -o docker0 -j DOCKER
iptables -A DOCKER-FORWARD -i docker0 -j ACCEPT
iptables -A DOCKER ! -i docker0 -o docker0 -j DROP
iptables -I FORWARD -j DOCKER-FORWARD
iptables -I FORWARD -j DOCKER-USER
iptables -t nat -N DOCKER
iptables -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
"""


def _refused_through(node: Node, ours: str, script: str, *, before: str = "") -> None:
    """What is denied stays denied, packet by packet, while `script` runs and after it; before it arrived."""
    db, web = (Box(node, ours, name, conf(), role=name) for name in ("db", "web"))
    node.run(["sh", "-ec", before], env=ENV)
    receiver = receiving(db.netns, 1000)

    def arrived() -> int:
        return counts(receiver).get("1000", (0, 0, 0))[0]

    with started(web.netns.popen([sys.executable, "-c", SENDER, db.four, "1000"])):
        until(lambda: arrived() > 10, what="without the policy it arrives")
        apply(node, [DB])
        time.sleep(0.3)  # what had arrived by then is counted
        count = arrived()
        node.run(["sh", "-c", script], env=ENV)
        time.sleep(1)
        assert arrived() == count
    assert not db.call("CHECK").error
    assert apply(node)["restored"] == 0


@pytest.mark.parametrize("script", [FLUSHING, DOCKER], ids=["iptables -F", "Docker's start"])
def test_iptables_of_others(node: Node, ours: str, script: str) -> None:
    _refused_through(
        node, ours, script, before="iptables -A FORWARD -j ACCEPT; ip6tables -A FORWARD -j ACCEPT"
    )


@pytest.mark.timeout(180)
def test_firewalld_that_reloads(node: Node, ours: str) -> None:
    """A real firewalld that lets the bridge's packets pass, its reload, and its complete one."""
    with firewalld(node):
        reload = " ".join(CMD)
        trusted = f"{reload} --permanent --zone=trusted --add-interface=br0; {reload} --reload"
        _refused_through(node, ours, f"{reload} --reload; {reload} --complete-reload", before=trusted)
