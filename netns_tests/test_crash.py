"""Killed between every two changes, whatever was begun can be finished: by DEL, by GC alone, and when the
namespace has gone too.

crash.c counts the changes that a call makes to the kernel and to files, and kills it before a chosen one.
For each plugin, ADD is killed before its first change, its second, and so on until it comes through;
likewise DEL. After each death nothing may be left.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest

from netns_tests.case import DEFAULT4, DUAL, bridge, local
from netns_tests.crash_shim import compiled, loaded
from netns_tests.node import PATH, Netns, Node, started
from netns_tests.plugins import TOP
from netns_tests.snapshot import assert_clean, snapshot
from netns_tests.warm import Warm

WORKERS = 3
NET = {"cniVersion": "1.1.0", "name": "net"}
ROUTES = [DEFAULT4, {"dst": "::/0"}]
LAN = local("192.0.2.128/25", routes=[{"dst": "10.30.0.0/16", "gw": "192.0.2.129"}])
MAPPINGS = [
    {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
    {"hostPort": 8053, "containerPort": 53, "protocol": "udp"},
]

#: Configurations that make as many different changes as their plugin can.
SCENARIOS: Mapping[str, dict[str, Any]] = {
    "bridge": bridge(
        local("10.9.0.0/24", "fd00:9::/64", routes=ROUTES),
        isDefaultGateway=True,
        ipMasq=True,
        macspoofchk=True,
        hairpinMode=True,
        mtu=1400,
    ),
    "bridge-static": bridge(
        {"type": "static", "addresses": [{"address": "10.9.0.5/24", "gateway": "10.9.0.1"}]}, isGateway=True
    ),
    "bridge-iptables": bridge(DUAL, isGateway=True, ipMasq=True, ipMasqBackend="iptables"),
    "ptp": {
        "type": "ptp",
        "ipMasq": True,
        "nptv6": {"fd00:9::/64": "2001:db8:9::/64"},
        "ipam": local("10.9.0.0/24", "fd00:9::/64", routes=ROUTES),
    },
    "macvlan": {"type": "macvlan", "master": "eth0", "mtu": 1400, "ipam": LAN},
    "macvlan-policy": {"type": "macvlan", "master": "eth0", "policy": "isolated", "ipam": LAN},
    "host-device": {"type": "host-device", "device": "spare0", "ipam": DUAL},
    "tap": {"type": "tap", "multiQueue": True, "mtu": 1400, "owner": 1000, "group": 1000, "ipam": DUAL},
    "dhcp": {"type": "macvlan", "master": "eth0", "ipam": {"type": "dhcp"}},
    "dhcp-ipv6": {
        "type": "macvlan",
        "master": "eth0",
        "ipam": {"type": "dhcp", "families": ["ipv4", "ipv6"]},
    },
    "router": {
        "type": "macvlan",
        "master": "eth0",
        "ipam": {"type": "dhcp", "families": ["ipv6"], "ra": True},
    },
    "prefix": bridge(
        {"type": "host-local", "prefixDelegation": {"uplink": "eth0", "length": 60}}, isDefaultGateway=True
    ),
    "loopback": {"type": "loopback"},
    "host-local": {"type": "host-local", "ipam": DUAL},
    "tuning": {
        "type": "tuning",
        "mtu": 1300,
        "mac": "02:aa:bb:cc:dd:01",
        "promisc": True,
        "dataDir": "/var/lib/cni/tuning",
        "sysctl": {"net.core.somaxconn": "500", "net.ipv4.conf.IFNAME.arp_filter": "1"},
        "delegate": bridge(DUAL),
    },
    "portmap": {
        "type": "portmap",
        "runtimeConfig": {"portMappings": MAPPINGS},
        "delegate": bridge(DUAL, isDefaultGateway=True),
    },
    "portmap-iptables": {
        "type": "portmap",
        "backend": "iptables",
        "runtimeConfig": {"portMappings": MAPPINGS[:1]},
        "delegate": bridge(local("10.9.0.0/24"), isDefaultGateway=True),
    },
    "port-mapper": {
        "type": "mesos-cni-port-mapper",
        "chain": "MESOS-PORTS",
        "runtimeConfig": {"portMappings": MAPPINGS[:1]},
        "delegate": bridge(local("10.9.0.0/24"), isDefaultGateway=True),
    },
    "sbr": {"type": "sbr", "delegate": {"type": "macvlan", "master": "eth0", "ipam": LAN}},
    "bandwidth": {
        "type": "bandwidth",
        "ingressRate": 8_000_000,
        "ingressBurst": 800_000,
        "egressRate": 4_000_000,
        "egressBurst": 400_000,
        "delegate": bridge(DUAL),
    },
    "bandwidth-subnets": {
        "type": "bandwidth",
        "ingressRate": 8_000_000,
        "ingressBurst": 800_000,
        "egressRate": 4_000_000,
        "egressBurst": 400_000,
        "shapedSubnets": ["10.0.0.0/8", "fd00::/8"],
        "delegate": bridge(DUAL),
    },
    "firewall-nftables": {
        "type": "firewall",
        "backend": "nftables",
        "ingressPolicy": "isolated",
        "delegate": bridge(DUAL, isGateway=True),
    },
    "firewall-iptables": {
        "type": "firewall",
        "backend": "iptables",
        "ingressPolicy": "same-bridge",
        "delegate": bridge(DUAL, isGateway=True),
    },
    "flannel": {
        "type": "flannel",
        "subnetFile": "/etc/subnet.env",
        "delegate": {"bridge": "br0", "isDefaultGateway": True},
    },
    "chain": {
        "type": "chain",
        "runtimeConfig": {"portMappings": MAPPINGS[:1]},
        "plugins": [
            bridge(DUAL, isDefaultGateway=True, ipMasq=True),
            {"type": "tuning", "mtu": 1300},
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    },
}

#: Leases of both families and a router; the node itself listens to none, so that eth0 stays as it is.
DHCP_SERVER = (
    "sysctl -qw net.ipv6.conf.eth0.accept_ra=0; ip -n world addr add fe80::1/64 dev world nodad; "
    "ip netns exec world dnsmasq --conf-file=/dev/null --port=0 --interface=world --bind-interfaces"
    " --user=root --no-ping --leasefile-ro --pid-file=/run/dnsmasq.pid --log-facility=/dev/null"
    " --dhcp-range=192.0.2.100,192.0.2.250,255.255.255.0,3600"
    " --enable-ra --ra-param=world,4 --dhcp-range=2001:db8::100,2001:db8::1ff,slaac,64,3600"
)
_KEPT = f"""
    setsid {TOP}/.venv/bin/mesokit dhcp </dev/null >/dev/null 2>&1 &
    while ! test -S /run/mesokit/dhcp.sock; do sleep 0.05; done
