"""portmap on real packets: who reaches a published port, from where, by which backend; and what is left."""

from __future__ import annotations

from typing import Any

import pytest

from netns_tests.by_hand import (
    OURS,
    TCP,
    UDP,
    bridge,
    call,
    conf,
    container,
    elements,
    rules,
    serving,
    unfilter_bridges,
)
from netns_tests.case import bridge as bridge_on
from netns_tests.case import local
from netns_tests.node import Netns, Node
from netns_tests.plugins import TOP
from netns_tests.runtime import Attachment, network
from netns_tests.snapshot import assert_clean, residue, snapshot
from netns_tests.traffic import ask, server

BACKENDS = ("nftables", "iptables")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_published_port_is_reached_from_everywhere(node: Node, plugins: str, backend: str) -> None:
    world = node.uplink()
    bridge(node)
    first, second = container(node, 2), container(node, 3)
    before = snapshot(node)
    document = conf(first, [TCP, UDP], backend=backend)
    assert call(node, plugins, "ADD", first, document).ok()["ips"] == first.result["ips"]
    with serving(first):
        for protocol, port in (("tcp", 8080), ("udp", 8053)):
            assert ask(world, protocol, "192.0.2.2", port) == "192.0.2.1"
            assert ask(world, protocol, "2001:db8::2", port) == "2001:db8::1"
            assert ask(node, protocol, "192.0.2.2", port) == "192.0.2.2"
            assert ask(node, protocol, "2001:db8::2", port) is not None
            assert ask(node, protocol, "127.0.0.1", port) == "10.88.0.1"
            assert ask(second.box, protocol, "192.0.2.2", port) == "10.88.0.1"
            assert ask(second.box, protocol, "2001:db8::2", port) == "fd88::1"
            assert ask(first.box, protocol, "10.88.0.1", port) == "10.88.0.1"
            assert ask(first.box, protocol, "fd88::1", port) == "fd88::1"
        assert call(node, plugins, "CHECK", first, document).code == 0
        assert call(node, plugins, "DEL", first, document).code == 0
        assert ask(world, "tcp", "192.0.2.2", 8080, seconds=0.3) is None
    assert elements(node) == []
    shared = [r"node: nft [^=]*ip6? nat"]
    assert residue(node, before, allowed=shared) == []


def test_who_may_have_a_port(node: Node) -> None:
    """Another container's port is refused by name, across addresses and families, and is free after DEL."""
    bridge(node)
    first, second = container(node, 2), container(node, 3)
    document = conf(first, [TCP, {"hostPort": 9000, "containerPort": 90, "hostIP": "10.88.0.1"}])
    assert call(node, OURS, "ADD", first, document).code == 0
    before = snapshot(node)

    def refused(mapping: dict[str, Any]) -> None:
        answer = call(node, OURS, "ADD", second, conf(second, [{"hostPort": 7, "containerPort": 7}, mapping]))
        assert answer.error is not None
        assert answer.code == 103
        assert f"host port {mapping['hostPort']}/tcp" in answer.error["msg"]
        assert "container cid2 (network web, interface eth0)" in answer.error["msg"]

    refused(TCP)
    refused(TCP | {"hostIP": "10.88.0.1"})
    refused(TCP | {"hostIP": "fd88::1"})
    refused({"hostPort": 9000, "containerPort": 1})
    refused({"hostPort": 9000, "containerPort": 1, "hostIP": "0.0.0.0"})
    assert residue(node, before) == []
    free = [TCP | {"protocol": "udp"}, {"hostPort": 9000, "containerPort": 1, "hostIP": "fd88::1"}]
    assert call(node, OURS, "ADD", second, conf(second, free)).code == 0
    assert call(node, OURS, "DEL", second, conf(second, free)).code == 0
    assert call(node, OURS, "DEL", first, {"cniVersion": "1.0.0", "name": "web", "type": "portmap"}).code == 0
    assert call(node, OURS, "ADD", second, conf(second, [TCP])).code == 0


def test_a_claim_without_an_attachment_counts_for_nothing(node: Node) -> None:
    bridge(node)
    first, second = container(node, 2), container(node, 3)
    assert call(node, OURS, "ADD", first, conf(first, [TCP | {"hostIP": "10.88.0.1"}])).code == 0
    node.shell("rm -r /run/mesokit/attachments")
    assert call(node, OURS, "ADD", second, conf(second, [TCP])).code == 0


