"""`mesokit update` against whoever gives it wrong values: each refusal is a sentence that names the key, the
value and the way out, a dry run says the same as the real one, and nothing is changed."""

from __future__ import annotations

import json
import re

from netns_tests import flow
from netns_tests.case import local
from netns_tests.node import Node, started, until
from netns_tests.plugins import MESOKIT
from netns_tests.policy_box import task
from netns_tests.snapshot import assert_clean, snapshot
from netns_tests.test_update import CHAIN, PTP, attached, record
from netns_tests.test_update_crash import agent

#: Words that one cannot write, and what is said.
WRONG = {
    "mtu=0": "mtu is '0', which is not an MTU: the smallest is 68, with IPv6 1280",
    "mtu=99999": "mtu is 99999: not within 0 to 65535",
    "mtu+-=1400": "mtu+ is one value: there is no mtu+-=",
    "routes+=": "routes+= names nothing",
    "routes-=": "routes-= names nothing",
    "routes+=10.0.0.0/8,10.0.0.0/8": "routes+= has '10.0.0.0/8' twice",
    "routes+=10.50.0.0/16@": "routes is '10.50.0.0/16@', which is not a route with its gateway behind '@'",
    "routes+=127.0.0.0/8": "routes is '127.0.0.0/8', which is not a network beyond the container itself",
    "routes+=10.50.0.0/16@0.0.0.0": "which is not a route whose gateway can be one",
    "routes+=10.50.0.0/16@224.0.0.1": "which is not a route whose gateway can be one",
    "gateway=": "gateway names nothing",
    "gateway=10.9.0.5,10.9.0.6": "gateway is '10.9.0.5,10.9.0.6', which is not one address of each family",
    "addresses+=": "addresses+= names nothing",
    "addresses+=10.9.0.5/24,10.9.0.5/24": "addresses+= has '10.9.0.5/24' twice",
    "sysctl.net.core.somaxconn=": "sysctl.net.core.somaxconn is '', which is not a value",
    "ports+=8080:80:80": "ports is '8080:80:80', which is not a mapping like 8080:80/tcp",
    "ports+=": "ports+= names nothing",
    "mtu=1400 mtu=1300": "mtu is given twice: mtu=1300 is the second",
    "addresses+=10.9.0.7/24 addresses+=10.9.0.7/16": "addresses: 10.9.0.7 is given twice",
    "addresses+=10.9.0.7/24 addresses-=10.9.0.7": "addresses: 10.9.0.7 is given twice",
    "routes+=10.50.0.0/16@10.9.0.7 routes-=10.50.0.0/16": "routes: 10.50.0.0/16 is given twice",
    "ipMasq=true": "ipMasq cannot be changed in place: translated flows would break",
    "policy=open": "policy cannot be changed in place: the default is the network's",
}
#: Words of which an attachment tells why they cannot be.
CANNOT = {
    "mtu=1279": "mtu is 1279, and below 1280 (RFC 8200)",
    "routes+=10.9.0.0/24": "routes+=10.9.0.0/24: the container is in that network itself",
    "routes+=10.50.0.0/16@192.0.2.1": "gateway 192.0.2.1 is not in 10.9.0.0/24, where the container is",
    "routes+=10.50.0.0/16@10.9.0.2": "gateway 10.9.0.2 is the container's own address",
    "routes+=10.50.0.0/16@10.9.0.255": "gateway 10.9.0.255 cannot be one: it is the broadcast address of",
    "gateway=10.9.0.0": "gateway 10.9.0.0 cannot be one: it is the network's address of 10.9.0.0/24",
    "gateway=10.9.0.2": "gateway 10.9.0.2 is the container's own address",
    "gateway=fd00:9::": "cannot be one: it is the routers' anycast (RFC 4291) address of fd00:9::/64",
    "addresses+=10.9.0.0/24": "addresses+=10.9.0.0/24: it is the network's address of 10.9.0.0/24",
    "addresses+=10.9.0.255/24": "it is the broadcast address of 10.9.0.0/24",
    "addresses+=fd00:9::/64": "it is the routers' anycast (RFC 4291) address of fd00:9::/64",
    "addresses+=127.0.0.2/8": "it is a loopback address",
    "addresses+=224.0.0.5/4": "it is a multicast address",
    "addresses+=ff02::5/64": "it is a multicast address",
    "addresses+=fe80::5/64": "the kernel gives an interface its link-local address itself",
    "addresses+=0.0.0.0/0": "it is the unspecified address",
    "addresses+=255.255.255.255/32": "it is everybody's address",
    "addresses+=10.9.0.3/24": "address 10.9.0.3 is in use by container c2",
    "dns.nameservers=": "dns.nameservers names nobody: the container's resolver would ask 127.0.0.1",
    "dns.nameservers=1.2.3": "dns.nameservers has '1.2.3', which is not an address",
    "dns.nameservers=fe80::1%eth0": "dns.nameservers has 'fe80::1%eth0', which is not an address",
    "dns.search=a\nnameserver 6.6.6.6": "dns.search has 'a\\nnameserver 6.6.6.6': a word of ASCII",
    "dns.search=łł.example": "dns.search has 'łł.example': a word of ASCII, other names in their xn-- form",
    "dns.options=a b": "dns.options has 'a b': a word of ASCII",
    "dns.domain=x\ny": "dns.domain has 'x\\ny'",
    "sysctl.net/core/../../kernel/hostname=x": "is not one of the network's",
    "sysctl.net.ipv6.conf.eth0.disable_ipv6=1": "it takes fd00:9::2 away: see addresses-=",
    "sysctl.net.ipv4.ip_local_port_range=1 2": "is not in /etc/cni/tuning/allowlist.conf",
    "ingressBurst=99999999999999": "ingressBurst is 99999999999999: not within 0 to 34359738360",
    "ingressBurst=0": "ingressRate is 800000000 and ingressBurst 0: a rate needs its burst",
    "latency=0": "latency is 0: not within 1 to 10000",
    "latency=99999999999": "latency is 99999999999: not within 1 to 10000",
    "ports+=[::1]:8081:80": "IPv6 has no route_localnet; use 127.0.0.1, or leave hostIP out",
    "ports+=224.0.0.1:99:80": "a multicast address",
    "ports+=7070:80,7070:81": "hostPort is 7070, which portMappings[",
    "ports+=2222:22": "host port 2222/tcp is in use: ",
    "ports+=31999:80": "host port 31999 is one of reservedHostPorts (31999)",
    "ports-=1.2.3.4:8080": "ports-=8080/tcp: it is not published",
}


