"""Measures what policy costs a packet that passes between two ports of a bridge, in the node it is started in
(throw it away), among 1,000 endpoints and 200 policies (policy_figures.py).

python packet_figures.py PROGRAM ROUNDS > figures.json

PROGRAM is packet_cost.c, compiled. By turns, on the same flow, with connections tracked (but for `none`):

none          no rules at all
established   `ct state established accept`, which looks at no packet of a flow but its first
policy        the policy of this node: every packet, both ends
policies      what Calico's is like: a chain for the endpoint, and one with a set for each of its ten policies
linear        200 rules, one after another

packets: nanoseconds of a datagram of one byte, from its send to the receiver's socket. iperf3: processor time
of a gigabyte over TCP with segmentation offload, ns a byte: without rules that count (established), and with.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import policy_figures

from cni_plugins.policy.read import read_directory
from cni_plugins.spec.deadline import after
from cni_plugins.spec.namespace import OWN_NETNS, Namespace, open_namespace
from cni_plugins.spec.roots import roots_from
from cni_plugins.steps import policy_bridged, policy_state
from cni_plugins.steps.policy_bridged import Bridging

DB, WEB = 0, policy_figures.APPS  # the numbers of two endpoints of one app: web asks db
PORT, PACKETS, OWN = 9000, 6000, 10  # policies of an endpoint
GIGABYTES = 2
ANSWERING = """
import socket, sys, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.bind(("", int(sys.argv[1])))
    s.sendto(*s.recvfrom(10))
    time.sleep(600)
