"""Network policy on a private node, with real packets: who reaches whom, and what changes under running
containers.

The table of scenarios and tests is in README.md.
"""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from cni_plugins.kernel.nft.policy_rules import PORTS_UNTAGGED
from netns_tests.node import Netns, Node, until
from netns_tests.plugins import MESOKIT, service
from netns_tests.policy_box import Box, apply, conf, matrix, write


def test_an_open_network_without_policies_has_no_profile(node: Node, plugins: str) -> None:
    a, b = (Box(node, plugins, name, conf("open")) for name in "ab")
    assert matrix([a, b]) == {"ab", "ba"}
    for name in ("policy_out4", "policy_in4", "policy_host4"):
        assert "elements" not in node.shell(f"nft list map inet mesokit {name}")


def test_an_isolated_network(node: Node, plugins: str) -> None:
    """Nobody reaches anybody; the host reaches all, and they reach the agent's port of the host alone."""
    a, b = (Box(node, plugins, name, conf("isolated")) for name in "ab")
    assert matrix([a, b]) == set()
    assert a.reaches(a.four) and a.reaches(a.six)
    assert node.ping(a.four, seconds=1) and node.ping(a.six, seconds=1)
    assert not a.reaches("10.9.0.1") and not a.reaches("fd09::1")
    assert answers(node, a, "10.9.0.1", 5051) and answers(node, a, "fd09::1", 5051)
    assert not answers(node, a, "10.9.0.1", 5052)


def answers(node: Node, box: Box, address: str, port: int, *, server: Netns | None = None) -> bool:
    """Whether a TCP server at `address` (the node's, or in `server`) answers the container."""
    place = (server or node).popen(["python3", "-c", SERVER, address, str(port)])
    try:
        return box.netns.run(["python3", "-c", CLIENT, address, str(port)], check=False).status == 0
    finally:
        place.kill()


SERVER = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.socket(family) as s:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((sys.argv[1], int(sys.argv[2]))); s.listen()
    while True:
        c, peer = s.accept(); c.sendall(peer[0].encode()); c.close()
"""
SENDING = """
import socket, sys, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.bind((sys.argv[1], 0)); s.sendto(b"x", (sys.argv[2], 5432)); time.sleep(0.2)
"""
CLIENT = """
import socket, sys, time
end = time.monotonic() + 5
while True:
    try:
        with socket.create_connection((sys.argv[1], int(sys.argv[2])), 1) as s:
            print(s.recv(100).decode()); sys.exit(0)
    except TimeoutError:
        sys.exit(2)
    except OSError:
        if time.monotonic() > end - 4.2: sys.exit(1)
        time.sleep(0.05)