"""
_LEASED = f"""
    test -e /run/dnsmasq.pid && exit
    {DHCP_SERVER}
    {_KEPT}
"""

#: A router that delegates a prefix.
PREFIX_SERVER = f"""
    sysctl -qw net.ipv6.conf.eth0.accept_ra=0; ip -n world addr add fe80::1/64 dev world nodad
    ip addr add fe80::2/64 dev eth0 nodad
    setsid ip netns exec world python3 {TOP}/netns_tests/hostile_dhcp6.py world fd78:0:0:10::/60 3600 once \
        </dev/null >/dev/null 2>&1 &
"""
_DELEGATED = f"""
    test -S /run/mesokit/dhcp.sock && exit
    {PREFIX_SERVER}
    {_KEPT}
"""

#: What a scenario needs on the node. A virtual device that was in a namespace that died is made again,
#: when the kernel has taken it away.
SETUP: Mapping[str, str] = {
    "host-device": """
        ip link show spare0 2>/dev/null && exit
        while ip link show spare1 >/dev/null 2>&1; do sleep 0.02; done
        sysctl -qw net.ipv6.conf.default.accept_dad=0
        ip link add spare0 address 02:aa:bb:cc:dd:10 type veth peer name spare1 address 02:aa:bb:cc:dd:11
        ip link set spare0 mtu 1400 txqueuelen 77 alias spare
        sysctl -qw net.ipv6.conf.spare0.accept_ra=0 net.ipv4.conf.spare0.rp_filter=2
        ip addr add 198.51.100.7/24 dev spare0
        ip addr add fd00:7::7/64 dev spare0 nodad
        ip link set spare1 up
        ip link set spare0 up
        ip route add 203.0.113.0/24 via 198.51.100.1
    """,
    **dict.fromkeys(("dhcp", "dhcp-ipv6", "router"), _LEASED),
    "prefix": _DELEGATED,
}


@dataclass(frozen=True, slots=True)
class Driver:
    """crash_driver.py in a node: `call` returns how the call ended; `crash` 0 lets it live."""

    requests: IO[bytes]
    answers: IO[bytes]
    conf: dict[str, Any]

    def call(self, verb: str, box: Netns | None, crash: int = 0, **more: Any) -> dict[str, Any]:
        env = {"PATH": PATH, "CNI_COMMAND": verb, "CNI_PATH": "/opt/cni/bin"}
        if verb != "GC":
            env |= {"CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0"}
        if box is not None:
            env["CNI_NETNS"] = box.path
        request = {"env": env, "conf": {**self.conf, **more}, "plugin": self.conf["type"], "crash": crash}
        self.requests.write(json.dumps(request).encode() + b"\n")
        answer: dict[str, Any] = json.loads(self.answers.readline())
        return answer

    def update(self, words: Sequence[str], crash: int = 0) -> dict[str, Any]:
        """`mesokit update` of the network."""
        request = {"env": {}, "conf": self.conf, "plugin": "", "crash": crash, "update": list(words)}
        self.requests.write(json.dumps(request).encode() + b"\n")
        answer: dict[str, Any] = json.loads(self.answers.readline())
        return answer

    def move(self, network: Mapping[str, Any], crash: int = 0) -> dict[str, Any]:
        """Add container c1 to a network, or take it away from one that is named without plugins."""
        request = {"env": {}, "conf": self.conf, "plugin": "", "crash": crash, "network": network}
        self.requests.write(json.dumps(request).encode() + b"\n")
        answer: dict[str, Any] = json.loads(self.answers.readline())
        return answer

    def succeed(self, verb: str, box: Netns | None, **more: Any) -> None:
        answer = self.call(verb, box, **more)
        assert answer["status"] == 0, (verb, answer)

    def collect(self) -> None:
        self.succeed("GC", None, **{"cni.dev/valid-attachments": []})


@pytest.fixture(scope="module")
def shim() -> Iterator[Path]:
    """The library; nodes are forked from a process that has it, and so are drivers in them."""
    library, usual = compiled(), Node.maker
    if usual is None or loaded():  # each program is to be started; in QEMU every process has it
        yield library
        return
    Node.maker = warm = Warm(preloaded=library)
    yield library
    Node.maker = usual
    warm.close()


@contextmanager
def driver(node: Node, shim: Path, conf: dict[str, Any]) -> Iterator[Driver]:
    counter = "/run/lock/crash-counter"
    node.path(counter).write_bytes(bytes(16))
    request_read, request_write = os.pipe()
    answer_read, answer_write = os.pipe()
    env = {"LD_PRELOAD": str(shim), "CRASH_COUNTER": counter, "PYTHONPATH": f"{TOP}:{TOP}/proto"}
    running = node.popen(
        [str(TOP / ".venv/bin/python"), "-m", "netns_tests.crash_driver"],
        env=env,
        stdin=request_read,
        stdout=answer_write,
        cwd=str(TOP),
    )
    os.close(request_read)
    os.close(answer_write)
    with (
        started(running),
        os.fdopen(request_write, "wb", buffering=0) as requests,
        os.fdopen(answer_read, "rb") as answers,
    ):
        assert answers.readline() == b"ready\n"
        yield Driver(requests, answers, conf)


#: Addresses are used at once: their detection takes two seconds of each of dozens of ADDs, and no change.
_AT_ONCE = "net.ipv6.conf.default.dad_transmits=0 net.ipv6.conf.default.router_solicitation_delay=0"
ALLOWED = (r"file /run/lock/crash-counter", r"\w+: rule .*l3mdev")  # the kernel's, of the first VRF


def make_box(node: Node) -> Netns:
    """A container's namespace whose `lo` was up once: it keeps addresses that the kernel gave it then."""
    box = node.netns("c1")
    node.shell(f"ip link set lo up; ip link set lo down; sysctl -qw {_AT_ONCE}", netns=box.path)
    return box


