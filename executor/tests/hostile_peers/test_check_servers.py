"""Servers that a check asks and that never come to an end."""

from __future__ import annotations

import contextlib
import time

from mesos.v1 import mesos_pb2

from executor.checks.tests.servers import endless, self_signed
from executor.protocol import Encoding
from executor.tests.hostile_peers.measured import (
    KILL_GRACE,
    SLACK,
    STUBBORN,
    VARIABLES,
    gone,
    measured,
    shutdown_obeyed,
)
from executor.tests.scenarios.events import group_task, kill, launch, launch_group, task
from executor.tests.scenarios.processes import wait_until
from executor.tests.scenarios.scene import Scene, scenario

CROWD = 60.0
"""Seconds of slack among two dozen servers that send as fast as they can, on a machine that does more."""

SERVERS = {
    "100 Continue for ever": (b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.0),
    "an interim answer a moment": (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", 0.05),
    "fields without end": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n", 0.0),
    "a field without end": (b"HTTP/1.1 200 OK\r\nX: ", b"y", 0.0),
    "one byte a second": (b"", b"H", 1.0),
    "one byte of a field a moment": (b"HTTP/1.1 200 OK\r\nX: ", b"y", 0.02),
    "a body without end": (b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 999, 0.0),
    "chunks without end": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", 0.0),
    "redirects with a body without end": (b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", b"x" * 999, 0.0),
    "no HTTP at all": (b"", b"\0\xff" * 99, 0.0),
    "silence": (b"", b"", 60.0),
}


def _checked(name: str, port: int, scheme: str) -> mesos_pb2.TaskInfo:
    info = group_task(name, STUBBORN.format(name=name))
    check = info.health_check
    check.type = mesos_pb2.HealthCheck.HTTP
    check.http.port = port
    check.http.scheme = scheme
    check.delay_seconds = 0
    check.interval_seconds = 0.01
    check.timeout_seconds = 0
    check.consecutive_failures = 1_000_000
    check.grace_period_seconds = 0
    return info


@scenario()
def test_servers_without_end_hold_up_nothing(scene: Scene) -> None:
    """All at once, over HTTP and HTTPS, with no timeout in any check."""
    agent = scene.agent()
    executor = scene.start(agent, VARIABLES)
    tls = self_signed()
    with contextlib.ExitStack() as stack:
        names = {}
        for number, (what, (first, again, pause)) in enumerate(SERVERS.items()):
            for scheme in ("http", "https"):
                server = endless(first, again, pause=pause, tls=tls if scheme == "https" else None)
                name = f"t{number}-{scheme}"
                names[name] = f"{what} over {scheme}"
                agent.send(launch_group(_checked(name, stack.enter_context(server), scheme)))
        for name in names:
            agent.wait_state(name, "RUNNING")
            wait_until(scene.path(f"{name}.pid").exists, f"{name} to run")
        time.sleep(1.0)
        with measured("a task beside them", 1.0, 20.0):
            agent.send(launch(task("beside", "exit 0")))
            agent.wait_state("beside", "FINISHED")
        victims = list(names)[::3]
        for name in victims:
            with measured(f"KILL, {names[name]}", KILL_GRACE, CROWD):
                agent.send(kill(name, KILL_GRACE))
                agent.wait_state(name, "KILLED")
            assert gone(executor, name)
        shutdown_obeyed(executor, f"{len(names) - len(victims)} such servers")


@scenario(Encoding.PROTOBUF)
def test_a_server_faster_than_its_reader(scene: Scene) -> None:
    """Alone, so that there is always more to read: the owner thread must not wait for it to stop."""
    agent = scene.agent()
    executor = scene.start(agent, VARIABLES)
    with endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n") as port:
        agent.send(launch_group(_checked("t", port, "http")))
        wait_until(scene.path("t.pid").exists, "t to run")
        time.sleep(1.0)
        with measured("KILL, 100 Continue faster than it is read", KILL_GRACE, SLACK):
            agent.send(kill("t", KILL_GRACE))
            wait_until(lambda: gone(executor, "t"), "t to be gone")
        shutdown_obeyed(executor, "100 Continue faster than it is read")