def test_host_ip_confines_a_port(node: Node) -> None:
    world = node.uplink()
    bridge(node)
    first, second = container(node, 2), container(node, 3)
    at = {"hostPort": 8080, "containerPort": 80}
    assert call(node, OURS, "ADD", first, conf(first, [at | {"hostIP": "192.0.2.2"}])).code == 0
    assert call(node, OURS, "ADD", second, conf(second, [at | {"hostIP": "2001:db8::2"}])).code == 0
    with server(first.box, "tcp", 80), server(second.box, "tcp", 80):
        assert ask(world, "tcp", "192.0.2.2", 8080) == "192.0.2.1"
        assert ask(world, "tcp", "2001:db8::2", 8080) == "2001:db8::1"
        assert ask(node, "tcp", "10.88.0.1", 8080, seconds=0.3) is None
        assert ask(node, "tcp", "fd88::1", 8080, seconds=0.3) is None


@pytest.mark.parametrize(
    ("keys", "seen", "neighbour"),
    [
        ({"snat": False, "backend": "nftables"}, "192.0.2.1", None),
        ({"snat": False, "backend": "iptables"}, "192.0.2.1", None),
        ({"masqAll": True, "backend": "nftables"}, "10.88.0.1", "10.88.0.1"),
        ({"masqAll": True, "backend": "iptables"}, "10.88.0.1", "10.88.0.1"),
    ],
)
def test_whose_address_the_container_sees(
    node: Node, keys: dict[str, Any], seen: str, neighbour: str | None
) -> None:
    unfilter_bridges(node)
    world = node.uplink()
    bridge(node)
    first, second = container(node, 2), container(node, 3)
    assert call(node, OURS, "ADD", first, conf(first, [TCP], **keys)).code == 0
    with server(first.box, "tcp", 80):
        assert ask(world, "tcp", "192.0.2.2", 8080) == seen
        wait = 3 if neighbour else 0.3
        assert ask(second.box, "tcp", "192.0.2.2", 8080, seconds=wait) == neighbour
        assert ask(node, "tcp", "127.0.0.1", 8080, seconds=wait) == neighbour


@pytest.mark.parametrize(
    "conditions",
    [
        {"conditionsV4": ["ip", "saddr", "!=", "192.0.2.1"], "conditionsV6": ["ip6", "saddr", "2001:db8::1"]},
        {"conditionsV4": ["!", "-s", "192.0.2.1"], "conditionsV6": ["-s", "2001:db8::1"]},
    ],
    ids=BACKENDS,
)
def test_conditions_of_either_backend(node: Node, conditions: dict[str, Any]) -> None:
    world = node.uplink()
    bridge(node)
    first, second = container(node, 2), container(node, 3)
    assert call(node, OURS, "ADD", first, conf(first, [TCP], **conditions)).code == 0
    many = [{"hostPort": 3000, "containerPort": 80}]
    count = rules(node)
    assert call(node, OURS, "ADD", second, conf(second, many, **conditions)).code == 0
    assert rules(node) == count or conditions["conditionsV4"][0] == "!"
    with server(first.box, "tcp", 80):
        assert ask(world, "tcp", "192.0.2.2", 8080, seconds=0.3) is None
        assert ask(world, "tcp", "2001:db8::2", 8080) == "2001:db8::1"
        assert ask(node, "tcp", "192.0.2.2", 8080) == "192.0.2.2"
    previous = conf(first, [TCP], **conditions)
    assert call(node, OURS, "CHECK", first, previous).code == 0
    node.shell("rm -r /run/mesokit/attachments")
    keep = {"cniVersion": "1.1.0", "cni.dev/valid-attachments": [{"containerID": "cid3", "ifname": "eth0"}]}
    if conditions["conditionsV4"][0] == "ip":
        assert call(node, OURS, "GC", first, conf(None, [], **conditions) | keep).code == 0
        assert "id: cid2" not in " ".join(elements(node))
        assert "id: cid3" in " ".join(elements(node))


