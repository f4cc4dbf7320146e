"""One play: an executor of root's in one of its forms, hostile tasks of `nobody`, and a life around them."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Sequence
from pathlib import Path

import trustme
from mesos.v1 import mesos_pb2

from executor.monitoring.client import fetch, look
from executor.tests.attacks.forms import laid
from executor.tests.attacks.watch import Opens, make_outside, picture
from executor.tests.scenarios.events import group_task, kill, launch_group, shutdown
from executor.tests.scenarios.processes import alive, wait_until
from executor.tests.scenarios.scene import Scene
from executor.tests.scenarios.scripted_agent import ScriptedAgent
from executor.tests.scenarios.targets import http_server

ATTACKS = ("link", "hard", "fifo", "folder", "races", "code", "processes", "escapes")
ALL_OPTIONS = {
    "MESOKIT_OUTPUT_SIZE": "4KB",
    "MESOKIT_OUTPUT_BACKUPS": "2",
    "MESOKIT_PROGRESS_FILE": "progress/{task}/p",
    "MESOKIT_PROGRESS_REGEX": r"progress:\s+([0-9]*\.?[0-9]+)($|\s+.*)",
    "MESOKIT_PROGRESS_INTERVAL": "100ms",
    "MESOKIT_USAGE_INTERVAL": "100ms",
    "MESOKIT_LOG_LEVEL": "debug",
    "MESOKIT_LOG_SIZE": "8KB",
}
_HOSTILE = Path(__file__).with_name("hostile.py")
_INTERPRETER = str(Path(sys.executable).resolve())


def self_signed() -> ssl.SSLContext:
    """A server's context with a certificate that nobody should trust."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("elsewhere.example").configure_cert(context)
    return context


def of_user(user: str, task_id: str, script: str) -> mesos_pb2.TaskInfo:
    """A task of a user's."""
    info = group_task(task_id, script, grace=0.5)
    info.command.user = user
    return info


def wait_healthy(agent: ScriptedAgent, task_id: str) -> None:
    """Until a check of the task has gone well."""
    agent.wait(lambda: any(one.healthy for one in agent.statuses(task_id)), f"{task_id} is well")


def play(
    scene: Scene, form: str, options: dict[str, str], *, launches: int = 12, attacks: Sequence[str] = ATTACKS
) -> None:
    """Attack a whole life of an executor: starts, checks, questions, ends. `launches` short tasks are started
    while the attacks go on; each of them is a race for all the names that root makes for it.
    """
    outside = scene.directory / "outside"
    make_outside(outside)
    hostile = scene.directory / "hostile.py"
    hostile.write_bytes(_HOSTILE.read_bytes())
    scene.sandbox.chmod(0o750)
    ids = [f"short-{number}" for number in range(launches)]
    agent = scene.agent()
    with laid(form, scene.sandbox) as variables, http_server(tls=self_signed()) as port:
        executor = scene.start(agent, {**variables, "MESOKIT_STAY": "true", **options})
        before = picture(outside)
        told = " ".join(ids[:40])
        for attack in attacks:
            script = f"exec {_INTERPRETER} -I -S {hostile} {attack} {outside} {told}"
            agent.send(launch_group(of_user("nobody", attack, script)))
        for attack in attacks:
            wait_until(scene.path(f"ready-{attack}").exists, f"attack {attack}")
        checked = of_user("nobody", "checked", "exec sleep 1000")
        checked.health_check.type = mesos_pb2.HealthCheck.HTTP
        checked.health_check.http.scheme, checked.health_check.http.port = "https", port
        checked.health_check.delay_seconds = checked.health_check.interval_seconds = 0.1
        agent.send(launch_group(checked))
        for number, task_id in enumerate(ids):
            user = ("nobody", "daemon")[number % 2]
            # One of the attackers is its user too, and may have put a FIFO where its progress goes.
            file = '"${MESOKIT_PROGRESS_FILE:-/dev/null}"'
            script = f"echo progress: 50 half | timeout 1 tee {file}; seq 2000"
            agent.send(launch_group(of_user(user, task_id, script)))
            agent.wait_final(task_id)
            if number % 4 == 0 and scene.path("mesokit.sock").is_socket():
                look(scene.sandbox)
                fetch(scene.sandbox, "/metrics")
        wait_healthy(agent, "checked")
        agent.send(kill("escapes"))
        agent.wait_state("escapes", "KILLED")
        scene.path("stop").touch()
        agent.send(shutdown())
        assert executor.wait_exit() == 0
    assert picture(outside) == before
    assert scene.text("could") == ""
    said = [status.message + status.data.decode() for task_id in ids for status in agent.statuses(task_id)]
    assert not [text for text in (*said, executor.log) if "nobody may know" in text]
    finished = [task_id for task_id in ids if "FINISHED" in agent.states(task_id)]
    if not options:
        assert finished == ids
    wait_until(lambda: not any(map(alive, escaped(scene))), "the escaped ended")
    assert scene.sandbox.stat().st_uid == 0
    assert not [path for path in scene.sandbox.iterdir() if path.name.startswith("_MEI")]


def escaped(scene: Scene) -> list[int]:
    """The processes that ran away."""
    return [int(line) for line in scene.text("escaped").split()]


def quiet(scene: Scene, form: str) -> None:
    """No file of the program's is opened, and nothing is imported, once a task of another user runs."""
    scene.sandbox.chmod(0o750)
    agent = scene.agent()
    with laid(form, scene.sandbox) as variables, http_server(tls=self_signed()) as port:
        program = scene.path("checkout" if form == "checkout" else "mesokit-executor")
        executor = scene.start(agent, {**variables, **ALL_OPTIONS, "MESOKIT_LOG_SIZE": "1MB"})
        agent.send(launch_group(of_user("nobody", "first", "exec sleep 1000")))
        agent.wait_state("first", "RUNNING")
        unpacked = [path for path in scene.sandbox.iterdir() if path.name.startswith("_MEI")]
        watches = [Opens(path) for path in (program, *unpacked) if path.is_dir()]
        assert watches
        checked = of_user("nobody", "checked", "exec sleep 1000")
        checked.health_check.type = mesos_pb2.HealthCheck.HTTP
        checked.health_check.http.scheme, checked.health_check.http.port = "https", port
        checked.health_check.delay_seconds = checked.health_check.interval_seconds = 0.1
        commanded = of_user("nobody", "commanded", "exec sleep 1000")
        commanded.health_check.type = mesos_pb2.HealthCheck.COMMAND
        commanded.health_check.command.value = "echo checked; exit 0"
        commanded.health_check.delay_seconds = commanded.health_check.interval_seconds = 0.1
        agent.send(launch_group(checked), launch_group(commanded))
        agent.send(launch_group(of_user("no-such-user", "unknown", "exit 0")))
        agent.send(launch_group(of_user("daemon", "missing", "exec /no/such/program")))
        for task_id in ("checked", "commanded"):
            wait_healthy(agent, task_id)
        for task_id in ("unknown", "missing"):
            agent.wait_final(task_id)
        look(scene.sandbox)
        fetch(scene.sandbox, "/metrics")
        agent.restart()
        agent.wait(lambda: len(agent.subscribes()) > 1, "another subscription")
        agent.send(kill("commanded"))
        agent.wait_final("commanded")
        opened = [name for watch in watches for name in watch.take()]
        agent.send(shutdown())
        executor.wait_exit()
        opened += [name for watch in watches for name in watch.take()]
        for watch in watches:
            watch.close()
    assert not opened
    assert "not importing" not in executor.log, executor.log
