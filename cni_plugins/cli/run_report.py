"""What `mesokit run` tells: the agent's observations as lines for a person, or one JSON object a line."""

from __future__ import annotations

import base64
import json
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TextIO

from mesos.v1 import mesos_pb2

from cni_plugins.spec.text import printable
from executor.local_agent.events import (
    ContainerGone,
    ContainerStarted,
    ExecutorExited,
    ExecutorSubscribed,
    FrameworkMessage,
    Note,
    Observation,
    PluginCalled,
    StatusUpdate,
)
from executor.protocol.mesos_json import to_json

Teller = Callable[[Observation], None]


def json_teller() -> Teller:
    """Tells on standard output: `{"event": NAME, "time": SECONDS, …}`, a TaskStatus in Mesos' own JSON."""

    def tell(observation: Observation) -> None:
        document: dict[str, Any] = {"event": type(observation).__name__, "time": round(time.time(), 3)}
        for field in fields(observation):
            document[field.name] = _plain(getattr(observation, field.name))
        print_line(document)

    return tell


def print_line(document: dict[str, Any]) -> None:
    """One JSON object on standard output, at once."""
    sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def text_teller(stream: TextIO | None = None) -> Teller:
    """Tells on a stream, a line or two for each; on standard error unless another is given, since standard
    output is left to the tasks.
    """
    names: dict[str, str] = {}
    widest = 10

    def tell(observation: Observation) -> None:
        nonlocal widest
        out = stream or sys.stderr
        if isinstance(observation, ContainerStarted):
            names[observation.container] = observation.executor
        who, what = describe(observation)
        if who == getattr(observation, "container", None):
            who = names.get(who, who[:8])  # the beginning of a UUID names a container without a name
        name = printable(who)
        widest = max(widest, len(name))
        moment = time.time()
        clock = time.strftime("%H:%M:%S", time.localtime(moment)) + f".{int(moment * 1000) % 1000:03d}"
        for number, line in enumerate(what.splitlines()):
            margin = clock if not number else " " * len(clock)
            out.write(f"{margin}  {name:<{widest}} {printable(line)}\n")
        out.flush()

    return tell


def describe(observation: Observation) -> tuple[str, str]:  # noqa: PLR0911  (a table, one line for each kind)
    """Whom an observation is about (a task, a network or a container) and what it says, for a person."""
    match observation:
        case PluginCalled():
            return observation.network, plugin_text(observation)
        case ContainerStarted(pid=pid, sandbox=sandbox, nsenter=nsenter, container=container):
            text = f"executor {pid} started, sandbox {sandbox}\nenter it with: {shlex.join(nsenter)}"
            return container, text
        case ExecutorSubscribed(container=container, transport=transport, encoding=encoding):
            return container, f"executor subscribed ({encoding} over {transport})"
        case StatusUpdate():
            return observation.task, status_text(observation)
        case FrameworkMessage(container=container, data=data):
            return container, f"message to the framework: {data[:200].decode(errors='backslashreplace')}"
        case ExecutorExited(container=container, exit=text):
            return container, f"executor {text}"
        case ContainerGone(container=container):
            return container, "container gone: its networks are detached, nothing of it runs"
        case Note(text=text):
            return "", text


def plugin_text(call: PluginCalled) -> str:
    """`ADD bridge eth0: 10.50.11.2/24, gateway 10.50.11.1 (14 ms)`."""
    if call.error:
        outcome = f": FAILED: {call.error}"
    elif call.addresses:
        gateways = f", gateway {', '.join(call.gateways)}" if call.gateways else ""
        outcome = f": {', '.join(call.addresses)}{gateways}"
    else:
        outcome = ": no addresses" if call.verb == "ADD" else ": done"
    return f"{call.verb} {call.plugin} {call.ifname}{outcome} ({call.seconds * 1000:.0f} ms)"


def status_text(update: StatusUpdate) -> str:
    """`TASK_FAILED (REASON_COMMAND_EXECUTOR_FAILED): exited with status 3`, and what else it carries."""
    text = update.state
    if update.state == "TASK_RUNNING" and update.addresses:
        text += f" on {', '.join(update.addresses)}"
    if update.reason:
        text += f" ({update.reason})"
    if update.healthy is not None:
        text += " healthy" if update.healthy else " unhealthy"
    if update.message:
        text += f": {update.message}"
    return text if update.source == "EXECUTOR" else f"{text} [said by the agent]"


def _plain(value: object) -> object:
    match value:
        case tuple():
            return [_plain(item) for item in value]
        case mesos_pb2.TaskStatus():
            return to_json(value)
        case bytes():
            return base64.b64encode(value).decode("ascii")
    return value