"""


def test_groups(node: Node, plugins: str) -> None:
    boxes = [
        Box(node, plugins, name, conf("groups"), groups)
        for name, groups in (("a", ["dev"]), ("b", ["dev", "test"]), ("c", ["test"]), ("d", []))
    ]
    there = matrix(boxes)
    assert there == {"ab", "ba", "bc", "cb"}


DB = {
    "name": "db",
    "for": {"labels": {"role": "db"}},
    "ingress": [{"allow": ["icmp", "tcp/5432"], "from": [{"labels": {"role": "web"}}]}],
}


def test_a_policy_changes_under_running_containers(node: Node, plugins: str) -> None:
    """Labels select; a change holds at once, and its removal too; CHECK, DEL and GC know the elements."""
    db = Box(node, plugins, "db", conf(), role="db")
    web = Box(node, plugins, "web", conf(), role="web")
    other = Box(node, plugins, "x", conf(), role="x", zone="y")
    assert other.reaches(db)
    apply(node, [DB])
    assert web.reaches(db) and not other.reaches(db) and other.reaches(web) and not db.call("CHECK").error
    late = Box(node, plugins, "late", conf(), role="web")
    assert late.reaches(db)
    late.call("DEL").ok()
    apply(node, [])
    assert other.reaches(db)
    for box in (db, web, other):
        assert not box.call("CHECK").error
        box.call("DEL").ok()
    assert json.loads(node.path("/run/mesokit/policy/state.json").read_text())["endpoints"] == []


def test_no_policy_costs_nothing(node: Node, ours: str) -> None:
    """A network without the key, on a node without the directory: no table, no state, no import."""
    a = Box(node, ours, "a", conf(None))
    assert a.four and not node.path("/run/mesokit/policy").exists()
    assert "policy" not in node.shell("nft list ruleset")


def test_refused_files_change_nothing(node: Node, ours: str) -> None:
    """Exit 2 with file, line and key; what held before holds on."""
    db, web = (Box(node, ours, name, conf(), role=name) for name in ("db", "web"))
    apply(node, [DB | {"ingress": []}])
    assert not web.reaches(db)
    place = node.path("/etc/mesokit/policy.d")
    (place / "bad.yaml").write_text("policies:\n  - name: n\n    for: {}\n    ingres: []\n")
    told = node.run([MESOKIT, "policy", "apply"], check=False)
    assert told.status == 2
    assert "/etc/mesokit/policy.d/bad.yaml:4: policies[0].ingres: unknown key" in told.stderr.decode()
    assert not web.reaches(db)
    third = Box(node, ours, "c", conf(), role="web")
    assert not third.reaches(db)


def test_deny_wins_and_files_add_up(node: Node, ours: str) -> None:
    db, web = (Box(node, ours, name, conf(), role=name) for name in ("db", "web"))
    peers = {"from": [{"labels": {"role": "web"}}]}
    one = {"name": "a", "for": DB["for"], "ingress": [{"allow": ["tcp/1000"], **peers}]}
    two = {"name": "b", "for": DB["for"], "ingress": [{"allow": ["tcp/2000"], **peers}]}
    write(node, [one])
    write(node, [two], "q.json")
    apply(node)
    for port, passes in ((1000, True), (2000, True), (3000, False)):
        assert answers(node, web, db.four, port, server=db.netns) == passes
        assert answers(node, web, db.six, port, server=db.netns) == passes
    write(node, [{"name": "c", "for": DB["for"], "ingress": [{"deny": ["tcp/1000"], **peers}]}], "0.json")
    apply(node)
    assert not answers(node, web, db.four, 1000, server=db.netns)
    assert answers(node, web, db.four, 2000, server=db.netns)


def test_explain_reads_the_kernel_and_names_the_rule(node: Node, ours: str) -> None:
    db, web = (Box(node, ours, name, conf(), role=name) for name in ("db", "web"))
    apply(node, [DB])
    told = node.run([MESOKIT, "policy", "explain", "web", "db", "tcp/5432", "--json"])
    for answer in json.loads(told.text):
        assert answer["allowed"] and answer["reasons"][-1]["where"] == "/etc/mesokit/policy.d/p.json:1"
    refused = node.run([MESOKIT, "policy", "explain", "web", "db", "udp/5432"], check=False)
    assert refused.status == 1 and "is refused (by the target's side)" in refused.text
    node.shell(f"nft delete element inet mesokit policy_in4 '{{ {db.four} }}'")
    refused = node.run([MESOKIT, "policy", "explain", web.four, db.four, "tcp/5432"], check=False)
    assert refused.status == 1 and "shut" in refused.text
    assert not web.netns.ping(db.four, seconds=0.6)
    assert db.call("CHECK").error
    assert apply(node)["restored"] == 1
    assert web.reaches(db)


@pytest.mark.parametrize("harm", ["flush ruleset", "flush chain inet mesokit policy_forward"])
def test_what_somebody_flushed_is_made_again_by_hand(node: Node, ours: str, harm: str) -> None:
    db, web = (Box(node, ours, name, conf(), role=name) for name in ("db", "web"))
    apply(node, [DB | {"ingress": []}])
    node.shell(f"nft {harm}")
    assert web.reaches(db)
    assert db.call("CHECK").error
    node.run([MESOKIT, "reload"])
    assert not web.reaches(db) and not db.call("CHECK").error


def test_one_element_is_missed_after_changes_of_our_own(node: Node, ours: str) -> None:
    """Changes are not looked through as long as nobody else has changed nf_tables; then they are."""
    db, _ = (Box(node, ours, name, conf("isolated"), role=name) for name in ("db", "web"))
    apply(node, [DB])
    seal = node.path("/run/mesokit/policy/verified")
    before = seal.read_text()
    assert apply(node, [DB | {"ingress": []}])["restored"] == 0
    assert seal.read_text() != before
    node.run(["nft", "delete", "element", "inet", "mesokit", "policy_shut_in4", f"{{ {db.four} }}"])
    assert apply(node, [DB])["restored"] == 1
    assert apply(node)["restored"] == 0
    node.run(["nft", "get", "element", "inet", "mesokit", "policy_shut_in4", f"{{ {db.four} }}"])


def test_the_bridges_flag_alone(node: Node, ours: str) -> None:
    """br_netfilter of that bridge, not of all; the flag goes with the last container of the network."""
    node.shell("sysctl -qw net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0")
    node.shell("ip link add br0 type bridge; ip link set br0 up")
    a, b = (Box(node, ours, name, conf("isolated")) for name in "ab")
    assert not a.reaches(b)
    assert node.shell("sysctl -n net.bridge.bridge-nf-call-iptables").strip() == "0"
    for box in (a, b):
        apply(node, [])
        assert "nf_call_iptables 1" in node.shell("ip -d link show br0")
        box.call("DEL").ok()
    assert "nf_call_iptables 0" in node.shell("ip -d link show br0")
    switches = "net.bridge.bridge-nf-call-iptables net.bridge.bridge-nf-call-ip6tables"
    assert node.shell(f"sysctl -n {switches}").split() == ["0", "0"]


def test_ptp(node: Node, plugins: str) -> None:
    made = conf("groups", type="ptp")
    a, b, c = (
        Box(node, plugins, name, made, groups) for name, groups in (("a", ["x"]), ("b", ["x"]), ("c", []))
    )
    assert matrix([a, b, c]) == {"ab", "ba"}


def test_audit_changes_no_verdict_and_counts(node: Node, ours: str) -> None:
    db, web = (Box(node, ours, name, conf(), role=name) for name in ("db", "web"))
    apply(node, [DB | {"ingress": [], "audit": True}])
    assert web.reaches(db)
    (found,) = json.loads(node.run([MESOKIT, "policy", "audit", "--json"]).text)
    assert found["packets"] >= 2 and found["containers"] == ["db"] and found["policies"] == "db"


def test_a_spoofed_source_does_not_leave_its_port(node: Node, ours: str) -> None:
    db, web, other = (Box(node, ours, name, conf(), role=name) for name in ("db", "web", "x"))
    apply(node, [DB])
    other.netns.run(["ip", "addr", "add", f"{web.four}/32", "dev", "eth0"])
    other.netns.run(["python3", "-c", SENDING, web.four, db.four])
    chain = node.shell("nft list chain bridge mesokit policy_guard")
    assert "counter packets 0 bytes 0" not in next(line for line in chain.splitlines() if "arp saddr" in line)


TAGGING = """
import socket, struct, sys
source, target, *macs = sys.argv[1:]
data = struct.pack(">HHHH", 9, 9000, 9, 0) + b"x"
head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(data), 1, 0, 64, 17, 0,
                   socket.inet_aton(source), socket.inet_aton(target))