def _clean(node: Node, before: dict[str, str], box: Netns, why: str = "at the end") -> None:
    assert_clean(node, before, why, boxes=[box], allowed=ALLOWED)


#: What flanneld writes.
LEASE = "FLANNEL_NETWORK=10.9.0.0/16\nFLANNEL_SUBNET=10.9.0.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"


def _set_up(node: Node, setup: str) -> None:
    if setup:
        node.shell(setup)


def kill_adds(conf: dict[str, Any], shim: Path, setup: str = "") -> None:
    with Node() as node:
        node.uplink()
        node.path("/etc/subnet.env").write_text(LEASE)
        _set_up(node, setup)
        box = make_box(node)
        with driver(node, shim, {**NET, **conf}) as plugin:
            before = snapshot(node, [box])
            crash = 1
            while (answer := plugin.call("ADD", box, crash))["status"] == -9:
                if crash % 3 != 0:  # else GC has to do everything
                    plugin.succeed("DEL", box)
                plugin.collect()
                _clean(node, before, box, f"ADD killed before change {crash}")
                if crash % 3 == 1:
                    plugin.call("ADD", box, crash)
                    box.delete()
                    plugin.succeed("DEL", None)
                    _set_up(node, setup)
                    box = make_box(node)
                    _clean(node, before, box, f"ADD killed before change {crash}, namespace gone")
                crash += 1
            assert answer["status"] == 0, answer
            assert crash > 3
            plugin.succeed("DEL", box)
            _clean(node, before, box)


