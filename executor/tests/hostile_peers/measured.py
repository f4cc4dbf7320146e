"""How long an executor takes to obey, whatever its peers do meanwhile; printed, and held to the grace."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from executor.tests.scenarios.events import kill, launch, shutdown, task
from executor.tests.scenarios.executor_process import Executor
from executor.tests.scenarios.processes import wait_until
from executor.tests.scenarios.scripted_agent import ScriptedAgent

KILL_GRACE = 1.0
"""Seconds that a KILL gives a task which ignores SIGTERM."""

SHUTDOWN_GRACE = 8.0
"""Seconds after which an agent ends an executor that was told to leave."""

SLACK = 6.0
"""Seconds beyond a grace, for a machine with other work to do. On a quiet one none is needed: see what is
printed."""

VARIABLES = {
    "MESOKIT_STAY": "true",
    "MESOKIT_ACK_TIMEOUT": "1secs",
    "MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD": f"{SHUTDOWN_GRACE:g}secs",
}
STUBBORN = "trap '' TERM; echo $$ >{name}.pid; while :; do sleep 0.1; done"


@contextmanager
def measured(what: str, limit: float, slack: float) -> Iterator[None]:
    """Print how long the block takes, and what is allowed for it (seconds). Raises AssertionError when it is
    longer than that and the slack.
    """
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    print(f"{what}: {took:.2f} s of {limit:g} s")  # noqa: T201 (pytest -s shows the figures)
    assert took <= limit + slack, f"{what} took {took:.2f} s, not {limit:g} s"


def start_stubborn(agent: ScriptedAgent, executor: Executor, name: str) -> None:
    """Launch a task that ignores SIGTERM, and wait until it runs."""
    agent.send(launch(task(name, STUBBORN.format(name=name))))
    wait_until((executor.sandbox / f"{name}.pid").exists, f"{name} to run")


def gone(executor: Executor, name: str) -> bool:
    """Whether that task's own process has ended."""
    text = (executor.sandbox / f"{name}.pid").read_text()
    with contextlib.suppress(ProcessLookupError, ValueError):
        os.kill(int(text), 0)
        return False
    return True


def kill_obeyed(agent: ScriptedAgent, executor: Executor, name: str, what: str) -> None:
    """Kill a stubborn task, and see it gone within the grace."""
    with measured(f"KILL, {what}", KILL_GRACE, SLACK):
        # One that is sent while the executor subscribes anew is lost, and a framework sends another.
        for _ in range(int(KILL_GRACE + SLACK)):
            agent.send(kill(name, KILL_GRACE))
            with contextlib.suppress(AssertionError):
                wait_until(lambda: gone(executor, name), f"{name} to be gone", KILL_GRACE + 0.5)
                return


def shutdown_obeyed(executor: Executor, what: str, agent: ScriptedAgent | None = None) -> None:
    """Tell it to leave, by its agent's event or by SIGTERM; see it and everything gone within the grace."""
    with measured(f"SHUTDOWN, {what}", SHUTDOWN_GRACE, SLACK):
        if agent is not None:
            agent.send(shutdown())
        else:
            os.kill(executor.pid, signal.SIGTERM)
        executor.wait_exit()
    executor.wait_no_tasks()