def test_neighbours_are_kept_out_of_the_hosts_loopback(node: Node) -> None:
    """route_localnet, which 127.0.0.1 needs, opens the host's loopback to the bridge; the guard shuts it."""
    bridge(node)
    first, second = container(node, 2), container(node, 3)
    second.box.run(["ip", "route", "add", "127.0.0.9/32", "via", "10.88.0.1", "src", second.v4])
    second.box.run(["ip", "route", "del", "table", "local", "local", "127.0.0.0/8", "dev", "lo"])
    second.box.run(["sh", "-c", "echo 1 >/proc/sys/net/ipv4/conf/eth0/route_localnet"])
    setting = "/proc/sys/net/ipv4/conf/br0/route_localnet"
    with server(Netns(node, "/proc/1/ns/net"), "tcp", 7000):
        node.shell(f"echo 1 >{setting}")
        assert ask(second.box, "tcp", "127.0.0.9", 7000) is not None
        node.shell(f"echo 0 >{setting}")
        assert call(node, OURS, "ADD", first, conf(first, [TCP])).code == 0
        assert node.shell(f"cat {setting}").strip() == "1"
        assert ask(second.box, "tcp", "127.0.0.9", 7000, seconds=0.5) is None
        assert call(node, OURS, "ADD", second, conf(second, [UDP])).code == 0
        assert call(node, OURS, "DEL", first, conf(first, [TCP])).code == 0
        assert node.shell(f"cat {setting}").strip() == "1"
        assert call(node, OURS, "DEL", second, conf(second, [UDP])).code == 0
        assert node.shell(f"cat {setting}").strip() == "0"


def test_udp_flows_follow_the_port(node: Node) -> None:
    """A client that never stops sending from one port meets the container that has the host's port now."""
    world = node.uplink()
    bridge(node)
    first, second = container(node, 2), container(node, 3)
    talk = (
        "import socket,sys\n"
        "s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);s.bind(('',5555));s.settimeout(0.3)\n"
        "s.sendto(b'x',('192.0.2.2',8053))\n"
        "try: print(s.recv(99).decode())\n"
        "except OSError: print('nobody')\n"
    )

    def said() -> str:
        return world.run(["/usr/bin/python3", "-I", "-S", "-c", talk]).text.strip()

    answering = (
        "import socket,sys\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);s.bind(('',53))\n"
        "print('ready',flush=True)\n"
    )
    answering += "while True:\n d,a=s.recvfrom(99);s.sendto(sys.argv[1].encode(),a)\n"
    running = [
        item.box.popen(["/usr/bin/python3", "-I", "-S", "-c", answering, f"cid{item.number}"])
        for item in (first, second)
    ]
    for process in running:
        while b"ready" not in process.output():
            pass
    assert said() == "nobody"
    assert call(node, OURS, "ADD", first, conf(first, [UDP])).code == 0
    assert said() == "cid2"
    assert call(node, OURS, "DEL", first, conf(first, [UDP])).code == 0
    assert "10.88.0.2" not in node.shell("conntrack -L -p udp 2>/dev/null || true")
    assert call(node, OURS, "ADD", second, conf(second, [UDP])).code == 0
    assert said() == "cid3"


@pytest.mark.parametrize(
    ("mapping", "complaint"),
    [
        ({"hostPort": 70000, "containerPort": 80}, "portMappings[0].hostPort is 70000"),
        ({"hostPort": 80, "containerPort": 0}, "portMappings[0].containerPort is 0"),
        ({"hostPort": 80, "containerPort": 80, "protocol": "icmp"}, "portMappings[0].protocol is 'icmp'"),
        ({"hostPort": 80, "containerPort": 80, "hostIP": "here"}, "portMappings[0].hostIP is 'here'"),
    ],
)
def test_a_bad_mapping_changes_nothing(node: Node, mapping: dict[str, Any], complaint: str) -> None:
    """Nor does its delegate get to change anything."""
    bridge(node)
    first = container(node, 2)
    before = snapshot(node)
    delegate = {"type": "bridge", "bridge": "never0", "ipam": {"type": "host-local", "subnet": "10.9.0.0/24"}}
    for document in (conf(first, [mapping]), conf(None, [mapping], delegate=delegate)):
        answer = call(node, OURS, "ADD", first, document)
        assert answer.error is not None
        assert complaint in answer.error["msg"] + answer.error.get("details", "")
    assert residue(node, before) == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_node_changes_over_in_either_direction(node: Node, reference: str, backend: str) -> None:
    """What the reference portmap published ours takes down, and the reverse (iptables)."""
    bridge(node)
    first = container(node, 2)
    document = conf(first, [TCP, UDP], backend="iptables")
    assert call(node, reference, "ADD", first, document).code == 0
    assert "cid2" in node.shell("iptables-save -t nat; ip6tables-save -t nat")
    assert call(node, OURS, "CHECK", first, document | {"backend": backend}).code == 0
    bare = {"cniVersion": "1.0.0", "name": "web", "type": "portmap", "backend": backend}
    assert call(node, OURS, "DEL", first, bare).code == 0
    left = node.shell("iptables-save -t nat; ip6tables-save -t nat")
    assert "cid2" not in left
    assert "CNI-DN-" not in left
    assert call(node, OURS, "ADD", first, document).code == 0
    assert call(node, reference, "DEL", first, document).code == 0
    left = node.shell("iptables-save -t nat; ip6tables-save -t nat")
    assert "CNI-DN-" not in left
    assert call(node, OURS, "DEL", first, document).code == 0


