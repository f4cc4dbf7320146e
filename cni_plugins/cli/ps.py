"""`mesokit ps`: what the executors on this machine are doing, asked of their inspect sockets."""

from __future__ import annotations

import contextlib
import datetime
import json
import sys
from pathlib import Path
from typing import Any

import click

from cni_plugins.cli.table import aligned
from cni_plugins.spec.text import printable
from executor.monitoring.client import NAME, InspectError, look

_COLUMNS = ("TASK", "STATE", "PID", "PROCS", "CPU", "MEMORY", "HEALTH", "PROGRESS", "SINCE")


@click.command("ps")
@click.argument("where", metavar="[SANDBOX|PID]", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the whole state as JSON, one executor a line.")
def command(where: str | None, as_json: bool) -> None:
    """Show the tasks of executors: states, processes, health, usage, and what the agent has not acknowledged.

    SANDBOX is an executor's sandbox directory; PID is the number of an executor, or of any process that
    runs in a sandbox. Without either, every executor on this machine that this user may ask.
    """
    if where is None:
        sandboxes = _all_sandboxes()
        if not sandboxes:
            raise click.ClickException(f"no executor found: no process here works beside a {NAME}")
    else:
        sandboxes = [_sandbox(where)]
    failed = False
    for number, sandbox in enumerate(sandboxes):
        try:
            state = look(sandbox)
            shown = sandbox.resolve() if sandbox.is_relative_to("/proc") else sandbox
            text = json.dumps({"sandbox": str(shown), **state}) if as_json else describe(shown, state)
        except InspectError as error:
            click.echo(f"mesokit ps: {printable(str(error))}", err=True)
            failed = True
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            what = f"what answers in {sandbox} is no mesokit-executor of this version"
            click.echo(f"mesokit ps: {printable(what)}", err=True)
            failed = True
        else:
            click.echo(("\n" if number and not as_json else "") + text)
    sys.exit(1 if failed else 0)


def _sandbox(where: str) -> Path:
    """The directory to ask in. Raises click.ClickException."""
    try:
        return _sandbox_named(where)
    except OSError as error:
        raise click.ClickException(f"{where}: {error.strerror}") from None


def _sandbox_named(where: str) -> Path:
    if where.isascii() and where.isdigit() and not Path(where).exists():
        found = _sandbox_of(int(where))
        if found is None:
            raise click.ClickException(f"process {where} is gone, in no sandbox, or not yours to see")
        return found
    path = Path(where)
    if path.is_socket():
        return path.parent
    if not path.is_dir():
        raise click.ClickException(f"{where} is neither a directory nor the number of a process")
    return path


def _sandbox_of(pid: int) -> Path | None:
    """The sandbox that a process works in, through /proc, so that it may lie in another mount namespace."""
    here = Path(f"/proc/{pid}/cwd")
    try:
        # A task may have gone below its sandbox; paths stay within the process's own view.
        inside = here.readlink()
        root = Path(f"/proc/{pid}/root")
        for candidate in (here, *(root / str(path).lstrip("/") for path in inside.parents)):
            if (candidate / NAME).is_socket():
                return candidate
    except OSError:
        return None
    return None


def _all_sandboxes() -> list[Path]:
    """One sandbox for each executor that any process works in."""
    found: dict[tuple[int, int], Path] = {}
    for pid in sorted(int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
        sandbox = _sandbox_of(pid)
        if sandbox is not None:
            with contextlib.suppress(FileNotFoundError):  # it may have left since
                status = (sandbox / NAME).stat()
                found.setdefault((status.st_dev, status.st_ino), sandbox)
    return list(found.values())


def describe(sandbox: Path, state: dict[str, Any]) -> str:
    """The state as text: a line for the executor, a table of its tasks, a line for each thing that is
    wrong.
    """
    connection = state["connection"]
    age = datetime.timedelta(seconds=int(state["now"] - state["started_at"]))
    lines = [
        f"executor {state['executor_id']} of framework {state['framework_id']}",
        f"  pid {state['pid']}, up {age}, {connection['phase']} with {connection['endpoint']}"
        + (", shutting down" if state["shutting_down"] else ""),
        f"  sandbox {sandbox}",
    ]
    container = state["container"]
    if container and container["memory_bytes"] is not None:
        limit = container["memory_limit_bytes"]
        of_limit = f" of {_size(limit)}" if limit else ""
        lines.append(f"  container memory {_size(container['memory_bytes'])}{of_limit}")
    rows: list[tuple[str, ...]] = [_COLUMNS]
    rows += [_row(task, state["now"]) for task in state["tasks"]]
    if len(rows) > 1:
        lines += aligned(rows, indent="  ")
    ended = ", ".join(f"{count} {name}" for name, count in sorted(state["ended_by_state"].items()))
    if ended:
        lines.append(f"  ended: {ended}")
    for update in state["unacknowledged"]:
        lines.append(f"  unacknowledged: {update['state']} of task {update['task_id']}")
    for task in state["tasks"]:
        if task["output_problem"]:
            lines.append(f"  task {task['id']}: {task['output_problem']}")
        for name in ("health_checks", "checks"):
            if task[name] and not task[name][-1]["ok"]:
                lines.append(f"  task {task['id']}: {task[name][-1]['text']}")
    return "\n".join(map(printable, lines))


def _row(task: dict[str, Any], now: float) -> tuple[str, ...]:
    usage, progress = task["usage"], task["progress"]
    health = {None: "-", True: "healthy", False: "unhealthy"}[task["healthy"]]
    since = datetime.timedelta(seconds=int(now - task["history"][-1]["at"])) if task["history"] else "-"
    return (
        task["id"],
        task["state"],
        str(task["pid"] or "-"),
        str(len(task["pids"])),
        f"{usage['user_seconds'] + usage['system_seconds']:.2f}s" if usage else "-",
        _size(usage["memory_bytes"]) if usage else "-",
        health,
        f"{progress['percent']}% {progress['message']}".strip() if progress else "-",
        str(since),
    )


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1024:
            return f"{count:.0f}{unit}" if unit == "B" else f"{count:.1f}{unit}"
        count /= 1024
    return f"{count:.1f}TB"
