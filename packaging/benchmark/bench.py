"""What packaging/bench does, after its set-up: all in one run, side by side, as a table or as JSON."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[2]
DIST = TOP / "dist"
REFERENCE = "/usr/lib/cni"

_ABOUT = """\
Measures mesokit, as bundled by packaging/build, beside the reference plugins and beside any other folder
of plugins given; then the executor. All of it runs in a private network and mount namespace. Times are
medians of the wall time from the start of a plugin's process to its end, by turns; a ratio is ours by the
reference's.
"""

MEASURES = (
    "plain",
    "alone",
    "dual",
    "reservations",
    "chain",
    "throughput",
    "growth",
    "memory",
    "executor",
    "framework",
    "policy",
    "view",
)

_APART = ("executor", "framework", "policy", "view")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `ours` and `others` are in `unit`; `ratio` is to the first of `others`."""

    operation: str
    unit: str
    ours: float
    others: dict[str, float]
    ratio: float | None
    aim: str
    met: bool | None


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="packaging/bench", description=_ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument(
        "--plugin-dir",
        action="append",
        default=[],
        metavar="DIR",
        help="measure these plugins too; repeatable",
    )
    parser.add_argument("--rounds", type=int, default=30, metavar="N", help="of each operation (%(default)s)")
    parser.add_argument(
        "--only", action="append", choices=MEASURES, metavar="WHAT", help=f"some of: {', '.join(MEASURES)}"
    )
    parser.add_argument(
        "--attachments", type=int, default=1000, metavar="N", help="to measure growth with (%(default)s)"
    )
    parser.add_argument(
        "--memory-calls", type=int, default=10_000, metavar="N", help="to measure memory with (%(default)s)"
    )
    parser.add_argument(
        "--crowd", type=int, default=200, metavar="N", help="ADDs by 16 workers at once (%(default)s)"
    )
    parser.add_argument("--source", action="store_true", help="measure this checkout instead of the bundle")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="mesokit-bench-", dir="/tmp") as name:
        rows = list(measure(options, Path(name)))
    if options.json:
        document = {"rounds": options.rounds, "cores": os.cpu_count(), "rows": [asdict(row) for row in rows]}
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        sys.stdout.write(table(rows))
    return 0


