"""The executor under test, a process of its own in a sandbox, with an agent's environment and no more.

It is `python -m executor.main` of this tree, or the program named by MESOKIT_EXECUTOR: the same scenarios
then run against a frozen bundle.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from executor.tests.scenarios import processes
from executor.tests.scenarios.addresses import Tcp, Unix
from executor.tests.scenarios.processes import wait_until
from executor.tests.scenarios.scripted_agent import ScriptedAgent

AGENT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def program() -> list[str]:
    """The command line of the executor under test."""
    bundle = os.environ.get("MESOKIT_EXECUTOR")
    return [bundle] if bundle else [sys.executable, "-m", "executor.main"]


def agent_environment(agent: ScriptedAgent, sandbox: Path) -> dict[str, str]:
    """What an agent puts into an executor's environment; no HOME, no LANG, nothing of ours."""
    endpoint = f"{agent.where.ip}:{agent.where.port}" if isinstance(agent.where, Tcp) else "127.0.0.1:1"
    variables = {
        "LIBPROCESS_PORT": "0",
        "MESOS_AGENT_ENDPOINT": endpoint,
        "MESOS_CHECKPOINT": "1",
        "MESOS_DIRECTORY": str(sandbox),
        "MESOS_EXECUTOR_ID": agent.identity.executor_id,
        "MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD": "5secs",
        "MESOS_FRAMEWORK_ID": agent.identity.framework_id,
        "MESOS_HTTP_COMMAND_EXECUTOR": "0",
        "MESOS_RECOVERY_TIMEOUT": "15mins",
        "MESOS_SANDBOX": str(sandbox),
        "MESOS_SLAVE_ID": agent.identity.agent_id,
        "MESOS_SLAVE_PID": f"slave(1)@{endpoint}",
        "MESOS_SUBSCRIPTION_BACKOFF_MAX": "200ms",
        "MESOKIT_ENCODING": agent.encoding.value,
        "PATH": AGENT_PATH,
    }
    if isinstance(agent.where, Unix):
        variables["MESOS_DOMAIN_SOCKET"] = str(agent.where.path)
    if isinstance(agent.where, Tcp) and agent.where.tls is not None:
        variables["LIBPROCESS_SSL_ENABLED"] = "true"
    if agent.identity.token is not None:
        variables["MESOS_EXECUTOR_AUTHENTICATION_TOKEN"] = agent.identity.token
    return variables


class Executor:
    """One running executor."""

    def __init__(
        self,
        sandbox: Path,
        variables: Mapping[str, str],
        *,
        arguments: Sequence[str] = (),
        wrap: Sequence[str] = (),
    ) -> None:
        self.sandbox = sandbox
        self.environment = dict(variables)
        self.program = program()
        self._marker = f"MESOS_SANDBOX={sandbox}".encode()
        with (sandbox / "stdout").open("ab") as stdout, (sandbox / "stderr").open("ab") as stderr:
            self.process = subprocess.Popen(
                [*wrap, *self.program, *arguments],
                cwd=sandbox,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process that speaks to the agent: in a one-file bundle, the child of the boot loader."""
        pid = self.process.pid
        while True:
            mine = [child.pid for child in processes.children(pid) if self._is_boot_child(pid, child.pid)]
            if len(mine) != 1:
                return pid
            pid = mine[0]

    def _is_boot_child(self, parent: int, child: int) -> bool:
        """A one-file bundle runs as two processes; only the second has the interpreter mapped."""
        if "MESOKIT_EXECUTOR" not in os.environ or processes.command_line(child)[:1] != self.program:
            return False
        try:
            parent_maps = Path(f"/proc/{parent}/maps").read_text()
        except OSError:
            return False
        return "libpython" not in parent_maps

    @property
    def stdout(self) -> str:
        return (self.sandbox / "stdout").read_text(errors="replace")

    @property
    def log(self) -> str:
        """The executor's own log, which is apart from the tasks' output; empty before the first line."""
        try:
            return (self.sandbox / "mesokit-executor.log").read_text(errors="replace")
        except OSError:
            return ""

    @property
    def stderr(self) -> str:
        return (self.sandbox / "stderr").read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def wait_exit(self, patience: float = 60.0) -> int:
        """The exit status, negative for a signal; AssertionError when it runs on after `patience`."""
        try:
            return self.process.wait(patience)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the executor still runs after {patience:.0f} s") from None

    def own_pids(self) -> list[int]:
        """The executor's own processes: itself, its warden, the wrapper or boot loader before it."""
        name = Path(self.program[-1]).name
        return [
            pid
            for pid in processes.marked(self._marker)
            if any(Path(word).name == name for word in processes.command_line(pid))
        ]

    def task_pids(self) -> list[int]:
        """Live processes with this sandbox in their environment that are no part of the executor."""
        own = set(self.own_pids()) | {self.process.pid}
        return [pid for pid in processes.marked(self._marker) if pid not in own]

    def remaining(self) -> list[int]:
        """Every live process with this sandbox in its environment."""
        return processes.marked(self._marker)

    def wait_no_tasks(self, patience: float = 60.0) -> None:
        wait_until(
            lambda: not self.task_pids(),
            lambda: f"no task left; there are {[processes.command_line(pid) for pid in self.task_pids()]}",
            patience,
        )

    def end(self) -> None:
        """SIGKILL, then everything else must be gone by the executor's own means; AssertionError else."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, 9)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        try:
            wait_until(
                lambda: not self.remaining(),
                lambda: (
                    f"nothing left; there are {[processes.command_line(pid) for pid in self.remaining()]}"
                ),
                30.0,
            )
        finally:
            for pid in self.remaining():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
