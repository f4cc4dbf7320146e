"""`mesokit update` as an operator meets it: refusals with their reasons, dry runs, files, a DEL meanwhile, a
step that fails, and containers of a Mesos agent."""

from __future__ import annotations

import fcntl
import json
import re
from pathlib import Path

import pytest

from netns_tests.case import bridge
from netns_tests.node import Node, until
from netns_tests.plugins import MESOKIT
from netns_tests.runtime import attach, network
from netns_tests.snapshot import assert_clean, snapshot
from netns_tests.test_update import CHAIN, NET, POOL, PTP, attached, flowing, record, update

PORTS = {"type": "portmap", "capabilities": {"portMappings": True}}
TWO = {"type": "static", "addresses": [{"address": "10.9.0.5/24"}, {"address": "10.9.0.6/24"}]}
MESOS = {"args": {"org.apache.mesos": {"network_info": {"name": "net", "groups": ["web"]}}}}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["mtu=1279"], "mtu is 1279, and below 1280 (RFC 8200)"),
        (["gateway=10.8.0.1"], "gateway 10.8.0.1 is not in 10.9.0.0/24"),
        (["routes-=10.99.0.0/16"], "the attachment has no such route"),
        (["addresses+=10.9.0.1/24"], "it is the gateway of 10.9.0.0/24"),
        (["addresses+=10.9.0.77/16"], "its subnet is 10.9.0.0/24 here"),
        (["addresses-=10.9.0.2"], "published ports lead to 10.9.0.2"),
        (["ports-=9999"], "9999/tcp: it is not published"),
        (["dns.nameservers=10.0.0.1"], "no agent wrote a resolv.conf"),
        (["sysctl.kernel.hostname=x"], "is not one of the network's"),
        (["sysctl.net.core.nothing=1"], "this kernel has no sysctl net/core/nothing"),
        (["groups=db"], "no Mesos agent attached this container"),
    ],
)
def test_what_cannot_be_is_said_and_changes_nothing(
    node: Node, ours: str, words: list[str], told: str
) -> None:
    with attached(node, ours, CHAIN) as (box, _):
        before, old = snapshot(node, [box]), record(node)
        (outcome,) = update(node, "c1", *words, status=1)
        assert told in "; ".join(outcome["problems"])
        assert record(node) == old
        assert_clean(node, before, "refused", boxes=[box])


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("vlan=5", "vlan cannot be changed in place: the kernel makes a new interface"),
        ("mtu=x", "mtu is 'x', which is not a whole number"),
        ("mtu=67", "mtu"),
        ("routes+=10.0.0.0/8@fe80::1", "a route whose gateway is of its destination's family"),
        ("ports+=80", "a mapping like 8080:80/tcp"),
        ("colour=blue", "'colour' is no key that can be changed"),
        ("routes=10.0.0.0/8", "routes is a list: write routes+= or routes-="),
    ],
)
def test_a_bad_word_is_named(node: Node, word: str, told: str) -> None:
    done = node.run([MESOKIT, "update", "c1", word], check=False)
    assert done.status == 1
    assert told in done.stderr.decode()


def test_a_dry_run_tells_and_changes_nothing(node: Node, ours: str) -> None:
    conf = NET | bridge(TWO, isGateway=True, ipMasq=True)
    with attached(node, ours, conf) as (box, _):
        before, old = snapshot(node, [box]), record(node)
        words = ["c1", "mtu=1400", "addresses-=10.9.0.6"]
        done = node.run([MESOKIT, "update", *words, "--dry-run"])
        assert "would change" in done.text
        assert "1500 → 1400: no packet is lost" in done.text
        assert "needs --disrupt: every flow that uses 10.9.0.6 ends at once" in done.text
        assert record(node) == old
        assert_clean(node, before, "a dry run", boxes=[box])
        (outcome,) = update(node, *words, status=1)
        assert "--disrupt allows it" in outcome["problems"][0]
        assert record(node) == old
        (outcome,) = update(node, *words, "--disrupt")
        assert outcome["changed"]
        assert "10.9.0.6" not in box.run(["ip", "addr"]).text
        assert "10.9.0.6" not in node.run(["nft", "list", "ruleset"]).text