def measure(options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    from netns_tests.node import Node, until  # noqa: PLC0415 - --help works before the set-up

    wanted = options.only or MEASURES
    plugins, program = prepare(options, folder)
    others = {"reference": REFERENCE} | {Path(each).name or each: each for each in options.plugin_dir}
    with Node() as node:
        alone = "/run/alone"
        node.shell(f"mkdir -p {alone}/var/lib/cni/networks")
        service = node.popen([program, "node"])
        until(lambda: service.errors() or node.path("/run/mesokit/node.sock").is_socket(), what="the service")
        sides = [
            side("ours", plugins, 1, {}, one_call=True),
            *(side(name, path, 3 + i, {}) for i, (name, path) in enumerate(others.items())),
            side("one-shot", plugins, 2, {"MESOKIT_ROOT": alone}, one_call=True, service=False),
        ]
        plan = {
            "sides": sides,
            "rounds": options.rounds,
            "measure": [each for each in wanted if each not in _APART],
            "reservations": 5000,
            "calls": options.crowd,
            "workers": 16,
            "crowds": 3,
            "attachments": options.attachments,
            "memory_calls": options.memory_calls,
            "service": service.pid,
        }
        driver = node.popen(
            ["/usr/bin/python3", "-I", str(TOP / "packaging/benchmark/driver.py")],
            input=json.dumps(plan),
            stderr=2,
        )
        finished = driver.wait(3600)
        if finished.status:
            raise SystemExit("packaging/bench: a plugin call failed, see above")
        found = json.loads(finished.stdout)
        yield from plugin_rows(found, list(others))
        if "executor" in wanted:
            yield from executor_rows(node, options, folder)
        if "framework" in wanted:
            yield from framework_rows(node)
    if "policy" in wanted:
        with Node() as node:
            yield from policy_rows(node, options, program)
    if "view" in wanted:
        with Node() as node:
            yield from view_rows(node, options, plugins, program)


def side(
    name: str, folder: str, number: int, env: dict[str, str], *, one_call: bool = False, service: bool = True
) -> dict[str, Any]:
    keys = {"number": number, "env": env, "one_call": one_call, "service": service}
    return {"name": name, "folder": folder, **keys}


def prepare(options: argparse.Namespace, folder: Path) -> tuple[str, str]:
    """Our plugins and the program `mesokit`, unpacked as an operator would."""
    plugins = folder / "plugins"
    if options.source:
        sys.path.insert(0, os.fspath(TOP / "packaging/bundle"))
        import launchers  # noqa: PLC0415 - found by the line above

        launchers.from_source(plugins)
        return os.fspath(plugins), os.fspath(TOP / ".venv/bin/mesokit")
    with tarfile.open(DIST / "mesokit-cni.tar.gz") as archive:
        archive.extractall(plugins)
    return os.fspath(plugins), os.fspath(plugins / "mesokit")


def median(times: Sequence[float]) -> float:
    return statistics.median(times) * 1000


def row(
    operation: str,
    times: dict[str, dict[str, list[float]]],
    verb: str,
    others: Sequence[str],
    limit: float | None,
) -> Row:
    ours = median(times["ours"][verb])
    theirs = {name: median(times[name][verb]) for name in others}
    ratio = ours / theirs[others[0]]
    return compared(operation, ours, theirs, ratio, limit)


def compared(operation: str, ours: float, theirs: dict[str, float], ratio: float, limit: float | None) -> Row:
    aim = f"≤ {limit:g}" if limit else ""
    return Row(operation, "ms", ours, theirs, ratio, aim, ratio <= limit if limit else None)


_PAIRS = (
    ("plain", "bridge + host-local", 0.5, 0.7),
    ("alone", "the same, first and last of a bridge", 0.5, 0.3),
    ("dual", "the same, dual stack and ipMasq", 0.25, 0.35),
    ("reservations", "bridge + host-local, 5,000 reservations", 0.12, None),
    ("chain", "bridge, portmap (5 ports), bandwidth, tuning", 0.25, None),
)


def plugin_rows(found: dict[str, Any], others: Sequence[str]) -> Iterator[Row]:
    for measure_name, operation, add, delete in _PAIRS:
        if measure_name in found:
            yield row(f"{operation}: ADD", found[measure_name], "ADD", others, add)
            yield row(f"{operation}: DEL", found[measure_name], "DEL", others, delete)
    if "plain" in found:
        yield from one_shot_rows(found["plain"], others)
    if "throughput" in found:
        times = found["throughput"]
        ours, theirs = median(times["ours"]["ADD"]), {name: median(times[name]["ADD"]) for name in others}
        yield compared(
            "ADDs by 16 workers at once: time per ADD", ours, theirs, ours / theirs[others[0]], 0.5
        )
    if "growth" in found:
        for name, limit in (("ours", 1.2), (others[0], None)):
            for verb in ("ADD", "DEL"):
                times = found["growth"][name]
                few, many = median(times[verb]), median(times[f"{verb} crowded"])
                label = "" if name == "ours" else f", {name}'s"
                yield compared(
                    f"beside many attachments, reservations{label}: {verb}",
                    many,
                    {"beside 1": few},
                    many / few,
                    limit,
                )
    if "memory" in found:
        sizes = [each / 1e6 for each in found["memory"]]
        yield Row("service, PSS at start", "MB", sizes[0], {}, None, "", None)
        after = sizes[-1]
        yield Row("service, PSS after all the calls", "MB", after, {}, None, "≤ 45, flat", after <= 45)
        growth = after - sizes[len(sizes) // 2]
        yield Row("  of which grown in their second half", "MB", growth, {}, None, "", None)


def one_shot_rows(times: dict[str, dict[str, list[float]]], others: Sequence[str]) -> Iterator[Row]:
    for verb, limit in (("ADD", 8.0), ("DEL", None)):
        ours = median(times["one-shot"][verb])
        theirs = {name: median(times[name][verb]) for name in others}
        ratio = ours / theirs[others[0]]
        met = ratio <= limit and ours <= 100 if limit else None
        aim = "≤ 8, ≤ 100 ms" if limit else ""
        yield Row(f"bridge + host-local without service: {verb}", "ms", ours, theirs, ratio, aim, met)


_CONTAINERS = 300
_AIMS = {
    "exec to SUBSCRIBE": 200,
    "LAUNCH to RUNNING": 15,
    "task's exit to its update": 10,
    "last acknowledgement to exit": 50,
    "memory (PSS)": 32,
}


def executor_rows(node: Any, options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """The executor from each form it comes in."""
    with tarfile.open(DIST / "mesokit-executor.tar.gz") as archive:
        archive.extractall(folder)
    forms = {
        "directory": [os.fspath(folder / "mesokit-executor/mesokit-executor")],
        "one file": [os.fspath(DIST / "mesokit-executor")],
        "source": [],
    }
    for form, program in forms.items():
        sys.stderr.write(f"  measuring: executor, {form}\n")
        rounds = max(5, options.rounds // 3)
        script = os.fspath(TOP / "packaging/benchmark/executor_figures.py")
        env = {"PYTHONPATH": f"{TOP}:{TOP}/proto"}
        argv = [sys.executable, script, str(rounds), *program]
        figures = json.loads(node.run(argv, env=env, timeout=1800).stdout)
        for name, values in figures.items():
            sized = name.startswith("memory")
            middle = statistics.median(values) / 1e6 if sized else median(values)
            limit = _AIMS[name]
            met = middle <= limit if form == "directory" else None
            unit = "MB" if sized else "ms"
            aim = f"≤ {limit}" if form == "directory" else ""
            yield Row(f"executor ({form}): {name}", unit, middle, {}, None, aim, met)


def framework_rows(node: Any) -> Iterator[Row]:
    """The framework against the fake master, both in one process."""
    sys.stderr.write("  measuring: framework\n")
    script = os.fspath(TOP / "packaging/benchmark/framework_figures.py")
    env = {"PYTHONPATH": f"{TOP}:{TOP}/proto"}
    found = json.loads(node.run([sys.executable, script], env=env, timeout=1800).stdout)
    middle = {name: statistics.median(values) for name, values in found.items()}
    rate, restored, size = middle["launches"], middle["restore"], middle["memory"] / 1000
    yield Row("framework: launches a second", "/s", rate, {}, None, "≥ 300", rate >= 300)
    yield Row("framework: 10,000 tasks restored", "s", restored, {}, None, "≤ 3", restored <= 3)
    slow = max(found["match"])
    yield Row("framework: 100 offers, 10,000 pending", "ms", slow, {}, None, "≤ 250", slow <= 250)
    yield Row("framework: memory a task", "kB", size, {}, None, "≤ 3", size <= 3)


def policy_rows(node: Any, options: argparse.Namespace, program: str) -> Iterator[Row]:
    """One policy of 200 is changed, for 1,000 endpoints."""
    sys.stderr.write("  measuring: policy\n")
    script = os.fspath(TOP / "packaging/benchmark/policy_figures.py")
    rounds = max(5, options.rounds // 3)
    argv = [sys.executable, script, program, str(rounds)]
    found = json.loads(node.run(argv, env={"PYTHONPATH": os.fspath(TOP)}, timeout=1800).stdout)
    names = {
        "apply": "mesokit policy apply",
        "effect": "mesokit policy apply: until it holds",
        "again": "mesokit policy apply: nothing new",
        "nftables": "of it nf_tables",
        "service": "from file to effect by the service",
        "cpu": "processor time of a change in the service",
        "memory": "process of the service, PSS",
    }
    for name, title in names.items():
        middle = statistics.median(found[name])
        limit = {"nftables": 5, "service": 50}.get(name)
        met = None if limit is None else middle <= limit
        unit = "MB" if name == "memory" else "ms"
        yield Row(f"policy: {title}", unit, middle, {}, None, "" if limit is None else f"≤ {limit}", met)


def view_rows(node: Any, options: argparse.Namespace, plugins: str, program: str) -> Iterator[Row]:
    """The operator's commands beside 300 containers, and beside none."""
    sys.stderr.write("  measuring: view\n")
    script = os.fspath(TOP / "packaging/benchmark/view_figures.py")
    rounds = max(5, options.rounds // 3)
    argv = [sys.executable, script, program, plugins, str(rounds), str(_CONTAINERS)]
    found = json.loads(node.run(argv, env={"PYTHONPATH": os.fspath(TOP)}, timeout=1800).stdout)
    for name, middle in ((name, statistics.median(values)) for name, values in found.items()):
        counts = name != "--version"
        title = f"mesokit {name}, {_CONTAINERS} containers: processor time" if counts else "mesokit --version"
        yield Row(title, "ms", middle, {}, None, "≤ 150" if counts else "", middle <= 150 if counts else None)


def table(rows: Sequence[Row]) -> str:
    """For people: one line for each row."""
    others = list(dict.fromkeys(name for each in rows for name in each.others))
    width = max((len(each.operation) for each in rows), default=10) + 2
    head = f"{'operation':<{width}}{'ours':>9}{''.join(f'{name:>13}' for name in others)}{'ratio':>8}   aim\n"
    lines = [head]
    for each in rows:
        cells = "".join(f"{each.others[name]:>13.1f}" if name in each.others else " " * 13 for name in others)
        ratio = "" if each.ratio is None else f"{each.ratio:.2f}"
        verdict = "" if each.met is None else "  met" if each.met else "  NOT met"
        lines.append(
            f"{each.operation:<{width}}{each.ours:>6.1f} {each.unit}{cells}{ratio:>8}   {each.aim}{verdict}\n"
        )
    return "".join(lines)


if __name__ == "__main__":
    sys.exit(main())
