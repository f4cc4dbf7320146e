"""Our plugins, from this checkout, in a folder that a runtime can use: the launchers, alone (each call is a
process of its own) or with the node service behind them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from netns_tests.node import Node, NodeError, started, until

TOP = Path(__file__).resolve().parents[1]
#: Whether this is the machine that qemu.py boots.
IN_QEMU = "MESOKIT_IN_QEMU" in os.environ
MESOKIT = str(TOP / ".venv" / "bin" / "mesokit")


_LAUNCHERS = TOP / "packaging" / "bundle" / "launchers.py"


def make_folder(folder: Path) -> str:
    """Fills `folder` with every plugin of this checkout."""
    subprocess.run([sys.executable, _LAUNCHERS, folder], check=True, stdout=subprocess.DEVNULL)
    return str(folder)


def compiled() -> Path:
    """Where the launcher and the fronts are, compiled."""
    answer = subprocess.run([sys.executable, _LAUNCHERS], check=True, stdout=subprocess.PIPE)
    return Path(answer.stdout.decode().strip())


def signal_service(node: Node, name: str, of: str = "all") -> None:
    """Send a signal (`KILL`, `STOP`, …) to `all` processes of the node service, to its `workers` or its
    `keeper` alone; none may be there.
    """
    found = []
    for path in node.path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # one that has ended meanwhile
            if b"mesokit\0node\0" in path.read_bytes():
                found.append(path.parent.name)
    told = node.run([MESOKIT, "node", "status", "--json"], check=False) if of != "all" else None
    keeper = str(json.loads(told.text)["pid"]) if told is not None and told.status == 0 else ""
    chosen = [pid for pid in found if of == "all" or (pid == keeper) == (of == "keeper")]
    node.run(["busybox", "kill", f"-{name}", *chosen], check=False)


def remove_sockets(node: Node) -> None:
    """What a service that was killed leaves behind."""
    for name in ("node.sock", "dhcp.sock"):
        node.path(f"/run/mesokit/{name}").unlink(missing_ok=True)


#: As the service has it where nobody says another number.
_WORKERS = min(2, len(os.sched_getaffinity(0)))


def _processes(node: Node) -> int:
    """The service's, supervisor and workers."""
    found = 0
    for path in node.path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # one that has ended meanwhile
            found += b"mesokit\0node" in path.read_bytes()
    return found


@contextmanager
def service(node: Node) -> Iterator[None]:
    """The node service, while the block runs."""
    with started(node.popen([MESOKIT, "node"])) as running:
        listening = node.path("/run/mesokit/node.sock").is_socket
        # A worker that is forked behind the first snapshot would look like something left behind.
        until(
            lambda: running.ended() or (listening() and _processes(node) > _WORKERS),
            what="the node service listens with all its workers",
        )
        if running.ended():
            raise NodeError(f"the node service did not start: {running.errors().decode(errors='replace')}")
        yield
        if running.errors():
            sys.stderr.write(running.errors().decode(errors="replace"))