total = sum(struct.unpack(">10H", head))
total = (total & 0xFFFF) + (total >> 16)
head = head[:10] + struct.pack(">H", ~(total + (total >> 16)) & 0xFFFF) + head[12:]
to, mine = (bytes.fromhex(mac.replace(":", "")) for mac in macs)
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as s:
    s.bind(("eth0", 0))
    for tag in (b"", bytes.fromhex("81000000"), bytes.fromhex("88a80000")):
        s.send(to + mine + tag + bytes.fromhex("0800") + head + data)
"""
LISTENING = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.bind(("", 9000)); print("ready", flush=True)
    while True:
        print(s.recvfrom(10)[1][0], flush=True)
"""


def assert_tagged_frames_do_not_pass(node: Node, ours: str) -> None:
    """Neither with their own address nor with another's; an untagged one passes until the policy."""
    db, web, other = (Box(node, ours, name, conf(), role=name) for name in ("db", "web", "x"))
    listening = db.netns.popen(["python3", "-u", "-c", LISTENING])
    until(lambda: b"ready" in listening.output(), what="it listens")

    def send(source: str) -> None:
        macs = [box.netns.json("ip", "-j", "link", "show", "eth0")[0]["address"] for box in (db, other)]
        other.netns.run(["python3", "-c", TAGGING, source, db.four, *macs])

    send(other.four)
    until(lambda: other.four.encode() in listening.output(), what="an open network passes it")
    apply(node, [DB | {"ingress": [{"allow": ["any"], "from": [{"labels": {"role": "web"}}]}]}])
    before = listening.output()
    send(other.four)
    send(web.four)
    assert web.reaches(db)  # what was sent before that has arrived, or never will
    assert listening.output() == before
    listening.kill()


def test_a_tag_hides_no_packet(node: Node, ours: str) -> None:
    """br_netfilter looks past frames with a VLAN tag, and one of number 0 is as none to who gets it."""
    assert_tagged_frames_do_not_pass(node, ours)


