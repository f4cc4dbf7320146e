"""What packaging/bench does, after its set-up: all in one run, side by side, as a table or as JSON."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rows import FLOOR, Row, plugin_rows, sized, table

TOP = Path(__file__).resolve().parents[2]
DIST = TOP / "dist"
REFERENCE = "/usr/lib/cni"

_ABOUT = """\
Measures mesokit, as bundled by packaging/build, beside the reference plugins and beside any other folder
of plugins given; then the executor. All of it runs in a private network and mount namespace. Times are
medians of the wall time from the start of a plugin's process to its end, by turns, each container in a
network namespace of its own; a ratio is ours by the reference's. "floor" is a C program that asks the kernel
for what our plugin asks it for (recorded with strace), and nothing else: /floor is ours by that. Processes
are the machine's own: the service is in no pid namespace of its own.
"""

MEASURES = (
    "plain",
    "alone",
    "dual",
    "reservations",
    "chain",
    "policed",
    "throughput",
    "gone",
    "growth",
    "memory",
    "executor",
    "framework",
    "policy",
    "view",
    "web",
)

_APART = ("executor", "framework", "policy", "view", "web")


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
        "--attachments",
        type=int,
        action="append",
        metavar="N",
        help="to measure growth with; repeatable, in ascending order (1000; with 5000 it takes half an hour)",
    )
    parser.add_argument(
        "--memory-calls", type=int, default=2_000, metavar="N", help="to measure memory with (%(default)s)"
    )
    parser.add_argument(
        "--crowd", type=int, default=200, metavar="N", help="ADDs by 16 workers at once (%(default)s)"
    )
    parser.add_argument(
        "--gone", type=int, default=1_000, metavar="N", help="DELs, and GC of so many, at once (%(default)s)"
    )
    parser.add_argument(
        "--tasks", type=int, default=10_000, metavar="N", help="short ones by one executor (%(default)s)"
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
    with Node(pids=False) as node:
        alone = "/run/alone"
        node.shell(f"mkdir -p {alone}/var/lib/cni/networks")
        service = node.popen(["setpriv", "--pdeathsig", "KILL", program, "node"])
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
            "attachments": options.attachments or [1000],
            "memory_calls": options.memory_calls,
            "gone": options.gone,
            "service": service.pid,
            "floor": compiled("floor", folder),
        }
        driver = node.popen(
            ["/usr/bin/python3", "-I", str(TOP / "packaging/benchmark/driver.py")],
            input=json.dumps(plan),
            stderr=2,
        )
        try:
            finished = driver.wait(3600)
        finally:
            service.kill(signal.SIGTERM)
        if finished.status:
            raise SystemExit("packaging/bench: a plugin call failed, see above")
        found = json.loads(finished.stdout)
        yield from plugin_rows(found, list(others))
    with Node() as node:
        if "executor" in wanted:
            yield from executor_rows(node, options, folder)
        if "framework" in wanted:
            yield from framework_rows(node)
    if "policy" in wanted:
        with Node() as node:
            yield from policy_rows(node, options, program)
        with Node() as node:
            yield from packet_rows(node, options, folder)
    if "view" in wanted:
        with Node() as node:
            yield from view_rows(node, options, plugins, program)
    if "web" in wanted:
        with Node() as node:
            yield from web_rows(node, options, plugins, program, folder)


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


def compiled(name: str, folder: Path) -> str:
    """A program of ours in C, compiled as the launcher is."""
    program = folder / name
    flags = ("-static", "-Os", "-std=c11", "-Wall", "-Wextra", "-Werror", "-s")
    subprocess.run(["musl-gcc", *flags, "-o", program, f"{TOP}/packaging/benchmark/{name}.c"], check=True)
    return os.fspath(program)


_CONTAINERS = 300
_AIMS = {
    "exec to SUBSCRIBE": 50,
    "LAUNCH to RUNNING": 4,
    "task's exit to its update": 1.5,
    "last acknowledgement to exit": 50,
    "memory (PSS)": 22,
}
_UNPACKED_MB = 15
_REGISTERED_MS = 240  # 1.2 times what Mesos' command executor takes on a real agent
_TASKS_A_SECOND = 400


def executor_rows(node: Any, options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """The executor from each form it comes in."""
    with tarfile.open(DIST / "mesokit-executor.tar.gz") as archive:
        archive.extractall(folder)
    unpacked = sum(path.lstat().st_size for path in folder.rglob("mesokit-executor/**/*") if path.is_file())
    yield sized("executor (directory), unpacked", "MB", unpacked / 1e6, _UNPACKED_MB)
    lowest = executor_figures(node, options, ["--floor", compiled("executor_floor", folder)])
    forms = {
        "directory": [os.fspath(folder / "mesokit-executor/mesokit-executor")],
        "one file": [os.fspath(DIST / "mesokit-executor")],
        "source": [],
    }
    for form, program in forms.items():
        sys.stderr.write(f"  measuring: executor, {form}\n")
        for name, values in executor_figures(node, options, program).items():
            scale, unit = (1e-6, "MB") if name.startswith("memory") else (1e3, "ms")
            ours, floor = (statistics.median(each) * scale for each in (values, lowest[name]))
            each = sized(
                f"executor ({form}): {name}", unit, ours, _AIMS[name] if form == "directory" else None
            )
            yield replace(each, others={FLOOR: floor}, above_floor=ours / floor)
            if form == "directory" and name == "exec to SUBSCRIBE":
                fetched = ours + 1000 * statistics.median(fetch(folder) for _ in range(5))
                yield sized("executor (directory): fetch, extract, SUBSCRIBE", "ms", fetched, _REGISTERED_MS)
    yield from many_rows(node, options.tasks, forms["directory"][0])


def fetch(folder: Path) -> float:
    """Seconds that an agent takes for a local URI with `extract: true`: a copy, and tar."""
    sandbox = folder / "fetched"
    sandbox.mkdir()
    began = time.monotonic()
    shutil.copyfile(DIST / "mesokit-executor.tar.gz", sandbox / "archive.tar.gz")
    subprocess.run(["tar", "-C", sandbox, "-xf", sandbox / "archive.tar.gz"], check=True)
    seconds = time.monotonic() - began
    shutil.rmtree(sandbox)
    return seconds


def many_rows(node: Any, tasks: int, program: str) -> Iterator[Row]:
    """Short tasks, one after another, 64 at a time."""
    sys.stderr.write(f"  measuring: executor, {tasks:,} tasks\n")
    found = run_figures(node, [str(tasks), "--tasks", program])
    rate = found["tasks a second"][0]
    title = f"executor (directory): {tasks:,} tasks of 10 ms"
    yield Row(title, "/s", rate, {}, None, f"≥ {_TASKS_A_SECOND}", rate >= _TASKS_A_SECOND)
    spent = found["processor time a task"][0] * 1000
    yield sized("  of a processor a task", "ms", spent, None)
    yield sized("  memory (PSS) after them", "MB", found["memory (PSS) after them"][0] / 1e6, None)


def executor_figures(node: Any, options: argparse.Namespace, program: list[str]) -> dict[str, list[float]]:
    return run_figures(node, [str(max(5, options.rounds // 3)), *program])


def run_figures(node: Any, arguments: list[str]) -> dict[str, list[float]]:
    argv = [sys.executable, os.fspath(TOP / "packaging/benchmark/executor_figures.py"), *arguments]
    figures: dict[str, list[float]] = node.run(
        argv, env={"PYTHONPATH": f"{TOP}:{TOP}/proto"}, timeout=1800
    ).json()
    return figures


def framework_rows(node: Any) -> Iterator[Row]:
    """The framework against the fake master, each a process."""
    sys.stderr.write("  measuring: framework\n")
    script = os.fspath(TOP / "packaging/benchmark/framework_figures.py")
    env = {"PYTHONPATH": f"{TOP}:{TOP}/proto"}
    found = json.loads(node.run([sys.executable, script], env=env, timeout=1800).stdout)
    middle = {name: statistics.median(values) for name, values in found.items()}
    late = {name: sorted(values)[len(values) * 99 // 100] for name, values in found.items()}
    rate = middle["launches"]
    yield Row("framework: launches a second", "/s", rate, {}, None, "≥ 300", rate >= 300)
    yield sized("  processor time a launch", "ms", middle["launch_cpu"], 3.3)
    yield sized("  the fake master's", "ms", middle["master_cpu"], None)
    yield sized("framework: 10,000 tasks restored", "s", middle["restore"], 3)
    yield sized("  processor time", "s", middle["restore_cpu"], None)
    for name, title in (
        ("match", "framework: 100 of 1,000 offers, 10,000 pending, p99"),
        ("match_all", "framework: 1,000 offers at once, 10,000 pending, p99"),
    ):
        yield sized(title, "ms", late[name], 250)
        yield sized("  processor time, p99", "ms", late[f"{name}_cpu"], 250)
    yield sized("framework: memory a task", "kB", middle["memory"] / 1000, 3)
    yield sized("framework: idle, of a core", "%", middle["idle"], 0.5)


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
        "kernel": "of it nf_tables, processor time",
        "anew": "nf_tables, with chains made anew",
        "anew_cpu": "nf_tables, with chains made anew, processor time",
        "service": "from file to effect by the service",
        "cpu": "processor time of a change in the service",
        "memory": "process of the service, PSS",
    }
    for name, title in names.items():
        middle = statistics.median(found[name])
        limit = {"nftables": 5, "kernel": 5, "anew": 5, "service": 50}.get(name)
        met = None if limit is None else middle <= limit
        unit = "MB" if name == "memory" else "ms"
        yield Row(f"policy: {title}", unit, middle, {}, None, "" if limit is None else f"≤ {limit}", met)


_LAYOUTS = {
    "none": "no rules",
    "established": "established accept",
    "policy": "policy",
    "policies": "a chain for each of ten policies",
    "linear": "200 rules",
}
_BULK = 1.03


def packet_rows(node: Any, options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """What a packet between two ports of a bridge costs, beside other layouts of rules: as ratio to no rules,
    and in bulk to the same path with connections tracked.
    """
    sys.stderr.write("  measuring: policy, packets\n")
    script = os.fspath(TOP / "packaging/benchmark/packet_figures.py")
    argv = [sys.executable, script, compiled("packet_cost", folder), str(max(1, options.rounds // 3))]
    found = json.loads(node.run(argv, env={"PYTHONPATH": os.fspath(TOP)}, timeout=1800).stdout)
    middle = {name: statistics.median(values) for name, values in found["packets"].items()}
    for name, title in _LAYOUTS.items():
        yield Row(
            f"policy: a packet ({found['bridging']}), {title}",
            "ns",
            middle[name],
            {"no rules": middle["none"]},
            middle[name] / middle["none"],
            "",
            None,
        )
    # The least: whatever else the machine does makes it more.
    tracked, judged = (min(found["iperf3"][name]) for name in ("established", "policy"))
    yield Row(
        "policy: iperf3 with GSO, processor time of a gigabyte",
        "ms",
        judged * 1000,
        {"established accept": tracked * 1000},
        judged / tracked,
        f"≤ {_BULK} of it",
        judged / tracked <= _BULK,
    )


def view_rows(node: Any, options: argparse.Namespace, plugins: str, program: str) -> Iterator[Row]:
    """The operator's commands beside 300 containers, without the node service and with it."""
    sys.stderr.write("  measuring: view\n")
    script = os.fspath(TOP / "packaging/benchmark/view_figures.py")
    rounds = max(5, options.rounds // 3)
    argv = [sys.executable, script, program, plugins, str(rounds), str(_CONTAINERS)]
    found = json.loads(node.run(argv, env={"PYTHONPATH": os.fspath(TOP)}, timeout=1800).stdout)
    for way, commands in found.items():
        for name, taken in commands.items():
            for clock, values in taken.items():
                middle = statistics.median(values)
                title = f"mesokit {name}, {_CONTAINERS} containers, {way}: {clock}"
                met = middle <= 150 if clock == "cpu" and name != "--version" else None
                yield Row(title, "ms", middle, {}, None, "" if met is None else "≤ 150", met)


def web_rows(
    node: Any, options: argparse.Namespace, plugins: str, program: str, place: Path
) -> Iterator[Row]:
    """The page of 1,000 containers in a browser."""
    sys.stderr.write("  measuring: web\n")
    import web_figures  # noqa: PLC0415 - of netns_tests, as above

    for name, values in web_figures.measured(
        node, program, plugins, max(3, options.rounds // 6), place
    ).items():
        middle, limit = statistics.median(values), _PAINTED[name]
        title = f"mesokit web, {web_figures.CONTAINERS} containers: {name}"
        yield Row(title, "ms", middle, {}, None, f"≤ {limit}", middle <= limit)


_PAINTED = {"first paint": 1000, "update": 100}


if __name__ == "__main__":
    sys.exit(main())