def test_a_file_is_brought_to_all_that_can(node: Node, ours: str) -> None:
    conf = NET | bridge({"type": "host-local", "subnet": "10.9.0.0/24"}, isDefaultGateway=True)
    boxes = [node.netns(f"c{number}") for number in range(1, 4)]
    for box in boxes:
        node.cni("ADD", f"{ours}/bridge", conf, box.name, box).ok()
    node.netns("c9")
    boxes[2].delete()  # its network is gone: it cannot
    ipam = conf["ipam"] | {"routes": [{"dst": "10.40.0.0/16"}]}
    file = node.path("/etc/cni/net.d/net.conf")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(conf | {"mtu": 1400, "ipam": ipam, "portIsolation": True}))
    args = ["--network", "net", "--from", "/etc/cni/net.d/net.conf"]
    dry = update(node, *args, "--dry-run", status=3)
    assert [item["can"] for item in sorted(dry, key=lambda item: item["containerID"])] == [True, True, False]
    done = sorted(update(node, *args, "--apply", status=3), key=lambda item: item["containerID"])
    assert [item["changed"] for item in done] == [True, True, False]
    for box in boxes[:2]:
        assert "mtu 1400" in box.run(["ip", "link", "show", "eth0"]).text
        assert "10.40.0.0/16 via 10.9.0.1" in box.run(["ip", "route"]).text
    again = update(node, *args, "--apply", status=3)
    assert not any(item["changed"] for item in again)
    file.write_text(json.dumps(conf | {"vlan": 7}))
    for item in update(node, *args, "--dry-run", status=1):
        assert "vlan 0 → 7 cannot be changed in place" in "; ".join(item["problems"])


def test_the_record_is_what_an_add_of_the_new_configuration_makes(node: Node, ours: str) -> None:
    """But for what an ADD chooses: names and MAC addresses."""
    conf = NET | bridge(TWO, isGateway=True, ipMasq=True)
    new = conf | {"mtu": 1400, "macspoofchk": True, "portIsolation": True}
    box = node.netns("c1")
    node.cni("ADD", f"{ours}/bridge", new, "c1", box).ok()
    wanted = record(node)
    node.cni("DEL", f"{ours}/bridge", new, "c1", box).ok()
    node.cni("ADD", f"{ours}/bridge", conf, "c1", box).ok()
    update(node, "c1", "mtu=1400", "macspoofchk=true", "portIsolation=true")
    there = record(node)
    assert [kind for kind, _ in there["steps"]] == [kind for kind, _ in wanted["steps"]]
    for (kind, args), (_, other) in zip(there["steps"], wanted["steps"], strict=True):
        chosen = {"name", "mac", "peer_mac", "port"} if kind != "bridge" else {"mac"}
        assert {k: v for k, v in args.items() if k not in chosen} == {
            k: v for k, v in other.items() if k not in chosen
        }, kind
    assert there["config"] == wanted["config"]
    node.cni("DEL", f"{ours}/bridge", conf, "c1", box).ok()


def test_a_step_that_fails_takes_the_others_back(node: Node, ours: str) -> None:
    with attached(node, ours, CHAIN) as (box, told):
        before, old = snapshot(node, [box]), record(node)
        # An address that somebody reserved: the second of the steps that fails.
        reserved = node.path("/var/lib/cni/networks/net/10.9.0.78")
        reserved.write_text("other\r\neth0")
        words = [
            "macspoofchk=true",
            "mtu=1400",
            "routes+=10.40.0.0/16",
            "addresses+=10.9.0.77/24,10.9.0.78/24",
        ]
        (outcome,) = update(node, "c1", *words, status=1)
        assert "10.9.0.78 is in use by container other" in outcome["problems"][0]
        reserved.unlink()
        # A bucket that somebody removed: the last of them.
        node.run(["sh", "-c", "for i in $(ls /sys/class/net | grep ^bwp); do tc qdisc del dev $i root; done"])
        (outcome,) = update(node, "c1", *words, "egressRate=200000000", status=1)
        assert "has no token bucket any more" in outcome["problems"][0]
        node.run([MESOKIT, "reload"])
        box.run(["ip", "addr", "add", "10.9.0.78/24", "dev", "eth0"])
        (outcome,) = update(node, "c1", "addresses+=10.9.0.78/24", status=1)
        assert "eth0 already has it, and not by us" in outcome["problems"][0]
        box.run(["ip", "addr", "del", "10.9.0.78/24", "dev", "eth0"])
        assert record(node) == old
        allowed = [r"file /run/mesokit/attachments/"]
        assert_clean(node, before, "a failed step", boxes=[box], allowed=allowed)
        node.cni("CHECK", f"{ours}/chain", told, "c1", box).ok()
        (outcome,) = update(node, "c1", "macspoofchk=true", "mtu=1400")
        assert outcome["changed"]