def test_wrong_values_are_refused_before_anything_is_changed(node: Node, ours: str) -> None:
    agent(node)
    other = node.netns("c2")
    allowlist = node.path("/etc/cni/tuning/allowlist.conf")
    allowlist.parent.mkdir(parents=True, exist_ok=True)
    allowlist.write_text("somaxconn\ndisable_ipv6\nhostname\n")
    bridge_, tuning, bandwidth, portmap = CHAIN["plugins"]
    conf = CHAIN | {"args": task(["web"], {})}
    conf |= {"plugins": [bridge_, tuning, bandwidth, portmap | {"reservedHostPorts": [31999]}]}
    with (
        started(node.popen([*flow.PROGRAM, "serve", "2222"])) as server,
        attached(node, ours, conf) as (box, _),
    ):
        until(lambda: b"ready" in server.output(), what="a program of the host listens")
        node.cni("ADD", f"{ours}/chain", conf | {"runtimeConfig": {}}, "c2", other).ok()
        before, old = snapshot(node, [box]), _own(node)
        other_words: list[tuple[object, ...]] = []
        for word, told in WRONG.items():
            done = node.run([MESOKIT, "update", "c1", *word.split()], check=False)
            if done.status != 1 or told not in done.stderr.decode():
                other_words.append((word, done.status, done.stderr))
        for word, told in CANNOT.items():
            answers = [
                node.run([MESOKIT, "update", "c1", word, "--json", *more], check=False)
                for more in (["--dry-run"], [])
            ]
            said = ["; ".join(json.loads(each.text)[0]["problems"]) for each in answers]
            if said[0] != said[1] or told not in said[0]:
                other_words.append((word, said))
        assert not other_words, other_words
        for flag in ("--disrupt", "--force"):
            done = node.run([MESOKIT, "update", "c1", "mtu=1400", "--dry-run", flag])
            assert "would change" in done.text
        # What only the kernel knows is found by trying, and taken back.
        for word in ("sysctl.net.core.somaxconn=x", "sysctl.net.core.somaxconn=99999999999999"):
            done = node.run([MESOKIT, "update", "c1", word], check=False)
            assert b"Invalid argument" in done.stderr, word
        allowlist.write_text("ip_forward\n")
        done = node.run([MESOKIT, "update", "c1", "sysctl.net.ipv4.ip_forward=1 2 3"], check=False)
        assert b"ip_forward" in done.stderr
        assert _own(node) == old
        allowlist.write_text("somaxconn\ndisable_ipv6\nhostname\n")
        allowed = [r"file /run/mesokit/attachments/"]
        assert_clean(node, before, "refused", boxes=[box], allowed=allowed)
        for word in ("ingressRate=800000000", "mtu=1500", "gateway=10.9.0.1", "macspoofchk=false"):
            (same,) = json.loads(node.run([MESOKIT, "update", "c1", word, "--json"]).text)
            assert not same["operations"], word
        node.cni("DEL", f"{ours}/chain", conf | {"runtimeConfig": {}}, "c2", other).ok()


def _own(node: Node) -> dict[str, object]:
    """The record of c1, which was made first."""
    return record(node, "c1")


