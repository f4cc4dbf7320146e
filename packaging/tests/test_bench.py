"""packaging/bench, with the smallest numbers: that it measures everything and says so, not how fast it is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import floor
import pytest
import straced

from netns_tests.load import bridge
from netns_tests.node import Netns, Node, until

TOP = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.timeout(900)  # it builds first, if nobody has


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    subprocess.run([TOP / "packaging/build"], check=True, stdout=subprocess.DEVNULL)


def bench(*arguments: str) -> str:
    argv: list[str | Path] = [
        sys.executable,
        TOP / "packaging/benchmark/bench.py",
        "--rounds",
        "1",
        *arguments,
    ]
    env = {**os.environ, "PYTHONPATH": f"{TOP}:{TOP}/proto"}
    return subprocess.run(argv, env=env, check=True, stdout=subprocess.PIPE).stdout.decode()


def test_every_operation_is_measured() -> None:
    small = ["--attachments", "2", "--memory-calls", "40", "--crowd", "8"]
    wanted = ("plain", "alone", "dual", "chain", "growth", "memory", "throughput")
    document = json.loads(bench("--json", *small, *(f"--only={each}" for each in wanted)))
    rows = {row["operation"]: row for row in document["rows"]}
    assert len(rows) == 19
    for row in rows.values():
        assert row["ours"] > 0 or row["operation"].startswith("  ")
        assert all(value > 0 for value in row["others"].values())
        if row["ratio"] is not None:
            assert row["above_floor"] is None or row["above_floor"] == row["ours"] / row["others"]["floor"]
            assert row["ratio"] == pytest.approx(row["ours"] / next(iter(row["others"].values())))
    assert rows["bridge + host-local: ADD"]["others"].keys() == {"reference", "floor"}
    assert rows["service, PSS after all the calls"]["unit"] == "MB"


def test_another_folder_of_plugins_is_measured_beside() -> None:
    text = bench("--only", "plain", "--plugin-dir", "/usr/lib/cni")
    head, first, *_ = text.splitlines()
    assert head.split() == ["operation", "ours", "reference", "cni", "floor", "ratio", "/floor", "aim"]
    assert first.startswith("bridge + host-local: ADD")


NETWORK = bridge(
    ipam={"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/16"}], [{"subnet": "fd09::/64"}]]}
)
TRIES = 20
NEW_ELEMENT, DELETE_ELEMENT = 0x0A0C, 0x0A0E  # of nf_tables, through a socket that outlives the call


def test_the_floor_asks_the_kernel_for_what_a_call_asks_it_for(tmp_path: Path) -> None:
    with tarfile.open(TOP / "dist/mesokit-cni.tar.gz") as archive:
        archive.extractall(tmp_path)
    program = tmp_path / "floor"
    subprocess.run(["musl-gcc", "-static", "-o", program, TOP / "packaging/benchmark/floor.c"], check=True)
    with Node(pids=False) as node:
        starter = ["setpriv", "--pdeathsig", "KILL", str(tmp_path / "mesokit"), "node", "--workers", "1"]
        service = node.popen(starter)
        until(lambda: node.path("/run/mesokit/node.sock").is_socket(), what="the service")
        try:
            bridge = tmp_path / "bridge"
            node.cni("ADD", bridge, NETWORK, "resident", node.netns("resident")).ok()
            box = node.netns("box")

            def call(verb: str) -> object:
                return node.cni(verb, bridge, NETWORK, "c", box).ok()

            pair, again = recorded_pair(service.pid, call), recorded_pair(service.pid, call)
            for one, other in zip(pair, again, strict=True):
                assert one.messages == other.messages
                assert len(one.files) == len(other.files)
            assert pair[0].messages[NEW_ELEMENT] and pair[1].messages[DELETE_ELEMENT]
            for recorded, verb in zip(pair, ("ADD", "DEL"), strict=True):
                assert replayed(node, box, program, recorded, tmp_path / verb) == recorded.messages
                inside = [each["ifname"] for each in box.json("ip", "-j", "link")]
                assert inside == (["lo", "eth0"] if verb == "ADD" else ["lo"])
                reservations = list(node.path("/var/lib/cni/networks/net").glob("10.9.*"))
                assert len(reservations) == (2 if verb == "ADD" else 1)
        finally:
            service.kill(signal.SIGTERM)
            service.wait()


def recorded_pair(service: int, call: Callable[[str], object]) -> list[floor.Recording]:
    """An ADD and a DEL, neither of them the first call of its thread."""
    pids = [service, *map(int, Path(f"/proc/{service}/task/{service}/children").read_text().split())]
    for _ in range(TRIES):
        found = []
        for verb in ("ADD", "DEL"):
            with suppress(floor.Unknown):
                found.append(floor.record(pids, partial(call, verb)))
        if len(found) == 2:
            return found
    raise AssertionError("no call was an ordinary one")


def replayed(node: Node, box: Netns, program: Path, recorded: floor.Recording, folder: Path) -> Counter[int]:
    """The messages that the floor sends."""
    folder.mkdir()
    steps = folder.with_suffix(".steps")
    steps.write_text("\n".join(recorded.steps) + "\n")
    argv = [*straced.command(folder), str(program)]
    node.run(argv, env={"FLOOR_STEPS": str(steps), "CNI_NETNS": box.path})
    return floor.sent(folder)