def _is_open(node: Node, name: str) -> bool:
    """Whether a process of the node has a file of this name open."""
    return name in node.shell("readlink /proc/[0-9]*/fd/* || true", check=False)


def test_a_del_that_was_first_wins(node: Node, ours: str) -> None:
    box = node.netns("c1")
    node.cni("ADD", f"{ours}/ptp", PTP, "c1", box).ok()
    (path,) = node.path("/run/mesokit/attachments/net").iterdir()
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = node.popen([MESOKIT, "update", "c1", "mtu=1400", "--json"])
        until(lambda: waiting.ended() or _is_open(node, path.name), what="the update waits for the record")
        assert not waiting.ended()
        path.rename(path.parent / "aside")  # what DEL does at its end, with the record's lock held
        (path.parent / "aside").unlink()
    done = waiting.wait(30)
    assert done.status == 1
    assert "detached meanwhile" in done.text


def test_the_agents_resolv_conf_is_written_in_place(node: Node, ours: str) -> None:
    """A bind mount of the file sees it; a reader never finds it empty or a line cut."""
    conf = PTP | MESOS
    with attached(node, ours, conf) as (_, _told):
        place = Path("/run/mesos/isolators/network/cni/c1")
        node.run(["mkdir", "-p", str(place)])
        node.path(f"{place}/resolv.conf").write_text("nameserver 10.0.0.1\nnameserver 10.0.0.2\n")
        node.run(["touch", "/run/seen"])
        node.run(["mount", "--bind", f"{place}/resolv.conf", "/run/seen"])
        reader = node.popen(["sh", "-c", "while :; do cat /run/seen | head -1; done"])
        try:
            for number in range(3, 8):
                update(node, "c1", f"dns.nameservers=10.0.0.{number}", "dns.search=a.example")
                assert (
                    node.run(["cat", "/run/seen"]).text == f"search a.example\nnameserver 10.0.0.{number}\n"
                )
        finally:
            reader.kill()
        seen = set(reader.wait().text.splitlines())
        assert seen <= {"search a.example", "nameserver 10.0.0.1"}, seen
        assert record(node)["result"]["dns"]["nameservers"] == ["10.0.0.7"]
        node.run(["umount", "--lazy", "/run/seen"])
        node.run(["rm", "-r", "/run/mesos", "/run/seen"])


def test_on_mesos_the_first_address_stays(node: Node, ours: str) -> None:
    conf = NET | MESOS | bridge(TWO, isGateway=True)
    with attached(node, ours, conf) as (box, _):
        (outcome,) = update(node, "c1", "addresses-=10.9.0.5", "--disrupt", status=1)
        assert "10.9.0.5 is what Mesos tells frameworks" in outcome["problems"][0]
        update(node, "c1", "groups=web,db", "labels.tier=front")
        info = record(node)["config"]["args"]["org.apache.mesos"]["network_info"]
        assert info["groups"] == ["web", "db"]
        assert info["labels"] == {"labels": [{"key": "tier", "value": "front"}]}
        update(node, "c1", "addresses-=10.9.0.5", "--disrupt", "--force")
        assert "10.9.0.5" not in box.run(["ip", "addr"]).text