@pytest.mark.parametrize("families", [(4,), (4, 6)])
def test_iptables_rules_are_the_references(node: Node, reference: str, families: tuple[int, ...]) -> None:
    """Rule by rule. With a hostIP on a dual-stack container they differ by a jump that the reference adds for
    the family which has nothing to map."""
    bridge(node)
    first = container(node, 2, families)
    mappings: list[dict[str, Any]] = [
        TCP,
        UDP | ({"hostIP": "10.88.0.1"} if families == (4,) else {}),
        *(
            {"hostPort": 2000 + number, "containerPort": number + 1, "protocol": "tcp"}
            for number in range(17)
        ),
    ]
    document = conf(first, mappings, backend="iptables", conditionsV4=["!", "-d", "192.0.2.9"], markMasqBit=9)
    seen = []
    for plugins in (reference, OURS):
        assert call(node, plugins, "ADD", first, document).code == 0
        text = node.shell("iptables-save -t nat; ip6tables-save -t nat")
        seen.append(sorted(line for line in text.splitlines() if line.startswith("-A ")))
        assert call(node, plugins, "DEL", first, document).code == 0
    assert seen[0] == seen[1]


def test_the_port_mapper_of_mesos(node: Node) -> None:
    """Its configuration, with port mappings the way an agent passes them, and its excluded devices."""
    world = node.uplink()
    bridge(node)
    first, second = container(node, 2), container(node, 3)
    static = {"type": "static", "addresses": [{"address": f"{first.v4}/24"}]}
    document = {
        "name": "web",
        "type": "mesos-cni-port-mapper",
        "chain": "MESOS-PORTS",
        "excludeDevices": ["br0"],
        "delegate": static,
        "args": {
            "org.apache.mesos": {
                "network_info": {"name": "web", "port_mappings": [{"host_port": 8080, "container_port": 80}]}
            }
        },
    }
    no_chain = {key: value for key, value in document.items() if key != "chain"}
    refused = call(node, OURS, "ADD", first, no_chain)
    assert refused.error is not None
    assert "'chain' is missing" in refused.error["msg"]
    document["delegate"] = {"type": "bridge", "bridge": "br0", "ipam": static}
    first.box.run(["ip", "link", "del", "eth0"])
    answer = call(node, OURS, "ADD", first, document).ok()
    assert answer["ip4"]["ip"] == f"{first.v4}/24"
    first.box.run(["ip", "route", "add", "default", "via", "10.88.0.1"])
    with server(first.box, "tcp", 80):
        assert ask(world, "tcp", "192.0.2.2", 8080) == "192.0.2.1"
        assert ask(second.box, "tcp", "192.0.2.2", 8080, seconds=0.3) is None
    assert call(node, OURS, "DEL", first, document).code == 0
    assert elements(node) == []
    assert node.shell("find /run/mesokit/claims /run/mesokit/attachments -type f") == ""


def test_two_hundred_containers_meet_the_rules_of_one(node: Node) -> None:
    bridge(node)
    first, second = container(node, 2), container(node, 3)
    assert call(node, OURS, "ADD", first, conf(first, [TCP])).code == 0
    one = rules(node)
    many = [{"hostPort": 3000 + number, "containerPort": 80} for number in range(200)]
    assert call(node, OURS, "ADD", second, conf(second, many)).code == 0
    assert rules(node) == one
    assert len(elements(node)) > 400
    assert call(node, OURS, "DEL", second, conf(second, many)).code == 0
    assert call(node, OURS, "DEL", first, conf(first, [TCP])).code == 0
    assert elements(node) == []
    assert "answer_10" not in node.shell("nft list ruleset")


