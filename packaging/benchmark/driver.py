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

sys.path.insert(0, os.fspath(Path(__file__).parent))
import floor

# A plugin that a folder does not have is the reference's, for all sides alike.
FALLBACK = "/usr/lib/cni"
FLOOR, FLOOR_TRIES = 9, 20  # the number of the floor's networks; recordings until a call was an ordinary one
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
    seconds, status, text = timed(program, env, json.dumps(conf).encode())
    if status:
        raise Failed(f"{side.name}: {conf['type']} {verb}: {text.decode(errors='replace')}")
    return seconds, json.loads(text) if text.strip() else None


def timed(program: str, env: Mapping[str, str], given: bytes) -> tuple[float, int, bytes]:
    """Seconds from the start of a process to its end, its status and its output."""
    stdin, stdout = os.memfd_create("in"), os.memfd_create("out")
    try:
        os.write(stdin, given)
        os.lseek(stdin, 0, os.SEEK_SET)
        actions = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, stdout, 1)]
        began = time.perf_counter()
        pid = os.posix_spawn(program, [program], env, file_actions=actions)
        _, status = os.waitpid(pid, 0)
        seconds = time.perf_counter() - began
        return seconds, status, os.pread(stdout, os.fstat(stdout).st_size, 0)
    finally:
        os.close(stdin)
        os.close(stdout)


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


@dataclass(frozen=True, slots=True)
class Floor:
    """The program of floor.c, and the processes of the service that calls are recorded from."""

    program: str
    service: int

    def record(self, ours: Side, network: Network) -> None:
        """The steps of our ADD and of our DEL; again when one of them was the first that its thread did."""
        Path("/run/floor").mkdir(exist_ok=True)
        first = netns("first-floor")
        for verb in ("ADD", "DEL"):
            run(ours, verb, network, "first", first)  # makes what is there from then on
        subprocess.run(["ip", "netns", "del", "first-floor"], check=True)
        for _ in range(FLOOR_TRIES):
            box = netns("box-floor")
            found = {verb: self.steps(ours, verb, network, box) for verb in ("ADD", "DEL")}
            subprocess.run(["ip", "netns", "del", "box-floor"], check=True)
            if all(isinstance(each, list) for each in found.values()):
                break
        for verb, steps in found.items():
            if not isinstance(steps, list):
                raise Failed(f"the floor of {network.name}, {verb}: {steps}")
            Path(f"/run/floor/{network.name}.{verb}").write_text("\n".join(steps) + "\n")

    def steps(self, ours: Side, verb: str, network: Network, box: str) -> list[str] | floor.Unknown:
        pids = [self.service, *children(self.service)]
        try:
            return floor.record(pids, lambda: run(ours, verb, network, "recorded", box)).steps
        except floor.Unknown as error:
            return error

    def replay(self, verb: str, network: Network, netns: str) -> float:
        env = {"FLOOR_STEPS": f"/run/floor/{network.name}.{verb}", "CNI_NETNS": netns}
        seconds, status, _ = timed(self.program, env, b"")
        if status:
            raise Failed(f"the floor of {network.name}, {verb}: status {status}, see above")
        return seconds


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
    sides: Sequence[Side],
    make: Any,
    rounds: int,
    reservations: int = 0,
    *,
    alone: bool = False,
    lowest: Floor | None = None,
) -> dict[str, Times]:
    """ADD and DEL of one container beside another one, or `alone`: the first and the last of a bridge. With
    `lowest` its floor takes part in the turns.
    """
    ours = sides[0]
    everybody = [*sides, *([replace(ours, name="floor", number=FLOOR)] if lowest else [])]
    times: dict[str, Times] = {}
    networks: dict[str, Network] = {}
    for side in everybody:
        networks[side.name] = make(side)
        if reservations:
            reserve(networks[side.name], side.number, reservations)
        times[side.name] = {"ADD": [], "DEL": []}
        if not alone:
            run(side, "ADD", networks[side.name], "resident", netns(f"res-{side.name}"))
    if lowest:
        lowest.record(ours, networks["floor"])
    for i in range(rounds + 2):
        for side in everybody:
            network = networks[side.name]
            box = netns(f"box-{side.name}")
            for verb in ("ADD", "DEL"):
                if lowest and side.name == "floor":
                    seconds = lowest.replay(verb, network, box)
                else:
                    seconds = run(side, verb, network, f"c{i}", box)
                times[side.name][verb] += [seconds] * (i >= 2)
            subprocess.run(["ip", "netns", "del", f"box-{side.name}"], check=True)
            if alone:
                remove_bridge(network)  # the reference leaves it
    for side in everybody:
        if not alone:
            run(side, "DEL", networks[side.name], "resident", f"/run/netns/res-{side.name}")
            subprocess.run(["ip", "netns", "del", f"res-{side.name}"], check=True)
        remove_bridge(networks[side.name])
    return times


