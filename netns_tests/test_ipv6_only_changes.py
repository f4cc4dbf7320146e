"""Networks of IPv6 alone that change under their containers: keys of `mesokit update`, and policy."""

from __future__ import annotations

import json
import re

from netns_tests.case import bridge, local
from netns_tests.node import Node
from netns_tests.plugins import MESOKIT
from netns_tests.policy_box import apply, conf, task
from netns_tests.test_policy import DB
from netns_tests.test_update import CHAIN, attached, update

SIX = CHAIN | {
    "plugins": [
        bridge(local("fd00:9::/64", routes=[{"dst": "fd30::/16"}]), isDefaultGateway=True, ipMasq=True),
        *CHAIN["plugins"][1:],
    ]
}
#: One after another on one container, and how the kernel shows each.
WALK = [
    (["mtu=1400"], "box", "ip link show eth0", "mtu 1400"),
    (["routes+=fd40::/16"], "box", "ip -6 route", r"fd40::/16 via fd00:9::1"),
    (["routes+=fd41::/16@fd00:9::9", "routes-=fd30::/16"], "box", "ip -6 route", r"fd41::/16 via fd00:9::9"),
    (["gateway=fd00:9::fe"], "box", "ip -6 route", r"default via fd00:9::fe"),
    (["addresses+=fd00:9::77/64"], "box", "ip addr show eth0", r"fd00:9::77/64"),
    (["sysctl.net.core.somaxconn=600"], "box", "sysctl net.core.somaxconn", "= 600"),
    (["ingressRate=400000000"], "node", "tc qdisc", r"rate 400Mbit"),
    (["egressRate=200000000"], "node", "tc qdisc", r"rate 200Mbit"),
    (["ports+=9090:90/udp"], "node", "nft list ruleset", r"9090 .*fd00:9::2 \. 90"),
    (["ports-=8080/tcp"], "node", "nft list ruleset", r"9090 .*fd00:9::2 \. 90"),
    (["macspoofchk=true"], "node", "nft list table bridge mesokit", "comment"),
    (["portIsolation=true"], "node", "bridge -d link", "isolated on"),
    (["hairpinMode=true"], "node", "bridge -d link", "hairpin on"),
]


def test_keys_of_update_one_after_another(node: Node, ours: str) -> None:
    """No step makes an address, a route or a rule of IPv4."""
    with attached(node, ours, SIX) as (box, told):
        for words, where, command, pattern in WALK:
            (outcome,) = update(node, "c1", *words)
            assert outcome["changed"], (words, outcome)
            assert re.search(pattern, (box if where == "box" else node).run(command.split()).text), words
            node.cni("CHECK", f"{ours}/chain", told, "c1", box).ok()
        assert "inet " not in box.run(["ip", "addr", "show", "eth0"]).text
        assert not box.run(["ip", "-4", "route"]).text
        assert not box.ping("fd00:9::fe", seconds=1) and box.ping("fd00:9::1")


def test_policy(node: Node, ours: str) -> None:
    """Judged, explained and forgotten by addresses of one family."""
    made = conf(ipam={"type": "host-local", "ranges": [[{"subnet": "fd09::/64"}]]})
    boxes, addresses = {}, {}
    for name in ("db", "web", "x"):
        boxes[name] = node.netns(name)
        boxes[name].run(["ip", "link", "set", "lo", "up"])
        config = made | {"args": task([], {"role": name})}
        (ip,) = node.cni("ADD", f"{ours}/bridge", config, name, boxes[name]).ok()["ips"]
        addresses[name] = ip["address"].split("/")[0]
    apply(node, [DB])
    assert boxes["web"].ping(addresses["db"]) and not boxes["x"].ping(addresses["db"], seconds=1)
    for source, allowed in (("web", True), ("x", False)):
        for word in (source, addresses[source]):
            told = node.run([MESOKIT, "policy", "explain", word, "db", "tcp/5432", "--json"], check=False)
            assert [each["allowed"] for each in json.loads(told.text)] == [allowed], told
    (outcome,) = update(node, "x", "labels.role=web")
    assert outcome["changed"] and boxes["x"].ping(addresses["db"])
    for name, box in boxes.items():
        node.cni("DEL", f"{ours}/bridge", made, name, box).ok()
    node.run(["sh", "-c", "! nft list ruleset | grep -E 'elements|fd09'"])