def kill_dels(conf: dict[str, Any], shim: Path, setup: str = "") -> None:
    with Node() as node:
        node.uplink()
        node.path("/etc/subnet.env").write_text(LEASE)
        _set_up(node, setup)
        box = make_box(node)
        with driver(node, shim, {**NET, **conf}) as plugin:
            before = snapshot(node, [box])
            crash = 1
            plugin.succeed("ADD", box)
            while (answer := plugin.call("DEL", box, crash))["status"] == -9:
                if crash % 2 != 0:
                    plugin.succeed("DEL", box)
                plugin.collect()
                _clean(node, before, box, f"DEL killed before change {crash}")
                plugin.succeed("ADD", box)
                crash += 1
            assert answer["status"] == 0, answer
            assert crash > 1
            _clean(node, before, box)


KILLED = {"ADD": kill_adds, "DEL": kill_dels}


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, shim: Path) -> Iterator[dict[str, Future[None]]]:
    """The chosen scenarios, a few at a time."""
    with ThreadPoolExecutor(WORKERS) as pool:
        yield {
            f"{verb}-{name}": pool.submit(kill, SCENARIOS[name], shim, SETUP.get(name, ""))
            for name in SCENARIOS
            for verb, kill in KILLED.items()
            if any(item.name.endswith(f"[{verb}-{name}]") for item in request.session.items)
        }
        pool.shutdown(cancel_futures=True)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("verb", KILLED)
def test_what_was_killed_can_be_finished(outcomes: Mapping[str, Future[None]], verb: str, name: str) -> None:
    outcomes[f"{verb}-{name}"].result()