def test_chains_of_an_older_release_are_written_anew(node: Node, ours: str) -> None:
    """Under running containers, with their elements as they were, by the first call of the new one."""
    db, web = (Box(node, ours, name, conf(), role=name) for name in ("db", "web"))
    apply(node, [DB])
    chain, elements = (
        ["nft", "list", "chain", "bridge", "mesokit", "policy_guard"],
        "nft list set bridge mesokit port_source4",
    )
    now, held = node.run(chain).text, node.shell(elements)
    node.shell(
        f"nft 'delete chain bridge mesokit {PORTS_UNTAGGED.version}; add chain bridge mesokit policy_1; "
        "flush set bridge mesokit port_target6; flush chain bridge mesokit policy_guard; "
        "add rule bridge mesokit policy_guard "
        "ether type ip ip saddr != 0.0.0.0 iifname @port_guarded iifname . ip saddr != @port_source4 drop'"
    )
    assert db.call("CHECK").error
    late = Box(node, ours, "late", conf(), role="web")
    assert node.run(chain).text.count("\n") == now.count("\n") and "igmp" in node.run(chain).text
    late.call("DEL").ok()
    assert node.shell(elements) == held
    assert node.shell("nft list set bridge mesokit port_target6").count("0xfd09") == 2
    assert web.reaches(db) and not db.call("CHECK").error


def test_check_needs_no_kernel(node: Node, ours: str, tmp_path: Path) -> None:
    place = tmp_path / "p.yaml"
    place.write_text("policies:\n- name: n\n  for: {}\n  egress: [{allow: [tcp/0], to: [any]}]\n")
    told = node.run([MESOKIT, "policy", "check", str(place)], check=False)
    assert told.status == 2
    assert "p.yaml:4: policies[0].egress[0].allow[0]: 'tcp/0': port 0 is not within" in told.stderr.decode()


def test_check_says_what_would_change(node: Node, ours: str, tmp_path: Path) -> None:
    """By the policies of files alone: what is applied stays."""
    for name in ("db", "web"):
        Box(node, ours, name, conf(), role=name)
    apply(node, [DB])
    place = tmp_path / "new.json"
    place.write_text(json.dumps({"policies": [DB | {"ingress": []}]}))
    words = [MESOKIT, "policy", "check", str(place), "--against", "/etc/mesokit/policy.d"]
    lines = node.run(words).text.splitlines()
    assert lines[0] == "web -> db: nothing, was tcp/5432, icmp", lines
    changes = node.run([*words, "--json"]).json()["changes"]
    assert {each["family"] for each in changes} == {"IPv4", "IPv6"}
    assert changes[0]["from"] == {"network": "net", "container": "web", "ifname": "eth0"}
    assert (changes[0]["before"], changes[0]["after"]) == ("tcp/5432, icmp", "nothing")
    same = node.run([MESOKIT, "policy", "check", "--against", "/etc/mesokit/policy.d"]).text
    assert same.splitlines()[0] == "nothing that passes or not changes"
    node.shell("rm -r /etc/mesokit/policy.d")
    first = node.run(words).text  # a node's first policy
    assert "web -> db: nothing, was any" in first.splitlines()
    bad = node.run([MESOKIT, "policy", "check", str(place), "--against", "/nothing/here"], check=False)
    assert bad.status == 2 and b"/nothing/here: No such file or directory" in bad.stderr


@pytest.mark.parametrize("words", [["check"], ["check", "--json"], ["apply", "--from"]])
@pytest.mark.parametrize("place", ["/nothing/here", "/etc/passwd/p.d", "\x1b[2J"])
def test_a_place_that_is_not_there_is_no_empty_one(
    node: Node, ours: str, words: list[str], place: str
) -> None:
    """A slip of the pen in `apply --from` took every policy away."""
    apply(node, [DB])
    told = node.run([MESOKIT, "policy", *words, place], check=False)
    assert told.status == 2 and told.stdout == b"" and told.stderr.count(b"\n") == 1, told
    assert b"nothing is read or changed" in told.stderr and b"\x1b" not in told.stderr
    shown = node.run([MESOKIT, "policy", "show", "--json"]).json()
    assert len(shown["policies"]) == 1


def test_other_plugins_refuse_what_they_cannot_enforce(node: Node, ours: str) -> None:
    """Never accepted and not enforced."""
    answer = node.cni("ADD", f"{ours}/tap", conf("isolated", type="tap"), "a", node.netns("a"))
    assert answer.code == 7 and "policy is 'isolated', and tap cannot enforce any" in str(answer.error)