def test_every_address_of_the_host_is_no_address(node: Node, ours: str) -> None:
    """hostIP 0.0.0.0 is all of IPv4, as with an ADD; the port is taken away again as it was given."""
    with attached(node, ours, CHAIN | {"runtimeConfig": {}}) as (_, _told):
        node.run([MESOKIT, "update", "c1", "ports+=0.0.0.0:9090:90,[::]:9091:91"])
        rules = node.run(["nft", "list", "table", "inet", "mesokit"]).text
        leads = set(re.findall(r"tcp \. (909\d) .* : (\S+ \. 9\d) }", rules))
        assert leads == {("9090", "10.9.0.2 . 90"), ("9091", "fd00:9::2 . 91")}
        listed = json.loads(node.run([MESOKIT, "inspect", "c1", "--json"]).text)["items"][0]["config"]
        mappings = listed["runtimeConfig"]["portMappings"]
        assert {item["hostIP"] for item in mappings} == {"0.0.0.0", "::"}
        node.run([MESOKIT, "update", "c1", "ports-=9090,[::]:9091"])
        assert "9090" not in node.run(["nft", "list", "ruleset"]).text


def test_a_routed_containers_gateway_is_the_hosts_end(node: Node, ours: str) -> None:
    with attached(node, ours, PTP):
        done = node.run([MESOKIT, "update", "c1", "routes+=10.50.0.0/16@10.9.0.9"], check=False)
        assert b"gateway 10.9.0.9 is not in 10.9.0.1/32" in done.stderr
        node.run([MESOKIT, "update", "c1", "routes+=10.50.0.0/16@10.9.0.1"])


#: What a task may do to its own network, and what an update of its interface says.
SPITE = {
    "ip link set eth0 down; ip link set eth0 name x0; ip link set x0 up": "has no interface eth0 any more",
    "ip link set eth0 name x0; ip link add eth0 type veth peer name y0": "is not the interface that",
    "ip link del eth0": "has no interface eth0 any more",
    "ip link set eth0 down": "eth0 of the container is down",
    "ip addr flush dev eth0": "does not have 10.9.0.2, fd00:9::2 any more",
    "sysctl -qw net.ipv6.conf.all.disable_ipv6=1": "does not have fd00:9::2 any more",
}
INSIDE = ["gateway=10.9.0.254", "routes+=10.40.0.0/16"]


def test_what_a_task_took_away_is_told_and_its_del_comes_through(node: Node, ours: str) -> None:
    before = snapshot(node)
    for act, told in SPITE.items():
        box = node.netns("c1")
        node.cni("ADD", f"{ours}/chain", CHAIN, "c1", box).ok()
        box.run(["sh", "-c", act])
        for word in INSIDE:
            answers = [
                json.loads(node.run([MESOKIT, "update", "c1", word, "--json", *more], check=False).text)[0]
                for more in (["--dry-run"], [])
            ]
            assert answers[0]["problems"] == answers[1]["problems"], act
            assert told in "; ".join(answers[0]["problems"]), (act, answers)
        # What is the host's is changed all the same.
        node.run([MESOKIT, "update", "c1", "ports+=9090:90"])
        node.cni("DEL", f"{ours}/chain", CHAIN, "c1", box).ok()
        box.delete()
        assert_clean(node, before, act)
        node.run(["rm", "-r", "/var/lib/cni/networks/net"], check=False)


#: Of a container that has IPv6 alone.
CANNOT6 = {
    "mtu=1279": "mtu is 1279, and below 1280 (RFC 8200)",
    "gateway=10.9.0.1": "gateway 10.9.0.1: the container has no IPv4 address",
    "routes+=10.0.0.0/8": "routes+=10.0.0.0/8: the container has no IPv4 address",
    "ports+=0.0.0.0:9090:90": "ports+=9090: the container has no IPv4 address to publish it for",
    "ports+=127.0.0.1:9090:90": "ports+=9090: the container has no IPv4 address to publish it for",
    "sysctl.net.ipv6.conf.IFNAME.mtu=1200": "IPv6 has no packets below 1280 (RFC 8200)",
    "addresses-=fd00:9::2": "the last one cannot be taken away: detach the container instead",
    "addresses+=fd00:9::/64": "it is the routers' anycast",
}


def test_a_container_with_ipv6_alone(node: Node, ours: str) -> None:
    bridge_, tuning, _, portmap = CHAIN["plugins"]
    ipam = local("fd00:9::/64", routes=[{"dst": "fd00:30::/32"}])
    conf = CHAIN | {"plugins": [bridge_ | {"ipam": ipam}, tuning, portmap]}
    with attached(node, ours, conf) as (box, _):
        old = record(node)
        for word, told in CANNOT6.items():
            answers = [
                node.run([MESOKIT, "update", "c1", word, "--json", *more], check=False).text
                for more in (["--dry-run"], ["--disrupt"])
            ]
            said = ["; ".join(json.loads(each)[0]["problems"]) for each in answers]
            assert said[0] == said[1] and told in said[0], (word, said)
        assert record(node) == old
        words = ["mtu=1280", "addresses+=fd00:9::77/64", "gateway=fe80::1", "routes+=fd00:40::/32@fd00:9::9"]
        node.run([MESOKIT, "update", "c1", *words, "ports+=[::]:9090:90"])
        assert "default via fe80::1 dev eth0" in box.run(["ip", "-6", "route"]).text
        assert "tentative" not in box.run(["ip", "-6", "addr"]).text
        assert node.ping("fd00:9::77")