"""
Figures = dict[str, dict[str, list[float]]]


def address(number: int) -> str:
    return str(policy_figures.endpoint(number).addresses[0])


def shell(script: str) -> None:
    subprocess.run(["sh", "-ec", script], check=True)


def two_containers() -> None:
    """On br0, whose ports are called as those of the endpoints."""
    lines = ["ip link add br0 type bridge", "ip link set br0 up", "ip addr add 10.9.255.254/16 dev br0"]
    for name, number in (("db", DB), ("web", WEB)):
        lines += [
            f"ip netns add {name}",
            f"ip link add veth{number} type veth peer name eth0 netns {name}",
            f"ip link set veth{number} master br0 up",
            f"ip -n {name} addr add {address(number)}/16 dev eth0",
            f"ip -n {name} link set eth0 up",
        ]
    shell("\n".join(lines))


def policed(host: Namespace) -> Bridging:
    """The state of 1,000 endpoints, of which two are there."""
    policy_figures.POLICIES.mkdir(parents=True, exist_ok=True)
    for app in range(policy_figures.APPS):
        for role in ("db", "web"):
            policy_figures.write(app, role, 5432, f"udp/{PORT}", "tcp/5201")
    bridging = policy_bridged.chosen(host, after(30))
    if bridging is Bridging.FILTER:
        shell("ip link set br0 type bridge nf_call_iptables 1 nf_call_ip6tables 1")
    listed = tuple(map(policy_figures.endpoint, range(policy_figures.ENDPOINTS)))
    policies = tuple(read_directory(policy_figures.POLICIES))
    with policy_state.opened(roots_from(os.environ), host, after(60)) as store:
        store.update(
            lambda state: replace(state, endpoints=listed, policies=policies, read=True, bridging=bridging)
        )
    return bridging


def layouts(family: str) -> dict[str, list[str]]:
    """The forward chain of each, and what it needs."""
    passing = f"ip saddr {address(WEB)} udp dport {PORT} accept"
    linear = [
        f"ip saddr 10.200.{number // 250}.{number % 250} udp dport {PORT} accept" for number in range(199)
    ]
    before: list[str] = [
        "add map FAMILY bench to { type ipv4_addr : verdict ; }",
        "add chain FAMILY bench tw",
    ]
    for number in range(OWN):
        members = ", ".join(f"10.201.{number}.{each}" for each in range(50))
        mine = f", {address(WEB)}" if number == OWN - 1 else ""
        before += [
            f"add set FAMILY bench s{number} {{ type ipv4_addr ; elements = {{ {members}{mine} }} ; }}",
            f"add chain FAMILY bench p{number}",
            f"add rule FAMILY bench p{number} ip saddr @s{number} udp dport {PORT} "
            "meta mark set meta mark or 0x10000",
            f"add rule FAMILY bench tw jump p{number}",
            "add rule FAMILY bench tw meta mark and 0x10000 == 0x10000 accept",
        ]
    before += ["add rule FAMILY bench tw drop", f"add element FAMILY bench to {{ {address(DB)} : jump tw }}"]
    chains = {
        "none": [],
        "established": ["ct state established,related accept"],
        "policies": ["ct state invalid drop", "ip daddr vmap @to"],
        "linear": ["ct state invalid drop", *linear, passing, f"ip daddr {address(DB)} drop"],
    }
    made: dict[str, list[str]] = {}
    for name, rules in chains.items():
        text = ["add table FAMILY bench", *(before if name == "policies" else [])]
        text.append(
            "add chain FAMILY bench forward { type filter hook forward priority -10 ; policy accept ; }"
        )
        text += [f"add rule FAMILY bench forward {rule}" for rule in rules]
        made[name] = [line.replace("FAMILY", family) for line in text]
    made["none"] = []
    return made


def load(lines: list[str]) -> None:
    """In the place of all other rules."""
    subprocess.run(
        ["nft", "-f", "-"], input="\n".join(["flush ruleset", *lines]) + "\n", text=True, check=True
    )


def restore(host: Namespace) -> None:
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    with policy_state.opened(roots_from(os.environ), host, after(60)) as store:
        store.restore()


def sent(program: str) -> float:
    """Nanoseconds of one datagram, on a flow that is answered once and then read by nobody."""
    answering = ["ip", "netns", "exec", "db", sys.executable, "-c", ANSWERING, str(PORT)]
    with subprocess.Popen(answering, stdin=subprocess.DEVNULL) as server:
        argv = ["ip", "netns", "exec", "web", program, address(DB), str(PORT), str(PACKETS)]
        done = subprocess.run(argv, stdout=subprocess.PIPE, check=False)
        server.kill()
    if done.returncode:
        raise SystemExit("packet_figures: the flow does not pass")
    return float(done.stdout)


def bulk() -> float:
    """Processor time of both ends, nanoseconds a byte, as they count it themselves."""
    argv = ["ip", "netns", "exec", "web", "iperf3", "-c", address(DB), "-n", f"{GIGABYTES}G", "-J"]
    end = time.monotonic() + 60
    while (done := subprocess.run(argv, stdout=subprocess.PIPE, check=False)).returncode:
        if time.monotonic() > end:
            raise SystemExit("packet_figures: iperf3 does not get through")
        time.sleep(0.1)
    told = json.loads(done.stdout)["end"]
    percent, received = told["cpu_utilization_percent"], told["sum_received"]
    return float(
        (percent["host_total"] + percent["remote_total"])
        / 100
        * received["seconds"]
        * 1e9
        / received["bytes"]
    )


def main() -> int:
    program, rounds = sys.argv[1], int(sys.argv[2])
    host = open_namespace(OWN_NETNS)
    assert host is not None
    two_containers()
    bridging = policed(host)
    texts = layouts("bridge" if bridging is Bridging.CONNTRACK else "inet")
    ways: dict[str, Callable[[], None]] = {name: partial(load, lines) for name, lines in texts.items()}
    ways["policy"] = partial(restore, host)
    found: Figures = {"packets": {name: [] for name in ways}, "iperf3": {"established": [], "policy": []}}
    iperf = subprocess.Popen(["ip", "netns", "exec", "db", "iperf3", "-s"], stdout=subprocess.DEVNULL)
    for measure, taken in (("packets", partial(sent, program)), ("iperf3", bulk)):
        for _ in range(rounds):
            for name, values in found[measure].items():
                ways[name]()
                values.append(taken())
    iperf.kill()
    iperf.wait()
    sys.stdout.write(json.dumps({"bridging": bridging.value, **found}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
