"""Containers under policy that come and go while others send, and who gets their address next."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from netns_tests.node import Node, Running, started, until
from netns_tests.plugins import MESOKIT
from netns_tests.policy_box import SUBNETS, Box, apply, conf, task
from netns_tests.policy_streams import streams
from netns_tests.test_policy_changes import counts, receiving

OWN = ("10.9.0.77", "fd09::77")
DB = {"labels": {"role": "db"}}
X = {"labels": {"role": "x"}}


def fixed(**keys: Any) -> dict[str, Any]:
    """A network of which every container has the addresses OWN."""
    addresses = [{"address": f"{OWN[0]}/24"}, {"address": f"{OWN[1]}/64"}]
    return conf(**keys) | {"ipam": {"type": "static", "addresses": addresses}}


#: Raw frames from the moment that eth0 is there, both families, to a port that is allowed and to one that is
#: not: numbered UDP datagrams, a pair of each every 100 µs.
EARLY = """
import socket, struct, sys, time
mac, four, six, target4, target6 = sys.argv[1:]
def sum16(data):
    total = sum(struct.unpack(">%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
def frame(mine, target, port, n):
    data = b"%08d" % n
    udp = struct.pack(">HHHH", 9, port, 16, 0)
    if ":" in mine:
        s, t = (socket.inet_pton(socket.AF_INET6, each) for each in (mine, target))
        pseudo = s + t + struct.pack(">II", 16, 17)
        udp = udp[:6] + struct.pack(">H", sum16(pseudo + udp + data) or 0xFFFF)
        return bytes.fromhex("86dd") + struct.pack(">IHBB", 6 << 28, 16, 17, 64) + s + t + udp + data
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 36, 0, 0, 64, 17, 0, *map(socket.inet_aton, (mine, target)))
    return bytes.fromhex("0800") + head[:10] + struct.pack(">H", sum16(head)) + head[12:] + udp + data
to = bytes.fromhex(mac.replace(":", ""))
print("ready", flush=True)
s, n = socket.socket(socket.AF_PACKET, socket.SOCK_RAW), 0
while True:
    try:
        s.bind(("eth0", 0))
        break
    except OSError:
        pass
while True:
    n, own = n + 1, s.getsockname()[4]
    for port in (1000, 2000):
        for mine, target, at in ((four, target4, port), (six, target6, port + 1)):
            try:
                s.send(to + own + frame(mine, target, at, n))
            except OSError:
                pass
    time.sleep(0.0001)
"""


def test_a_container_that_sends_before_its_policy_is_there(node: Node, plugins: str) -> None:
    """Nothing that is forbidden ever arrives, and of what is allowed nothing is lost from the first on."""
    db = Box(node, plugins, "db", conf(), role="db")
    mac = db.netns.json("ip", "-j", "link", "show", "eth0")[0]["address"]
    rule = {"allow": ["udp/1000-1001"], "from": [X]}
    apply(node, [{"name": "db", "for": DB, "ingress": [rule]}])
    for number in range(3):
        name = f"late{number}"
        late = node.netns(name)
        late.run(["sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0"])
        words = ["python3", "-c", EARLY, mac, *OWN, *db.addresses]
        with (
            started(receiving(db.netns, 1000, 1001, 2000, 2001)) as receiver,
            started(late.popen(words)) as sender,
        ):
            until(partial(_is_ready, sender), what="it waits for its interface")
            made = fixed() | {"args": task([], {"role": "x"})}
            result = node.cni("ADD", f"{plugins}/bridge", made, name, late).ok()
            until(partial(_arrive, receiver), what="it arrives")
            sender.kill()
            node.cni("DEL", f"{plugins}/bridge", made | {"prevResult": result}, name, late).ok()
            for port in ("1000", "1001"):
                got, last, first = counts(receiver)[port]
                assert got == last - first + 1, f"{last - first + 1 - got} of {last} lost on {port}"
            assert came(receiver, "2000") == came(receiver, "2001") == 0


def _is_ready(running: Running) -> bool:
    return b"ready" in running.output()


def _arrive(receiver: Running) -> bool:
    return min(came(receiver, "1000"), came(receiver, "1001")) > 100


def came(receiver: Running, port: str) -> int:
    return counts(receiver).get(port, (0, 0, 0))[0]


def test_an_address_has_the_rights_of_its_owner_alone(node: Node, plugins: str) -> None:
    """When one goes nothing of its address is left; to the next, who has other labels, flows of the former do
    not pass, though they go on.
    """
    web = Box(node, plugins, "web", conf(), role="web")
    allowed = {"allow": ["tcp/7000-7100", "udp/7000-7100"], "from": [{"labels": {"role": "web"}}]}
    apply(node, [{"name": "db", "for": DB, "ingress": [allowed]}, {"name": "x", "for": X, "ingress": []}])
    old = Box(node, plugins, "old", fixed(), role="db")
    with streams(old.netns, web.netns, list(OWN), 7000) as made:
        old.call("DEL").ok()
        rules = node.shell("nft list ruleset")
        assert all(each not in rules for each in OWN)
        shown = node.run([MESOKIT, "policy", "show", "--json"]).json()
        assert [each["container"] for each in shown["endpoints"]] == ["web"] and shown["missing"] == 0
        new = Box(node, plugins, "new", fixed(), role="x")
        new.netns.run(["nft", COUNTING])
        sent = [each.of("client").sent for each in made]
        until(
            lambda: all(each.of("client").sent > before + 200 or each.of("client").end
                        for each, before in zip(made, sent, strict=True)),
            what="the old flows go on, or have ended",
        )  # fmt: skip
        assert "counter packets 0 bytes 0" in new.netns.run(["nft", "list", "ruleset"]).text
        assert all(each.of("client").end != "closed" for each in made)


COUNTING = (
    "add table inet counting; add chain inet counting into { type filter hook input priority 0; }; "
    "add rule inet counting into meta l4proto { tcp, udp } counter"
)


@pytest.mark.parametrize("kind", ["bridge", "ptp"])
@pytest.mark.parametrize("version", [4, 6])
def test_an_address_of_two_networks_is_refused(node: Node, plugins: str, kind: str, version: int) -> None:
    """Of either family, by whichever plugin: who was first is judged as before, and nothing is left."""
    db = Box(node, plugins, "db", conf(), role="db")
    subnets = [SUBNETS[0], "fd10::/64"] if version == 4 else ["10.10.0.0/24", SUBNETS[1]]
    ipam = {"type": "host-local", "ranges": [[{"subnet": each}] for each in subnets]}
    second = conf(name="second", bridge="br1", policy="isolated", type=kind, ipam=ipam)
    before = node.shell("nft list ruleset")
    answer = node.cni("ADD", f"{plugins}/{kind}", second, "e", node.netns("e"))
    shared = db.four if version == 4 else db.six
    assert answer.code == 7 and f"address {shared} is that of container db on network net" in str(
        answer.error
    )
    assert node.shell("nft list ruleset") == before
    shown = node.run([MESOKIT, "policy", "show", "--json"]).json()
    assert [each["container"] for each in shown["endpoints"]] == ["db"] and not db.call("CHECK").error
