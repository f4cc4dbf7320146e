"""`mesokit run` on a node, for tests: what it is to run, and what it has told so far."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netns_tests.node import Node, Running, until
from netns_tests.plugins import MESOKIT, TOP
from netns_tests.snapshot import Snapshot, residue

NETWORKS = {
    "data-net": {"type": "bridge", "bridge": "data0", "isGateway": True, "ipam": "10.50.11.0/24"},
    "dev-net": {"type": "bridge", "bridge": "dev0", "isDefaultGateway": True, "ipam": "11.50.11.0/24"},
}
EXECUTOR = str(TOP / ".venv/bin/mesokit-executor")
REFERENCE = "/usr/lib/cni"
KEPT = (
    r"node: [^=]*\b(data0|dev0)\b",
    r"node: sysctl",
    r"(file|dir|link-file|socket) /var/lib/mesokit/agent",
)
STUB = shlex.join((str(TOP / ".venv/bin/python"), str(TOP / "executor/local_agent/tests/stub_executor.py")))
"""The command line of the stub executor; the encoding follows."""


@dataclass(frozen=True, slots=True)
class AgentRun:
    """One `mesokit run --json`."""

    running: Running

    @property
    def told(self) -> list[dict[str, Any]]:
        """Every event so far."""
        output = self.running.wait().stdout if self._has_ended() else self.running.output()
        whole, _, _ = output.rpartition(b"\n")
        return [json.loads(line) for line in whole.splitlines()]

    def find(self, event: str, **values: object) -> list[dict[str, Any]]:
        """The events of this name with these values."""
        wanted = {"event": event, **values}
        return [told for told in self.told if wanted.items() <= told.items()]

    def wait_for(self, event: str, **values: object) -> dict[str, Any]:
        """The first such event, once it has been told; it may not end before."""
        until(lambda: self.find(event, **values) or self._has_ended(), what=f"{event} {values}")
        found = self.find(event, **values)
        assert found, f"it ended without {event} {values}: {self.told} {self.running.wait().stderr!r}"
        return found[0]

    def states(self, task: str = "hello") -> list[str]:
        """The states of a task, in order."""
        return [told["state"] for told in self.find("StatusUpdate", task=task)]

    def end(self) -> int:
        """Its exit status, once it has ended by itself."""
        until(self._has_ended, what="mesokit run ends")
        return self.running.wait().status

    def _has_ended(self) -> bool:
        try:
            self.running.wait(0)
        except TimeoutError:
            return False
        return True


@contextmanager
def agent_run(
    node: Node,
    folder: Path,
    task: object,
    plugins: str,
    *options: str,
    networks: dict[str, Any] | None = None,
    keep: bool = True,
) -> Iterator[AgentRun]:
    """Run a TASK.json; it is killed at the end of the block if it still runs.

    `folder` gets the files. In a network's `ipam` a text stands for host-local on that subnet. Its sandboxes
    stay unless `keep` is false.
    """
    directory = folder / "net.d"
    directory.mkdir(exist_ok=True)
    for name, document in (NETWORKS if networks is None else networks).items():
        whole = {"name": name, **document}
        if isinstance(whole.get("ipam"), str):
            whole["ipam"] = {"type": "host-local", "subnet": whole["ipam"]}
        (directory / f"{name}.json").write_text(json.dumps(whole))
    (folder / "task.json").write_text(json.dumps(task))
    command = [MESOKIT, "run", str(folder / "task.json"), "--json", "--network-config-dir", str(directory)]
    kept = ["--keep-sandbox"] if keep else []
    run = AgentRun(node.popen([*command, "--plugin-dir", plugins, *kept, *options]))
    try:
        yield run
    finally:
        run.running.kill()


def short(cmd: str, networks: Sequence[str] = ("data-net", "dev-net"), **more: object) -> dict[str, object]:
    """A task in the short form, named hello."""
    attached = {"network": [{"name": name} for name in networks]}
    return {"name": "hello", "command": {"cmd": cmd}, "container": attached, **more}


def nothing_left(node: Node, before: Snapshot) -> None:
    """Fail unless all is gone but the sandboxes and what the reference's bridge plugin leaves for ever."""
    assert residue(node, before, allowed=KEPT) == []