def test_who_is_outside_policy_is_told(node: Node, ours: str) -> None:
    """Where the operator looks: tap and dummy, and who came before there was any policy."""
    early = Box(node, ours, "early", conf(None), role="db")
    ipam = {"type": "static", "addresses": [{"address": "10.77.0.2/24"}]}
    taps = {"cniVersion": "1.1.0", "name": "taps", "type": "tap", "ipam": ipam}
    node.cni("ADD", f"{ours}/tap", taps, "t", node.netns("t")).ok()
    doctor = [MESOKIT, "doctor", "--json"]
    assert "outside-policy" not in node.run(doctor, check=False).text
    assert "OUTSIDE" not in node.run([MESOKIT, "policy", "show"]).text, "nobody asked for any"
    apply(node, [DB])
    web = Box(node, ours, "web", conf(), role="web")
    apply(node)
    shown = node.run([MESOKIT, "policy", "show", "--json"]).json()
    assert {(each["container"], each["reason"]) for each in shown["outside"]} == {
        ("t", "tap cannot enforce any"),
        ("early", "it was attached when neither its network nor the node had one"),
    }
    sentence = "t: eth0 on network taps is OUTSIDE POLICY: tap cannot enforce any"
    assert sentence in node.run([MESOKIT, "policy", "show"]).text
    assert sentence in node.run([MESOKIT, "policy", "audit"]).stderr.decode()
    for name in ("t", "10.77.0.2"):
        told = node.run([MESOKIT, "policy", "explain", name, web.four, "tcp/80"], check=False)
        assert sentence in told.stderr.decode()
    found = node.run(doctor, check=False).text
    assert "no policy judges what containers of network taps send and get" in found
    assert f"restart the containers of network {early.config['name']}" in found


def test_the_service_applies_files_that_change(node: Node, ours: str) -> None:
    """Into a directory that was not there, an edit, a bad edit, and its end."""
    db, web = (Box(node, ours, name, conf(), role=name) for name in ("db", "web"))
    with service(node):
        assert web.reaches(db)
        write(node, [DB | {"ingress": []}])
        until(lambda: not web.netns.ping(db.four, seconds=0.4), what="the policy holds")
        write(node, [DB])
        until(lambda: web.netns.ping(db.four, seconds=0.4), what="the edited policy holds")
        write(node, [DB | {"ingress": [{}]}])
        write(node, [DB | {"name": "x", "ingress": []}], "second.json.tmp")
        assert web.reaches(db)
        write(node, [DB | {"ingress": []}])
        until(lambda: not web.netns.ping(db.four, seconds=0.4), what="the third policy holds")
        node.path("/etc/mesokit/policy.d/p.json").unlink()
        until(lambda: web.netns.ping(db.four, seconds=0.4), what="no policy holds")


def test_the_service_makes_again_what_was_flushed_and_says_what_passed(node: Node, ours: str) -> None:
    """Measured by nft itself: from the flush to the chain is less than a second on an idle machine."""
    db, web = (Box(node, ours, name, conf("groups"), role=name) for name in ("db", "web"))
    running = node.popen([MESOKIT, "node"])
    until(node.path("/run/mesokit/node.sock").is_socket, what="the node service listens")
    time.sleep(1)  # its first look is over
    assert not web.reaches(db)
    pinging = web.netns.popen(["python3", "-c", FLOOD, web.four, db.four])
    script = (
        "nft flush ruleset; begin=$(cut -d' ' -f1 /proc/uptime); "
        f"until nft get element inet mesokit policy_in4 '{{ {db.four} }}' "
        "> /dev/null 2>&1; do sleep 0.01; done; "
        "end=$(cut -d' ' -f1 /proc/uptime); echo $begin $end"
    )
    begin, end = map(float, node.shell(script).split())
    pinging.kill()
    assert end - begin < 10
    until(lambda: not web.netns.ping(db.four, seconds=0.4), what="the policy holds again")
    running.kill(signal.SIGTERM)
    told = running.wait(30).stderr.decode()
    assert "policy: somebody removed it from nf_tables" in told
    assert f"{web.four} to {db.four} protocol 17 port 9000" in told


FLOOD = """
import socket, sys, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.bind((sys.argv[1], 0))
    while True:
        try:
            s.sendto(b"x", (sys.argv[2], 9000))
        except OSError:
            pass
        time.sleep(0.001)
"""
