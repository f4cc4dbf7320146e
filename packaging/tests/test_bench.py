"""packaging/bench, with the smallest numbers: that it measures everything and says so, not how fast it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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
    assert len(rows) == 18
    for row in rows.values():
        assert row["ours"] > 0 or row["operation"].startswith("  ")
        assert all(value > 0 for value in row["others"].values())
        if row["ratio"] is not None:
            assert row["ratio"] == pytest.approx(row["ours"] / next(iter(row["others"].values())))
    assert rows["bridge + host-local: ADD"]["others"].keys() == {"reference"}
    assert rows["service, PSS after all the calls"]["unit"] == "MB"


def test_another_folder_of_plugins_is_measured_beside() -> None:
    text = bench("--only", "plain", "--plugin-dir", "/usr/lib/cni")
    head, first, *_ = text.splitlines()
    assert head.split() == ["operation", "ours", "reference", "cni", "ratio", "aim"]
    assert first.startswith("bridge + host-local: ADD")
