"""Measures what one changed policy costs among many, in the node it is started in (throw it away).

python policy_figures.py MESOKIT ROUNDS > figures.json

apply      milliseconds: `mesokit policy apply`, from the start of its process to its end
effect     milliseconds: from the start of that process to the new verdict in the kernel
again      milliseconds: `mesokit policy apply` when nothing has changed
service    milliseconds: from the new file to the new verdict in the kernel, done by `mesokit node`
nftables   milliseconds: the change of nf_tables until it has its effect: what comes, then what goes
kernel     milliseconds of a processor for that, with what talks to the kernel
anew       the same two where a profile is made anew, because ranges of ports change
anew_cpu
cpu        milliseconds of a processor for one change in the service, what comes after the effect included
memory     MB of the process that applies policies (PSS)
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import calls

from cni_plugins.kernel.netlink.netfilter import Nfnetlink
from cni_plugins.kernel.nft import policy as kernel
from cni_plugins.policy.model import Default, Endpoint, Traffic
from cni_plugins.policy.profile import placed
from cni_plugins.policy.read import read_directory
from cni_plugins.policy.traffic import lanes
from cni_plugins.spec.deadline import after
from cni_plugins.spec.namespace import OWN_NETNS, Namespace, open_namespace
from cni_plugins.spec.roots import roots_from
from cni_plugins.steps import policy_state

ENDPOINTS = 1000
APPS = 100  # of two roles each, with a policy for each
POLICIES = Path("/etc/mesokit/policy.d")


def endpoint(number: int) -> Endpoint:
    high, low = divmod(number + 2, 256)
    labels = (("app", f"app{number % APPS}"), ("role", "web" if number // APPS % 2 else "db"))
    return Endpoint(
        network="net",
        container=f"container-{number}",
        ifname="eth0",
        addresses=(ip_address(f"10.9.{high}.{low}"), ip_address(f"fd09::{number + 2:x}")),
        subnets=(ip_network("10.9.0.0/16"), ip_network("fd09::/64")),
        groups=frozenset((f"group{number % 10}",)),
        labels=labels,
        default=Default.ISOLATED,
        link="br0",
        port=f"veth{number}",
        bridged=True,
    )


def policy(app: int, role: str, port: int, *more: str) -> dict[str, Any]:
    other = "web" if role == "db" else "db"
    return {
        "name": f"app{app}-{role}",
        "for": {"labels": {"app": f"app{app}", "role": role}},
        "ingress": [
            {
                "allow": [f"tcp/{port}", "icmp", *more],
                "from": [{"labels": {"app": f"app{app}", "role": other}}],
            },
            {"allow": ["tcp/443"], "from": [{"cidr": "192.168.0.0/16", "except": ["192.168.7.0/24"]}]},
        ],
        "egress": [{"allow": ["any"], "to": [{"labels": {"app": f"app{app}"}}]}],
    }


def write(app: int, role: str, port: int, *more: str) -> None:
    """One file, in one step as an editor does it; `more` that it allows."""
    path = POLICIES / f"app{app}-{role}.json"
    path.with_suffix(".new").write_text(json.dumps({"policies": [policy(app, role, port, *more)]}))
    path.with_suffix(".new").rename(path)


def in_force(host: Namespace, port: int) -> bool:
    """Whether app 0's db lets its web in at this port, by what the kernel holds."""
    db, web = (endpoint(number).addresses[0].packed for number in (0, APPS))
    with Nfnetlink(host) as socket:
        profile = kernel.destination(socket, "policy_in4", db).rpartition("_")[0]
        wanted = placed(profile, 4, web, lanes((Traffic("tcp", low=port, high=port),), 4))
        return bool(profile) and all(kernel.present(socket, list(wanted)))


def until(host: Namespace, port: int) -> None:
    end = time.monotonic() + 60
    while not in_force(host, port):
        if time.monotonic() > end:
            raise SystemExit("policy_figures: the change has no effect")
        time.sleep(0.0005)


def timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return (time.monotonic() - began) * 1000


def transactions(host: Namespace, rounds: int, *more: str) -> tuple[list[float], list[float]]:
    """A change of the same size, by the kernel and what talks to it: by the clock, and processor time; `more`
    that the policy allows, with {} for a port.
    """
    found: list[float] = []
    spent: list[float] = []
    original = kernel.apply

    def measured(*arguments: Any, **keys: Any) -> int:
        began, before = time.monotonic(), time.process_time()
        count = original(*arguments, **keys)
        found.append((time.monotonic() - began) * 1000)
        spent.append((time.process_time() - before) * 1000)
        return count

    kernel.apply = measured
    memory = policy_state.Memory()
    for number in range(rounds + 1):
        write(7, "db", 7000 + number, *(each.format(20000 + number) for each in more))
        policies = tuple(read_directory(POLICIES, memory.parsed))
        with policy_state.opened(roots_from(os.environ), host, after(30), memory) as store:
            store.update(partial(replace, policies=policies, read=True))
            store.restore()
    kernel.apply = original
    return found[1:], spent[1:]


def applier(service: int) -> int:
    """The service's process that applies policies: the child that waits for news of files. SystemExit."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        children = Path(f"/proc/{service}/task/{service}/children").read_text().split()
        for number in children:
            if any("inotify" in str(each.readlink()) for each in Path(f"/proc/{number}/fd").iterdir()):
                return int(number)
        time.sleep(0.05)
    raise SystemExit("policy_figures: the service has no process for policies")


def ticks(pid: int) -> int:
    """Of a processor, in hundredths of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def main() -> int:
    mesokit, rounds = sys.argv[1], int(sys.argv[2])
    host = open_namespace(OWN_NETNS)
    assert host is not None
    POLICIES.mkdir(parents=True, exist_ok=True)
    for app in range(APPS):
        for role in ("db", "web"):
            write(app, role, 5432)
    listed = tuple(map(endpoint, range(ENDPOINTS)))
    with policy_state.opened(roots_from(os.environ), host, after(30)) as store:
        store.update(lambda state: replace(state, endpoints=listed))
    command = [mesokit, "policy", "apply", "--json"]

    def run() -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    run()
    found: dict[str, list[float]] = {"apply": [], "effect": [], "again": [], "service": []}
    for number in range(rounds):
        write(0, "db", 6000 + number)
        began = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        until(host, 6000 + number)
        found["effect"].append((time.monotonic() - began) * 1000)
        if process.wait():
            raise SystemExit("policy_figures: mesokit policy apply failed")
        write(0, "web", 6000 + number)
        found["apply"].append(timed(run))
        found["again"].append(timed(run))
    found["nftables"], found["kernel"] = transactions(host, rounds)
    found["anew"], found["anew_cpu"] = transactions(host, rounds, "tcp/{}-60000")
    service = subprocess.Popen([mesokit, "node"])
    try:
        end = time.monotonic() + 60
        while not Path("/run/mesokit/node.sock").is_socket() and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(3)  # its first look is over
        child = applier(service.pid)
        began = ticks(child)
        for number in range(rounds):
            write(0, "db", 7000 + number)
            found["service"].append(timed(partial(until, host, 7000 + number)))
            time.sleep(1)  # what it does after the change
        found["cpu"] = [(ticks(child) - began) * 10 / rounds]
        found["memory"] = [calls.pss(child) / (1 << 20)]
    finally:
        service.send_signal(signal.SIGTERM)
        service.wait(60)
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