def remove_bridge(network: Network) -> None:
    subprocess.run(["ip", "link", "del", network.plugins[0]["bridge"]], check=False, stderr=-3)


def crowd(side: Side, network: Network, calls: int, workers: int) -> tuple[float, float]:
    """Seconds that `calls` ADDs by `workers` at once take, and their DELs."""
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

    seconds = all_of("ADD"), all_of("DEL")
    for i in range(calls):
        subprocess.run(["ip", "netns", "del", f"w{i}"], check=True)
    if failures:
        raise failures[0]
    return seconds


def throughput(sides: Sequence[Side], calls: int, workers: int, rounds: int) -> dict[str, Times]:
    times: dict[str, Times] = {side.name: {"ADD": [], "DEL": []} for side in sides}
    for side in sides:
        run(side, "ADD", simple(side, "tp"), "resident", netns(f"res-{side.name}"))
    for _ in range(rounds):
        for side in sides:
            seconds = crowd(side, simple(side, "tp"), calls, workers)
            for verb, each in zip(("ADD", "DEL"), seconds, strict=True):
                times[side.name][verb].append(each / calls)
    for side in sides:
        run(side, "DEL", simple(side, "tp"), "resident", f"/run/netns/res-{side.name}")
        subprocess.run(["ip", "netns", "del", f"res-{side.name}"], check=True)
    return times


def growth(sides: Sequence[Side], attachments: Sequence[int], rounds: int) -> dict[str, Any]:
    """ADD and DEL on a node with one attachment, and on one with each number of `attachments`, ten bridges
    of them, which our side makes (what grows for every side alike is the kernel's), in networks with ten
    times as many reservations.

    The measured bridges have few ports each time: the kernel copies every announcement to each port of its
    bridge, which costs a microsecond a port whoever sends it.
    """
    ours = next(side for side in sides if side.one_call)
    networks = {side.name: dual(side, "gr") for side in sides}
    others = [dual(replace(ours, number=200 + i), "go") for i in range(10)]
    counts = [1, *attachments]
    names = [f"{verb} {count}" for count in counts for verb in ("ADD", "DEL")]
    times: dict[str, Times] = {side.name: {name: [] for name in names} for side in sides}
    for side in sides:
        run(side, "ADD", networks[side.name], "resident", netns(f"res-{side.name}"))
    there = 0
    for count in counts:
        for i in range(there, count if count > 1 else 0):
            run(ours, "ADD", others[i % 10], f"g{i}", netns(f"g{i}"))
            there = i + 1
        if there:
            for side in sides:
                reserve(networks[side.name], side.number, 10 * count)
        # New namespaces solicit routers three times, four seconds apart, to every port of their bridge.
        time.sleep(SETTLE_SECONDS if count > 100 else 0)
        for i in range(rounds + 2):
            for side in sides:
                box = netns(f"box-{side.name}")
                for verb in ("ADD", "DEL"):
                    seconds = run(side, verb, networks[side.name], f"c{i}", box)
                    times[side.name][f"{verb} {count}"] += [seconds] * (i >= 2)
                subprocess.run(["ip", "netns", "del", f"box-{side.name}"], check=True)
    for i in range(there):
        run(ours, "DEL", others[i % 10], f"g{i}", f"/run/netns/g{i}")
        subprocess.run(["ip", "netns", "del", f"g{i}"], check=True)
    for side in sides:
        run(side, "DEL", networks[side.name], "resident", f"/run/netns/res-{side.name}")
        subprocess.run(["ip", "netns", "del", f"res-{side.name}"], check=True)
    return {"counts": counts, "times": times}


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
    run(side, "ADD", network, "resident", netns("memres"))
    sizes = [pss(pid)]
    for _ in range(10):
        for i in range(calls // 20):
            box = netns("mem")
            run(side, "ADD", network, f"m{i}", box)
            run(side, "DEL", network, f"m{i}", box)
            subprocess.run(["ip", "netns", "del", "mem"], check=True)
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
    lowest = Floor(plan["floor"], plan["service"]) if plan["floor"] else None
    found: dict[str, Any] = {}
    for what in plan["measure"]:
        sys.stderr.write(f"  measuring: {what}\n")
        sys.stderr.flush()
        if what == "plain":
            found[what] = add_and_del(everybody, lambda side: simple(side, "pl"), rounds, lowest=lowest)
        elif what == "alone":
            found[what] = add_and_del(
                sides, lambda side: simple(side, "al"), rounds, alone=True, lowest=lowest
            )
        elif what == "dual":
            found[what] = add_and_del(sides, lambda side: dual(side, "du"), rounds, lowest=lowest)
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
