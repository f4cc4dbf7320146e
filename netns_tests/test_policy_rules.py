"""What a rule of a policy says is what real packets meet: names, labels, networks, ports, protocols, ends."""

from __future__ import annotations

import json
from typing import Any

from netns_tests.node import Node, started, until
from netns_tests.plugins import MESOKIT
from netns_tests.policy_ask import BEHIND, asks_for_neighbours, behind, passes, serving
from netns_tests.policy_box import Box, apply, conf, matrix

FOR_DB: dict[str, Any] = {"labels": {"role": "db"}}


def policy(name: str, *ingress: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return {"name": name, "for": FOR_DB, "ingress": list(ingress)} | keys


def allow(*traffic: str, peer: Any) -> dict[str, Any]:
    return {"allow": list(traffic), "from": [peer]}


def label(**labels: str | None) -> dict[str, Any]:
    return {"labels": labels}


def three(node: Node, ours: str, default: str = "open") -> tuple[Box, Box, Box]:
    db, web, other = (Box(node, ours, name, conf(default), role=name) for name in ("db", "web", "x"))
    return db, web, other


def test_groups_that_look_alike_are_others(node: Node, plugins: str) -> None:
    """In case, space or Unicode form; `check` tells of them, though no policy names any."""
    names = ("dev", "Dev", "dev ", "gr\u00fcn", "gru\u0308n")
    boxes = [Box(node, plugins, f"{at}", conf("groups"), [name]) for at, name in enumerate(names)]
    boxes.append(Box(node, plugins, "a", conf("groups"), ["dev"]))
    assert matrix(boxes) == {"0a", "a0"}
    told = node.run([MESOKIT, "policy", "check", "--json"]).json()["warnings"]
    assert told == [
        "groups 'Dev', 'dev', 'dev ' differ in case, space or form only: different groups",
        "groups 'gru\\u0308n', 'gr\\xfcn' differ in case, space or form only: different groups",
    ]


def test_a_rule_allows_exactly_what_it_says(node: Node, plugins: str) -> None:
    """In an open network, where the other way is nobody's business, and in an isolated one."""
    rule = allow("tcp/5432", peer=label(role="web"))
    ways = ("tcp/5432", "udp/5432", "tcp/5433", "icmp")
    db, web, other = three(node, plugins)
    with serving(db, web):
        apply(node, [policy("db", rule)])
        assert passes(web, db, *ways) == [True, False, False, False]
        assert passes(other, db, *ways) == [False] * 4
        assert passes(db, web, *ways) == [True] * 4
    for box in (db, web, other):
        box.call("DEL").ok()
        box.netns.delete()
    db, web, other = three(node, plugins, "isolated")
    out = {"name": "web", "for": label(role="web"), "egress": [{"allow": ["tcp"], "to": ["any"]}]}
    apply(node, [policy("db", rule), out])
    with serving(db, web):
        assert passes(web, db, *ways) == [True, False, False, False]
        assert passes(db, web, *ways) == [False] * 4
        assert passes(other, db, *ways) == [False] * 4


def test_a_labels_key_alone_is_any_value(node: Node, ours: str) -> None:
    """The empty one too, which by itself is only itself."""
    db, none = (Box(node, ours, name, conf(), role=name) for name in ("db", "n"))
    empty, full = (Box(node, ours, f"t{tier}", conf(), tier=tier) for tier in ("", "x"))
    with serving(db):
        apply(
            node, [policy("db", allow("tcp/80", peer=label(tier=None)), allow("udp/80", peer=label(tier="")))]
        )
        assert passes(empty, db, "tcp/80", "udp/80") == [True, True]
        assert passes(full, db, "tcp/80", "udp/80") == [True, False]
        assert passes(none, db, "tcp/80", "udp/80") == [False, False]


ODD = (
    "a=b:c,d",
    "\"'`$(x)\\",
    'x" } ; flush ruleset ; add table ip pwned #',
    "v" * 4096,
    "v" * 4095 + "w",
    "\u00e9\n",
)


def test_odd_labels_match_exactly_and_do_nothing_else(node: Node, ours: str) -> None:
    db = Box(node, ours, "db", conf(), role="db")
    boxes = [Box(node, ours, f"c{at}", conf(), tier=value) for at, value in enumerate(ODD)]
    node.shell("nft add table ip theirs")
    with serving(db):
        for value, meant in zip(ODD, boxes, strict=True):
            apply(node, [policy("db", allow("tcp/80", peer=label(tier=value)))])
            near = boxes[(boxes.index(meant) + 1) % len(boxes)]
            assert [passes(box, db, "tcp/80") for box in (near, meant)] == [[False], [True]], value
    rules = node.shell("nft list ruleset")
    assert "table ip theirs" in rules and "pwned" not in rules and "vvvv" not in rules
    shown = node.run([MESOKIT, "policy", "show", "--json"]).json()
    assert [each["labels"].get("tier") for each in shown["endpoints"][1:]] == list(ODD)


ERROR = """
import socket, sys
for address in sys.argv[1:]:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(5); s.connect((address, 7000)); s.send(b"x")
        try:
            s.recv(9)
        except OSError as error:
            print(type(error).__name__)
"""


def test_egress_alone_is_the_sources_business(node: Node, ours: str) -> None:
    """Others reach the target as before, and errors about what is allowed come back to the source."""
    db, web, other = three(node, ours)
    rule = {"allow": ["udp/7000", "tcp/80"], "to": [FOR_DB]}
    apply(node, [{"name": "web", "for": label(role="web"), "egress": [rule], "ingress": []}])
    with serving(db, other):
        assert passes(other, db, "tcp/81", "udp/81", "icmp") == [True] * 3
        assert passes(web, db, "tcp/80", "tcp/81", "icmp") == [True, False, False]
        assert passes(web, other, "tcp/80", "icmp") == [False, False]
        assert (
            web.netns.run(["python3", "-c", ERROR, *db.addresses]).text.split()
            == ["ConnectionRefusedError"] * 2
        )


def test_both_ends_have_to_allow(node: Node, ours: str) -> None:
    db, web, _ = three(node, ours)
    out = {"name": "web", "for": label(role="web"), "egress": [{"allow": ["tcp/80-81"], "to": [FOR_DB]}]}
    apply(node, [policy("db", allow("tcp/79-80", peer=label(role="web"))), out])
    expected = {"tcp/80": (True, None), "tcp/79": (False, "source"), "tcp/81": (False, "target")}
    with serving(db):
        assert passes(web, db, *expected) == [allowed for allowed, _ in expected.values()]
    for traffic, (allowed, end) in expected.items():
        answers = node.run([MESOKIT, "policy", "explain", "web", "db", traffic, "--json"], check=False).json()
        assert len(answers) == 2
        assert {(each["allowed"], each.get("refusedBy") or None) for each in answers} == {(allowed, end)}


def test_who_is_excepted_from_a_cidr_is_allowed_by_a_label(node: Node, ours: str) -> None:
    """Rules add up, whichever stands first: a hole in one is no denial."""
    db, web, other = three(node, ours)
    world = behind(node)
    four = {"cidr": "10.0.0.0/8", "except": ["10.9.0.0/16", "10.9.0.0/24"]}
    six = {"cidr": "fd00::/8", "except": ["fd09::/16"]}
    rules = [{"allow": ["tcp/80"], "from": [four, six]}, allow("tcp/80", peer=label(role="web"))]
    with serving(db):
        for listed in (rules, rules[::-1]):
            apply(node, [policy("db", *listed)])
            assert [passes(each, db, "tcp/80") for each in (web, other, world)] == [[True], [False], [True]]
        holes = [{"cidr": "10.0.0.0/8", "except": [f"{BEHIND[0]}/32"]},
                 {"cidr": "fd00::/8", "except": [f"{BEHIND[1]}/128"]}]  # fmt: skip
        apply(node, [policy("db", {"allow": ["tcp/80"], "from": holes})])
        assert [passes(each, db, "tcp/80") for each in (web, other, world)] == [[True], [True], [False]]


def test_cidrs_of_one_address_and_of_all(node: Node, ours: str) -> None:
    """Containers are in them too, by their addresses; half a policy's family is no other family's."""
    db, web, other = three(node, ours)
    world = behind(node)

    def reach(*cidrs: str) -> list[list[bool]]:
        apply(node, [policy("db", {"allow": ["tcp/80"], "from": [{"cidr": each} for each in cidrs]})])
        return [passes(each, db, "tcp/80") for each in (web, other, world)]

    with serving(db):
        assert reach(f"{web.four}/32", f"{web.six}/128") == [[True], [False], [False]]
        assert reach(*(f"{each}/{32 if '.' in each else 128}" for each in BEHIND)) == [
            [False],
            [False],
            [True],
        ]
        assert reach("0.0.0.0/0", "::/0") == [[True]] * 3
        apply(node, [policy("db", allow("tcp/80", peer={"cidr": "0.0.0.0/0"}))])
        assert passes(web, [db.four], "tcp/80") == [True] and passes(web, [db.six], "tcp/80") == [False]
    told = node.run(
        [MESOKIT, "policy", "check", "/dev/stdin"],
        input=json.dumps({"policies": [policy("n", allow("any", peer={"cidr": "10.0.0.1/8"}))]}, indent=1),
        check=False,
    )
    assert told.status == 2


def test_ports_of_every_form(node: Node, ours: str) -> None:
    db, web, _ = three(node, ours)
    ways = ("tcp/1", "tcp/79", "tcp/80", "tcp/81", "tcp/65535", "udp/80")
    with serving(db):
        for traffic, expected in (
            (["tcp/1-65535"], "yyyyyn"),
            (["tcp/80"], "nnynnn"),
            (["tcp/79-80", "tcp/80-81", "tcp/80", "udp/80"], "nyyyny"),
            (["tcp/2-79", "tcp/81-65534"], "nynynn"),
            (["tcp/65535-65535", "tcp/1"], "ynnnyn"),
        ):
            apply(node, [policy("db", allow(*traffic, peer=label(role="web")))])
            assert passes(web, db, *ways) == [each == "y" for each in expected], traffic


UPLOAD = """
import socket, sys
for address in sys.argv[1:]:
    with socket.create_connection((address, 9000), 20) as s:
        s.sendall(bytes(100_000)); s.shutdown(socket.SHUT_WR)
        print(s.recv(20).decode())
"""
SINK = """
import socket
with socket.create_server(("::", 9000), family=socket.AF_INET6, dualstack_ipv6=True) as listening:
    print("ready", flush=True)
    while True:
        c, _ = listening.accept(); n = 0
        while data := c.recv(65536):
            n += len(data)
        c.sendall(b"%d" % n); c.close()
"""


def test_a_path_with_a_smaller_mtu_needs_no_icmp(node: Node, ours: str) -> None:
    """`icmp` in a rule is ping, of both families; what a router says of a flow is that flow's."""
    db, web, _ = three(node, ours)
    world, far = node.uplink(), node.netns("far")
    asks_for_neighbours(node)
    world.run(["sh", "-ec", "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1; "
               "ip link add narrow mtu 1280 type veth peer name eth0 mtu 1280 netns far; "
               "ip addr add 198.51.100.1/24 dev narrow; ip addr add 2001:db8:1::1/64 dev narrow nodad; "
               "ip link set narrow up; ip route add 10.9.0.0/24 via 192.0.2.2; "
               "ip -6 route add fd09::/64 via 2001:db8::2"])  # fmt: skip
    far.run(["sh", "-ec", "ip addr add 198.51.100.2/24 dev eth0; "
             "ip addr add 2001:db8:1::2/64 dev eth0 nodad; "
             "ip link set eth0 up; ip route add default via 198.51.100.1; "
             "ip -6 route add default via 2001:db8:1::1"])  # fmt: skip
    apply(node, [policy("db", egress=[{"allow": ["tcp/9000"], "to": ["world"]}])])
    with started(far.popen(["python3", "-c", SINK])) as sink:
        until(lambda: b"ready" in sink.output(), what="it listens")
        came = db.netns.run(["python3", "-c", UPLOAD, "198.51.100.2", "2001:db8:1::2"]).text
    assert came.split() == ["100000", "100000"]
    assert passes(web, db, "icmp") == [False]
    apply(node, [policy("db", allow("icmp", peer=label(role="web")))])
    assert passes(web, db, "icmp") == [True]


#: INIT chunks over raw sockets, to each port in turn; the checksum is CRC32c, which conntrack looks at.
SCTP = """
import socket, struct, sys
def crc(data):
    c = 0xFFFFFFFF
    for byte in data:
        c ^= byte
        for _ in range(8):
            c = c >> 1 ^ (0x82F63B78 if c & 1 else 0)
    return c ^ 0xFFFFFFFF
chunk = struct.pack(">BBHIIHHI", 1, 0, 20, 7, 65536, 1, 1, 1)
for word in sys.argv[1:]:
    address, port = word.rsplit("/", 1)
    head = lambda sum: struct.pack(">HHI", 4000, int(port), 0) + struct.pack("<I", sum)
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_RAW, 132) as s:
        s.sendto(head(crc(head(0) + chunk)) + chunk, (address, 0))
"""
HEARING_SCTP = """
import select, socket
socks = [socket.socket(family, socket.SOCK_RAW, 132) for family in (socket.AF_INET, socket.AF_INET6)]
print("ready", flush=True)
while True:
    for s in select.select(socks, [], [])[0]:
        data, peer = s.recvfrom(200)
        data = data[20:] if s is socks[0] else data
        print(f"{peer[0]}/{int.from_bytes(data[2:4], 'big')}", flush=True)
"""


def test_sctp_on_a_kernel_that_has_none(node: Node, ours: str) -> None:
    """The rule is one of nf_tables about ports, and needs no module of sockets."""
    db, web, other = three(node, ours)
    assert "SCTP" not in db.netns.run(["cat", "/proc/net/protocols"]).text
    apply(node, [policy("db", allow("sctp/9", "sctp/11-12", peer=label(role="web")))])
    with started(db.netns.popen(["python3", "-u", "-c", HEARING_SCTP])) as hearing:
        until(lambda: b"ready" in hearing.output(), what="it hears")
        for box, ports in ((other, (9, 12)), (web, (8, 10, 13, 9, 12))):
            words = [f"{address}/{port}" for address in db.addresses for port in ports]
            box.netns.run(["python3", "-c", SCTP, *words])
        # What was sent before the last one has come, or never will.
        until(lambda: f"{web.six}/12".encode() in hearing.output(), what="the last one arrives")
        came = hearing.output().decode().split()[1:]
    assert sorted(came) == sorted(f"{address}/{port}" for address in web.addresses for port in (9, 12))
