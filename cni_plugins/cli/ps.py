"""`mesokit ps`: what the executors on this machine are doing, asked of their inspect sockets."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import socket
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from cni_plugins.cli.addresses import of_process
from cni_plugins.cli.table import aligned
from cni_plugins.spec.text import printable
from executor.monitoring.client import NAME, InspectError, connect, look

_COLUMNS = ("TASK", "STATE", "PID", "PROCS", "CPU", "MEMORY", "HEALTH", "PROGRESS", "SINCE")
_PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid
_SECONDS = 2.0  # for an executor to answer; one that is stopped never does
_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class _Look:
    """What came of asking one executor: a state, or a sentence that says why there is none."""

    sandbox: Path
    state: dict[str, Any]
    trouble: str = ""


@click.command("ps")
@click.argument("where", metavar="[SANDBOX|PID]", required=False, type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print the whole state as JSON, one executor a line.")
def command(where: str | None, as_json: bool) -> None:
    """Show the tasks of executors: states, processes, health, usage, and what the agent has not acknowledged.

    SANDBOX is an executor's sandbox directory; PID is the number of an executor, or of any process that
    runs in a sandbox. Without either, every executor on this machine that this user may ask. Exit status:
    0, also when there is none; 1 when one does not answer.

    \b
    mesokit ps                  every executor
    mesokit ps 4711             the one that process 4711 belongs to
    mesokit ps --json | jq .    all that is known
    """
    hidden = 0
    if where is None:
        sandboxes, hidden = _all_sandboxes()
    else:
        sandboxes = [_sandbox(where)]
    with ThreadPoolExecutor(_AT_ONCE) as several:
        looks = list(several.map(_ask, sandboxes))
    shown = 0
    for each in looks:
        text = "" if each.trouble else _text(each, as_json=as_json)
        if each.trouble or not text:
            what = each.trouble or f"what answers in {each.sandbox} is no mesokit-executor of this version"
            click.echo(f"mesokit ps: {printable(what)}", err=True)
            continue
        click.echo(("\n" if shown and not as_json else "") + text)
        shown += 1
    if not looks:
        click.echo("no executor runs here" + (" that this user may see" if hidden else ""), err=True)
    if hidden:
        click.echo(
            f"mesokit ps: {hidden} processes of other users cannot be looked into; root sees every executor",
            err=True,
        )
    sys.exit(1 if shown < len(looks) else 0)


def _ask(sandbox: Path) -> _Look:
    """One executor's state, with the addresses of its network namespace."""
    shown = sandbox.resolve() if sandbox.is_relative_to("/proc") else sandbox
    try:
        state = look(sandbox, _SECONDS)
    except InspectError as error:
        return _Look(shown, {}, str(error))
    return _Look(shown, {**state, "addresses": _addresses(sandbox)})


def _addresses(sandbox: Path) -> list[str]:
    """Those of the executor's network namespace; none where it is ours, or cannot be told."""
    try:
        with connect(sandbox, _SECONDS) as connection:
            peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        pid = _PEER.unpack(peer)[0]  # as this process's pid namespace numbers it
        return of_process(pid) if pid else []
    except OSError:
        return []


def _text(each: _Look, *, as_json: bool) -> str:
    """A state as text; "" when it is none of ours."""
    try:
        if as_json:
            return json.dumps({"sandbox": str(each.sandbox), **each.state})
        return describe(each.sandbox, each.state)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return ""


def _sandbox(where: str) -> Path:
    """The directory to ask in. Raises click.ClickException."""
    try:
        return _sandbox_named(where)
    except OSError as error:
        raise click.ClickException(f"{where}: {error.strerror}") from None


def _sandbox_named(where: str) -> Path:
    if where.isascii() and where.isdigit() and not Path(where).exists():
        try:
            found = _sandbox_of(int(where))
        except PermissionError:
            raise click.ClickException(f"process {where} is another user's: ask as root") from None
        if found is None:
            there = Path(f"/proc/{where}").exists()
            raise click.ClickException(f"process {where} " + ("runs in no sandbox" if there else "is gone"))
        return found
    path = Path(where)
    if path.is_socket():
        return path.parent
    if not path.is_dir():
        raise click.ClickException(f"{where} is neither a directory nor the number of a process")
    return path


def _sandbox_of(pid: int) -> Path | None:
    """The sandbox that a process works in, through /proc, so that it may lie in another mount namespace.
    PermissionError where that may not be seen.
    """
    here = Path(f"/proc/{pid}/cwd")
    try:
        # A task may have gone below its sandbox; paths stay within the process's own view.
        inside = here.readlink()
        root = Path(f"/proc/{pid}/root")
        for candidate in (here, *(root / str(path).lstrip("/") for path in inside.parents)):
            if (candidate / NAME).is_socket():
                return candidate
    except PermissionError:
        raise
    except OSError:
        return None
    return None


def _all_sandboxes() -> tuple[list[Path], int]:
    """One sandbox for each executor that any process works in; how many processes could not be looked
    into.
    """
    found: dict[tuple[int, int], Path] = {}
    hidden = 0
    for pid in sorted(int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
        try:
            sandbox = _sandbox_of(pid)
        except PermissionError:
            hidden += os.geteuid() != 0
            continue
        if sandbox is not None:
            with contextlib.suppress(OSError):  # it may have left since
                status = (sandbox / NAME).stat()
                found.setdefault((status.st_dev, status.st_ino), sandbox)
    return list(found.values()), hidden


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
    if state.get("addresses"):
        lines.append(f"  addresses {', '.join(state['addresses'])}")
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
