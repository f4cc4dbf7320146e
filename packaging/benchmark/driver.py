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
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, os.fspath(Path(__file__).parent))
import calls
import floor
from calls import Failed, Network, Side, call, chained, dual, netns, reserve, run, simple, timed

FLOOR, FLOOR_TRIES = 9, 20  # the number of the floor's networks; recordings until a call was an ordinary one
REPLAY_TRIES = 3
SETTLE_SECONDS = 20

Times = dict[str, list[float]]


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

    def turn(self, ours: Side, network: Network) -> dict[str, float]:
        """Seconds of one ADD and one DEL. Where the node is no more what it was at the recording, because the
        service or the kernel did something of its own meanwhile, both are recorded anew. calls.Failed.
        """
        for tries in range(1, REPLAY_TRIES + 1):
            box = netns("box-floor")
            try:
                return {verb: self.replay(verb, network, box) for verb in ("ADD", "DEL")}
            except Failed:
                if tries == REPLAY_TRIES:
                    raise
                run(ours, "DEL", network, "recorded", box)
            finally:
                subprocess.run(["ip", "netns", "del", "box-floor"], check=True)
            self.record(ours, network)
        raise AssertionError("a turn ends, or fails")

    def replay(self, verb: str, network: Network, netns: str) -> float:
        env = {"FLOOR_STEPS": f"/run/floor/{network.name}.{verb}", "CNI_NETNS": netns}
        seconds, status, _ = timed(self.program, env, b"")
        if status:
            raise Failed(f"the floor of {network.name}, {verb}: status {status}, see above")
        return seconds


def turn(side: Side, network: Network, number: int) -> dict[str, float]:
    """Seconds of one ADD and one DEL."""
    box = netns(f"box-{side.name}")
    seconds = {verb: run(side, verb, network, f"c{number}", box) for verb in ("ADD", "DEL")}
    subprocess.run(["ip", "netns", "del", f"box-{side.name}"], check=True)
    return seconds


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
            seconds = (
                lowest.turn(ours, network) if lowest and side.name == "floor" else turn(side, network, i)
            )
            for verb in seconds if i >= 2 else ():
                times[side.name][verb].append(seconds[verb])
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


def policed(side: Side, rounds: int) -> dict[str, Times]:
    """ADD and DEL in a network whose containers are isolated, and in one that knows no policies."""
    networks = {
        "policed": simple(side, "po", policy="isolated"),
        "open": simple(replace(side, number=side.number + 100), "po"),
    }
    times: dict[str, Times] = {name: {"ADD": [], "DEL": []} for name in networks}
    for name, network in networks.items():
        run(side, "ADD", network, "resident", netns(f"res-{name}"))
    for i in range(rounds + 2):
        for name, network in networks.items():
            box = netns("box-policed")
            for verb in ("ADD", "DEL"):
                times[name][verb] += [run(side, verb, network, f"c{i}", box)] * (i >= 2)
            subprocess.run(["ip", "netns", "del", "box-policed"], check=True)
    for name, network in networks.items():
        run(side, "DEL", network, "resident", f"/run/netns/res-{name}")
        subprocess.run(["ip", "netns", "del", f"res-{name}"], check=True)
    return times


def gone(sides: Sequence[Side], count: int, workers: int) -> dict[str, float]:
    """Seconds for each of `count` attachments that 16 workers delete, and that one GC finds without a
    container. The reference's, which knows no GC, are a tenth as many.
    """
    ours, theirs = sides[0], sides[1]
    network = simple(ours, "go")
    found = {
        "DEL": crowd(ours, network, count, workers)[1] / count,
        "reference": crowd(theirs, simple(theirs, "go"), count // 10, workers)[1] / (count // 10),
    }
    boxes = [netns(f"w{i}") for i in range(count)]
    for i, box in enumerate(boxes):
        run(ours, "ADD", network, f"w{i}", box)
    conf = {
        "cniVersion": "1.1.0",
        "name": network.name,
        **network.plugins[0],
        "cni.dev/valid-attachments": [],
    }
    seconds, _ = call(ours, "GC", conf, "", "")
    found["GC"] = seconds / count
    for i in range(count):
        subprocess.run(["ip", "netns", "del", f"w{i}"], check=True)
    return found


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
                for verb, seconds in turn(side, networks[side.name], i).items():
                    times[side.name][f"{verb} {count}"] += [seconds] * (i >= 2)
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
            total += calls.pss(member)
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
    began = time.monotonic()
    for what in plan["measure"]:
        elapsed = time.monotonic() - began
        sys.stderr.write(f"  {elapsed:5.0f} s  measuring: {what}\n")
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
        elif what == "policed" and ours:
            found[what] = policed(ours, rounds)
        elif what == "gone" and ours:
            found[what] = gone(sides, plan["gone"], plan["workers"])
        elif what == "throughput":
            found[what] = throughput(sides, plan["calls"], plan["workers"], plan["crowds"])
        elif what == "growth" and ours:
            found[what] = growth(sides[:2], plan["attachments"], rounds)
        elif what == "memory" and ours:
            found[what] = memory(ours, plan["service"], plan["memory_calls"])
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