def test_gc_removes_what_no_record_covers(node: Node, plugins: str) -> None:
    bridge(node)
    first, second = container(node, 2), container(node, 3)
    for target, port in ((first, 8080), (second, 8081)):
        mapping = {"hostPort": port, "containerPort": 80}
        assert call(node, OURS, "ADD", target, conf(target, [mapping])).code == 0
    node.shell("rm -r /run/mesokit/attachments")
    keep = [{"containerID": "cid3", "ifname": "eth0"}]
    document = {"cniVersion": "1.1.0", "name": "web", "type": "portmap", "cni.dev/valid-attachments": keep}
    assert node.cni("GC", f"{plugins}/portmap", document).code == 0
    assert "id: cid2" not in " ".join(elements(node))
    assert "id: cid3" in " ".join(elements(node))
    assert "cid2" not in node.shell("grep -r . /run/mesokit/claims")
    assert node.cni("STATUS", f"{plugins}/portmap", document).code == 0


def test_a_chain_that_sets_the_mark_is_the_operators(node: Node, plugins: str) -> None:
    """Without it no rule could be written: the call says so, and leaves nothing."""
    box = node.netns("c1")
    conf = {
        "cniVersion": "1.0.0",
        "name": "net",
        "type": "portmap",
        "backend": "iptables",
        "externalSetMarkChain": "SITE-MARK",
        "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]},
        "delegate": {
            "type": "bridge",
            "isDefaultGateway": True,
            "ipam": {"type": "host-local", "subnet": "10.9.0.0/24"},
        },
    }
    before = snapshot(node)
    refused = node.cni("ADD", f"{plugins}/portmap", conf, "c1", box)
    assert refused.code == 7
    assert refused.error is not None and "externalSetMarkChain is 'SITE-MARK'" in refused.error["msg"]
    assert node.cni("DEL", f"{plugins}/portmap", conf, "c1", box).code == 0
    assert not residue(node, before)
    node.shell("iptables -w -t nat -N SITE-MARK; ip6tables -w -t nat -N SITE-MARK")
    node.cni("ADD", f"{plugins}/portmap", conf, "c1", box).ok()
    assert "-j SITE-MARK" in node.shell("iptables -w -t nat -S")
    assert node.cni("DEL", f"{plugins}/portmap", conf, "c1", box).code == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_port_of_a_container_on_two_networks(node: Node, plugins: str, backend: str) -> None:
    """The runtime asks for the same ports on each network, as podman does: the first one has them, also after
    the rules were flushed, and the second one from when the first is left. Nobody else gets them meanwhile.
    """
    world = node.uplink()
    box = node.netns("c1")
    before = snapshot(node, [box])
    asked = {"portMappings": [TCP, UDP]}
    portmap = {"type": "portmap", "backend": backend, "capabilities": {"portMappings": True}}

    def on(name: str, number: int, cid: str = "c1", into: Netns = box) -> Attachment:
        lan = bridge_on(local(f"10.9.{number}.0/24"), bridge=f"br{number}", isGateway=True)
        config = network([lan, portmap], name=name, version="1.1.0")
        return Attachment(node, plugins, config, cid, into, ifname=f"eth{number}", capabilities=asked)

    first, second = on("first", 1), on("second", 2)
    assert first.add().error is None and second.add().error is None
    for number in (1, 2):
        box.run(["ip", "route", "add", "default", "via", f"10.9.{number}.1", "metric", f"{number}"])
    with server(box, "tcp", 80):
        assert ask(world, "tcp", "192.0.2.2", 8080) == "192.0.2.1"
        assert first.check().error is None and second.check().error is None
        if backend == "iptables":
            node.run(["iptables", "--table", "nat", "--flush", "CNI-HOSTPORT-DNAT"])
        else:
            node.run(["nft", "flush", "ruleset"])
        node.run([f"{TOP}/.venv/bin/mesokit", "reload"])
        assert ask(world, "tcp", "192.0.2.2", 8080) == "192.0.2.1"
        assert first.check().error is None and second.check().error is None
        assert first.delete().error is None
        assert ask(world, "tcp", "192.0.2.2", 8080) == "192.0.2.1"
        assert second.check().error is None
        stranger = on("second", 2, "c2", node.netns("c2")).add()
        assert stranger.code == 103 and "container c1" in str(stranger.error)
        again = on("first", 1)
        assert again.add().error is None
        box.run(["ip", "route", "add", "default", "via", "10.9.1.1", "metric", "1"])
        assert second.delete().error is None
        assert ask(world, "tcp", "192.0.2.2", 8080) == "192.0.2.1"
        assert again.check().error is None
    assert again.delete().error is None
    assert on("second", 2, "c2", Netns(node, "c2")).delete().error is None
    Netns(node, "c2").delete()
    assert_clean(node, before, boxes=[box])