def test_a_routed_container_gets_and_loses_addresses(node: Node, ours: str) -> None:
    with attached(node, ours, PTP) as (box, _):
        with flowing(node, box) as felt:
            update(node, "c1", "addresses+=10.9.0.77/24,fd00:9::77/64", "mtu=1300")
        assert felt["lost"] == 0, felt
        assert node.ping("10.9.0.77")
        assert node.ping("fd00:9::77")
        with flowing(node, box) as felt:
            update(node, "c1", "addresses-=10.9.0.77,fd00:9::77", "--disrupt")
        assert felt["lost"] == 0, felt
        assert not node.ping("10.9.0.77", seconds=0)
        assert "10.9.0.77" not in node.run(["ip", "route"]).text


def test_policy_follows_groups_and_addresses(node: Node, ours: str) -> None:
    """On a network of groups: another group is another set of peers, a further address is judged like the
    first."""
    conf = NET | bridge({"type": "host-local", "subnet": "10.9.0.0/24"}, isGateway=True, policy="groups")
    boxes = [node.netns(name) for name in ("c1", "c2")]
    for box, group in zip(boxes, ("web", "db"), strict=True):
        info = {"args": {"org.apache.mesos": {"network_info": {"name": "net", "groups": [group]}}}}
        node.cni("ADD", f"{ours}/bridge", conf | info, box.name, box).ok()
    assert not boxes[0].ping("10.9.0.3", seconds=0)
    update(node, "c1", "groups=web,db")
    assert boxes[0].ping("10.9.0.3")
    update(node, "c2", "addresses+=10.9.0.77/24")
    assert boxes[0].ping("10.9.0.77")
    update(node, "c1", "groups=web")
    assert not boxes[0].ping("10.9.0.3", seconds=0)
    assert not boxes[0].ping("10.9.0.77", seconds=0)
    update(node, "c2", "addresses-=10.9.0.77", "--disrupt")
    for box in boxes:
        node.cni("DEL", f"{ours}/bridge", conf, box.name, box).ok()
    assert "10.9.0" not in node.run(["nft", "list", "table", "inet", "mesokit"], check=False).text


def test_a_list_that_a_runtime_calls_one_by_one_is_one_attachment(node: Node, ours: str) -> None:
    """Each key goes to the record that can take it; what none takes is refused once, and then nothing of the
    attachment is changed; what one of them changes the others know.
    """
    rates = CHAIN["plugins"][2]
    tuning = {"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}, "mtu": 1450}
    listed = network(
        [bridge(POOL, isDefaultGateway=True, ipMasq=True), tuning, rates, PORTS], version="1.1.0"
    )
    box = node.netns("c1")
    before = snapshot(node, [box])
    ports = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}
    attached_ = attach(node, ours, listed, "c1", box, capabilities=ports)
    words = ["mtu=1400", "routes+=10.40.0.0/16", "addresses+=10.9.0.77/24", "sysctl.net.core.somaxconn=600"]
    done = update(node, "c1", *words, "ingressRate=400000000", "ports+=9090:90", "hairpinMode=true")
    assert {item["plugin"]: item["changed"] for item in done} == dict.fromkeys(
        ("bridge", "tuning", "bandwidth", "portmap"), True
    )
    assert "mtu 1400" in box.run(["ip", "link", "show", "eth0"]).text
    for word in ("groups=web", "addresses-=10.9.0.2", "ports-=7777", "latency=0"):
        listed_ = update(node, "c1", word, "mtu=1300", "--disrupt", status=1)
        assert len([item for item in listed_ if item["problems"]]) in {1, 4}, (word, listed_)
        assert "mtu 1400" in box.run(["ip", "link", "show", "eth0"]).text
    told = update(node, "c1", "addresses-=10.9.0.2", "--disrupt", status=1)
    assert "published ports lead to 10.9.0.2" in told[0]["problems"][0]
    update(node, "c1", "ports-=8080,9090")
    update(node, "c1", "addresses-=10.9.0.2", "--disrupt")
    (row,) = json.loads(node.run([MESOKIT, "ls", "--json"]).text)["items"]
    assert row["addresses"] == ["fd00:9::2/64", "10.9.0.77/24"]
    update(node, "c1", "ports+=9091:91")
    assert re.search(r"9091 .*10\.9\.0\.77 \. 91", node.run(["nft", "list", "ruleset"]).text)
    attached_.check().ok()
    attached_.delete().ok()
    assert_clean(node, before, "after DEL", boxes=[box])
