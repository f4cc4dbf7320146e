"""Measures plugin calls. Runs inside the private node, so that nothing but the call itself is timed.

    python driver.py < plan.json > times.json

A plan names the sides (a folder of plugins each) and the rounds. In every round every side does the same
thing in turn, so that whatever else the machine does falls on all alike. Each round has a network namespace
of its own, as each container has. One container stays attached to each network all the time, except where it
is the birth and death of the bridge that is measured ("alone").
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# A plugin that a folder does not have is the reference's, for all sides alike.
FALLBACK = "/usr/lib/cni"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SETTLE_SECONDS = 20
VERSION = "0.4.0"  # what every plugin since 2019 understands

Times = dict[str, list[float]]


class Failed(Exception):
    """A plugin call that should have worked did not."""


@dataclass(frozen=True, slots=True)
class Side:
    """`one_call`: the folder has a `chain` plugin, which does in one call what others need a list for.
    `service`: false for the side that shows what a call costs without one, and nothing else.
    """

    name: str
    folder: str
    number: int
    one_call: bool
    service: bool
    env: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Network:
    """A list of plugin configurations, as a runtime would call them one after another."""

    name: str
    plugins: tuple[Mapping[str, Any], ...]
    capabilities: Mapping[str, Any]
    residents: Mapping[str, Any]  # what the container that stays asks for: no two have one host port


def call(side: Side, verb: str, conf: Mapping[str, Any], cid: str, netns: str) -> tuple[float, Any]:
    """Seconds from the start of the process until it has ended, and its result."""
    stdin, stdout = os.memfd_create("in"), os.memfd_create("out")
    try:
        os.write(stdin, json.dumps(conf).encode())
        os.lseek(stdin, 0, os.SEEK_SET)
        program = f"{side.folder}/{conf['type']}"
        if not Path(program).exists():
            program = f"{FALLBACK}/{conf['type']}"
        env = {
            "PATH": PATH,
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": cid,
            "CNI_NETNS": netns,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": f"{side.folder}:{FALLBACK}",
            **side.env,
        }
        actions = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, stdout, 1)]
        began = time.perf_counter()
        pid = os.posix_spawn(program, [program], env, file_actions=actions)
        _, status = os.waitpid(pid, 0)
        seconds = time.perf_counter() - began
        size = os.fstat(stdout).st_size
        text = os.pread(stdout, size, 0)
    finally:
        os.close(stdin)
        os.close(stdout)
    if status:
        raise Failed(f"{side.name}: {conf['type']} {verb}: {text.decode(errors='replace')}")
    return seconds, json.loads(text) if text.strip() else None


def run(side: Side, verb: str, network: Network, cid: str, netns: str) -> float:
    """What a runtime does for one attachment: each plugin of the list, or one call of `chain`."""
    head = {"cniVersion": VERSION, "name": network.name}
    asked = network.residents if cid == "resident" else network.capabilities
    if len(network.plugins) == 1:
        return call(side, verb, {**head, **network.plugins[0]}, cid, netns)[0]
    if side.one_call:
        conf = {**head, "type": "chain", "plugins": network.plugins, "runtimeConfig": asked}
        return call(side, verb, conf, cid, netns)[0]
    total = 0.0
    previous: Any = results.get((side.name, network.name, cid)) if verb == "DEL" else None
    for plugin in network.plugins if verb == "ADD" else reversed(network.plugins):
        wanted = {key: asked[key] for key in plugin.get("capabilities", {}) if key in asked}
        conf = {**head, **plugin}
        if wanted:
            conf["runtimeConfig"] = wanted
        if previous is not None:
            conf["prevResult"] = previous
        seconds, result = call(side, verb, conf, cid, netns)
        total += seconds
        previous = previous if verb == "DEL" else result
    results[side.name, network.name, cid] = previous
    return total


results: dict[tuple[str, str, str], Any] = {}


def netns(name: str) -> str:
    subprocess.run(["ip", "netns", "add", name], check=True)
    return f"/run/netns/{name}"


def simple(side: Side, tag: str, **keys: Any) -> Network:
    number = side.number
    conf = {
        "type": "bridge",
        "bridge": f"{tag}{number}",
        "isGateway": True,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": f"10.{number}.0.0/16"}]]},
        **keys,
    }
    return Network(f"{tag}{number}", (conf,), {}, {})


def dual(side: Side, tag: str) -> Network:
    number = side.number
    ranges = [[{"subnet": f"10.{number}.0.0/16"}], [{"subnet": f"fd00:{number:x}::/64"}]]
    return simple(side, tag, ipMasq=True, ipam={"type": "host-local", "ranges": ranges})


def chained(side: Side, tag: str) -> Network:
    bridge = simple(side, tag).plugins[0]
    first, other = (
        [{"hostPort": base + i, "containerPort": 80 + i, "protocol": "tcp"} for i in range(5)]
        for base in (20000 + side.number * 10, 30000 + side.number * 10)
    )
    rate = {"ingressRate": 10**8, "ingressBurst": 10**8, "egressRate": 10**8, "egressBurst": 10**8}
    plugins = (
        bridge,
        {"type": "portmap", "capabilities": {"portMappings": True}},
        {"type": "bandwidth", **rate},
        {"type": "tuning", "sysctl": {"net.ipv4.conf.all.log_martians": "1"}},
    )
    return Network(f"{tag}{side.number}", plugins, {"portMappings": first}, {"portMappings": other})


def reserve(network: Network, number: int, count: int) -> None:
    """Reservations of other containers on disk, as host-local writes them."""
    folder = Path(f"/var/lib/cni/networks/{network.name}")
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        address = f"10.{number}.{1 + i // 250}.{1 + i % 250}"
        (folder / address).write_text(f"other-{i}\r\neth0")


def add_and_del(
    sides: Sequence[Side], make: Any, rounds: int, reservations: int = 0, *, alone: bool = False
) -> dict[str, Times]:
    """ADD and DEL of one container beside another one, or `alone`: the first and the last of a bridge."""
    times: dict[str, Times] = {}
    networks: dict[str, Network] = {}
    for side in sides:
        networks[side.name] = make(side)
        if reservations:
            reserve(networks[side.name], side.number, reservations)
        times[side.name] = {"ADD": [], "DEL": []}
        if not alone:
            run(side, "ADD", networks[side.name], "resident", netns(f"res-{side.name}"))
    for i in range(rounds + 2):
        for side in sides:
            network = networks[side.name]
            box = netns(f"box-{side.name}")
            added = run(side, "ADD", network, f"c{i}", box)
            removed = run(side, "DEL", network, f"c{i}", box)
            subprocess.run(["ip", "netns", "del", f"box-{side.name}"], check=True)
            if alone:
                remove_bridge(network)  # the reference leaves it
            if i >= 2:
                times[side.name]["ADD"].append(added)
                times[side.name]["DEL"].append(removed)
    for side in sides:
        if not alone:
            run(side, "DEL", networks[side.name], "resident", f"/run/netns/res-{side.name}")
            subprocess.run(["ip", "netns", "del", f"res-{side.name}"], check=True)
        remove_bridge(networks[side.name])
    return times


def remove_bridge(network: Network) -> None:
    subprocess.run(["ip", "link", "del", network.plugins[0]["bridge"]], check=False, stderr=-3)


def crowd(side: Side, network: Network, calls: int, workers: int) -> float:
    """Seconds that `calls` ADDs by `workers` at once take; the containers are gone afterwards."""
    boxes = [netns(f"w{i}") for i in range(calls)]
    turn = iter(range(calls))
    lock = threading.Lock()
    failures: list[BaseException] = []

    def work(verb: str) -> None:
        while True:
            with lock:
                i = next(turn, None)
            if i is None:
                return
            try:
                run(side, verb, network, f"w{i}", boxes[i])
            except Failed as error:
                failures.append(error)

    def all_of(verb: str) -> float:
        nonlocal turn
        turn = iter(range(calls))
        threads = [threading.Thread(target=work, args=(verb,)) for _ in range(workers)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - began

    seconds = all_of("ADD")
    all_of("DEL")
    for i in range(calls):
        subprocess.run(["ip", "netns", "del", f"w{i}"], check=True)
    if failures:
        raise failures[0]
    return seconds


def throughput(sides: Sequence[Side], calls: int, workers: int, rounds: int) -> dict[str, Times]:
    times: dict[str, Times] = {side.name: {"ADD": []} for side in sides}
    for side in sides:
        run(side, "ADD", simple(side, "tp"), "resident", netns(f"res-{side.name}"))
    for _ in range(rounds):
        for side in sides:
            times[side.name]["ADD"].append(crowd(side, simple(side, "tp"), calls, workers) / calls)
    for side in sides:
        run(side, "DEL", simple(side, "tp"), "resident", f"/run/netns/res-{side.name}")
        subprocess.run(["ip", "netns", "del", f"res-{side.name}"], check=True)
    return times


def growth(sides: Sequence[Side], attachments: int, rounds: int) -> dict[str, Times]:
    """ADD and DEL on a node with one attachment, and on one with `attachments`, ten bridges of them, which
    our side makes (what grows for every side alike is the kernel's), in networks with ten times as many
    reservations.

    The measured bridges have few ports both times: the kernel copies every announcement to each port of its
    bridge, which costs a microsecond a port whoever sends it.
    """
    ours = next(side for side in sides if side.one_call)
    networks = {side.name: dual(side, "gr") for side in sides}
    others = [dual(replace(ours, number=200 + i), "go") for i in range(10)]
    names = ("ADD", "DEL", "ADD crowded", "DEL crowded")
    times: dict[str, Times] = {side.name: {name: [] for name in names} for side in sides}
    boxes = {side.name: netns(f"box-{side.name}") for side in sides}
    for side in sides:
        run(side, "ADD", networks[side.name], "resident", netns(f"res-{side.name}"))

    def measure(suffix: str) -> None:
        for i in range(rounds + 2):
            for side in sides:
                for verb in ("ADD", "DEL"):
                    seconds = run(side, verb, networks[side.name], f"c{i}", boxes[side.name])
                    if i >= 2:
                        times[side.name][f"{verb}{suffix}"].append(seconds)

    measure("")
    for i in range(attachments):
        run(ours, "ADD", others[i % 10], f"g{i}", netns(f"g{i}"))
    for side in sides:
        reserve(networks[side.name], side.number, 10 * attachments)
    # New namespaces solicit routers three times, four seconds apart, to every port of their bridge.
    time.sleep(SETTLE_SECONDS if attachments > 100 else 0)
    measure(" crowded")
    for i in range(attachments):
        run(ours, "DEL", others[i % 10], f"g{i}", f"/run/netns/g{i}")
        subprocess.run(["ip", "netns", "del", f"g{i}"], check=True)
    for side in sides:
        run(side, "DEL", networks[side.name], "resident", f"/run/netns/res-{side.name}")
        for name in (f"res-{side.name}", f"box-{side.name}"):
            subprocess.run(["ip", "netns", "del", name], check=True)
    return times


def pss(pid: int) -> int:
    """Bytes of proportional size, of a process and those that it forked."""
    total = 0
    for member in (pid, *children(pid)):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # one that has ended meanwhile
            rollup = Path(f"/proc/{member}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) * 1024 for line in rollup if line.startswith("Pss:"))
    return total


def children(pid: int) -> list[int]:
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # one that has ended meanwhile
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    return [child for child, parent in parents.items() if parent == pid]


def memory(side: Side, pid: int, calls: int) -> list[int]:
    """Bytes at the start and after each tenth of `calls` calls."""
    network = simple(side, "mem")
    box = netns("mem")
    run(side, "ADD", network, "resident", netns("memres"))
    sizes = [pss(pid)]
    for _ in range(10):
        for i in range(calls // 20):
            run(side, "ADD", network, f"m{i}", box)
            run(side, "DEL", network, f"m{i}", box)
        sizes.append(pss(pid))
    run(side, "DEL", network, "resident", "/run/netns/memres")
    return sizes


def main() -> None:
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG: nothing goes on when the bench is interrupted
    plan = json.load(sys.stdin)
    everybody = [Side(**side) for side in plan["sides"]]
    sides = [side for side in everybody if side.service]
    ours = next((side for side in sides if side.one_call), None)
    rounds = plan["rounds"]
    found: dict[str, Any] = {}
    for what in plan["measure"]:
        sys.stderr.write(f"  measuring: {what}\n")
        sys.stderr.flush()
        if what == "plain":
            found[what] = add_and_del(everybody, lambda side: simple(side, "pl"), rounds)
        elif what == "alone":
            found[what] = add_and_del(sides, lambda side: simple(side, "al"), rounds, alone=True)
        elif what == "dual":
            found[what] = add_and_del(sides, lambda side: dual(side, "du"), rounds)
        elif what == "reservations":
            found[what] = add_and_del(sides, lambda side: simple(side, "rs"), rounds, plan["reservations"])
        elif what == "chain":
            found[what] = add_and_del(sides, lambda side: chained(side, "ch"), rounds)
        elif what == "throughput":
            found[what] = throughput(sides, plan["calls"], plan["workers"], plan["crowds"])
        elif what == "growth" and ours:
            found[what] = growth(sides[:2], plan["attachments"], rounds)
        elif what == "memory" and ours:
            found[what] = memory(ours, plan["service"], plan["memory_calls"])
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
