"""What an app is: a document that people write, checked, with its defaults filled in. Never changed once
read.

Two forms: the talk's task.json (executor/local_agent/shortform.py; `curl -d @task.json`, one object or a
list), and the richer one beside it, which says `"version": 1`. Both become an `App`. What each key of the
second means is in form.py, from which the API's schema is made.
"""

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import Any

from executor.config.units import parse_duration
from executor.framework.sdk.resources import milli
from executor.framework.service.constraints import Constraint, parse_constraint
from executor.framework.service.faults import at, further_faults, kind_of
from executor.framework.service.form import FORM, from_talk, talk_key
from executor.local_agent.shapes import faults_of
from executor.local_agent.shortform import APPLICATION
from executor.local_agent.validation import DescriptionError, Fault, Json, fault


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One task of an instance. `document` holds command, healthcheck, kill and labels as they were written;
    `scalars` are thousandths of cpus, mem, disk, gpus.
    """

    name: str
    document: Json
    scalars: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class PortSpec:
    """A port of the agent that every instance gets: `number` 0 for any."""

    name: str
    number: int


@dataclass(frozen=True, slots=True)
class VolumeSpec:
    """Persistent disk of an instance: `size` in thousandths of a MiB, seen at `path` below the sandbox."""

    name: str
    size: int
    path: str


@dataclass(frozen=True, slots=True)
class UpdatePolicy:
    """How a new version replaces an old one. `floor` and `ceiling` are shares of the instances: as many at
    least many stay ready, at most so many more are there. `watch`, `deadline`: seconds.
    """

    floor: float = 1.0
    ceiling: float = 1.0
    canary: int = 0
    watch: float = 0.0
    deadline: float = 600.0
    failures: int = 3
    on_failure: str = "pause"


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """What follows an end that was not asked for: a wait from `delay` s on, times `factor` each time, up to
    `longest`, from the start again when an instance ran for `reset_after`. `attempts` 0: for ever.
    """

    delay: float = 1.0
    factor: float = 1.5
    longest: float = 300.0
    reset_after: float = 60.0
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class App:
    """A checked app. `version` names its content, the number of instances aside: scaling is no update.

    `drain`: seconds from an instance's leaving the ready ones to its KILL.
    """

    name: str
    document: Json = field(repr=False)
    instances: int
    kind: str
    tasks: tuple[TaskSpec, ...]
    ports: tuple[PortSpec, ...]
    role: str
    constraints: tuple[Constraint, ...]
    wait_for: str
    update: UpdatePolicy
    restart: RestartPolicy
    replace_after: float
    launch_timeout: float
    drain: float
    cron: str
    collision: str
    version: str
    volumes: tuple[VolumeSpec, ...] = ()
    reserve: bool = False

    @property
    def scalars(self) -> tuple[tuple[str, int], ...]:
        """What one instance needs, all tasks together, without its executor."""
        total: dict[str, int] = {}
        for task in self.tasks:
            for name, amount in task.scalars:
                total[name] = total.get(name, 0) + amount
        return tuple(total.items())


def read_apps(document: Json, source: str) -> list[App]:
    """Every app of a document of either form. Raises DescriptionError with all faults."""
    listed = document if isinstance(document, list) else [document]
    if not listed:
        raise DescriptionError(source, [fault("", document, "at least one app")])
    found: list[App] = []
    faults: list[Fault] = []
    for place, item in enumerate(listed):
        key = f"[{place}]" if isinstance(document, list) else ""
        try:
            found.append(read_app(item, source, key))
        except DescriptionError as error:
            faults += error.faults
    names = [app.name for app in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    faults += [fault("name", name, "a name of its own for every app") for name in twice]
    if faults:
        raise DescriptionError(source, faults)
    return found


def read_app(document: Json, source: str, key: str = "") -> App:
    """One app of either form. Raises DescriptionError."""
    if not isinstance(document, dict):
        raise DescriptionError(source, [fault(key, document, "an object with name and command")])
    prefix = f"{key}." if key else ""
    talk = document.get("version") is None
    if talk:
        faults = faults_of(document, APPLICATION, key)
        if faults:
            raise DescriptionError(source, faults)
        document = from_talk(document)
    faults = faults_of(document, FORM, key)
    if not faults:
        faults = list(further_faults(document, prefix))
    if talk:
        faults = [replace(item, key=talk_key(item.key, prefix)) for item in faults]
    if faults:
        raise DescriptionError(source, faults)
    return _app(document)


def _seconds(document: Json, path: tuple[str, ...], default: float) -> float:
    text = at(document, path)
    if text is None:
        return default
    return float("inf") if text == "never" else parse_duration(text) / 1e9


def _app(document: Json) -> App:
    update, restart = document.get("update") or {}, document.get("restart") or {}
    listed = document.get("tasks") or [{**document, "name": "task"}]
    readiness = document.get("readiness") or {}
    checked = any(task.get("healthcheck") for task in listed)
    instances = document.get("instances")
    return App(
        name=document["name"],
        document=document,
        instances=1 if instances is None else instances,
        kind=kind_of(document),
        tasks=tuple(TaskSpec(task["name"], task, _scalars(task)) for task in listed),
        ports=tuple(
            PortSpec(item.get("name") or f"port{place}", item.get("port") or 0)
            for place, item in enumerate(document.get("ports") or ())
        ),
        role=document.get("role") or "",
        constraints=tuple(
            parse_constraint(item["field"], item["operator"], item.get("value") or "")
            for item in document.get("constraints") or ()
        ),
        wait_for=(readiness.get("type") or ("healthy" if checked else "running")).lower(),
        update=UpdatePolicy(
            floor=_or(update.get("floor"), 1.0),
            ceiling=_or(update.get("ceiling"), 1.0),
            canary=_or(update.get("canary"), 0),
            watch=_seconds(document, ("readiness", "watch"), 0.0),
            deadline=_seconds(document, ("update", "deadline"), 600.0),
            failures=_or(update.get("failures"), 3),
            on_failure=(update.get("on_failure") or "pause").lower(),
        ),
        restart=RestartPolicy(
            delay=_seconds(document, ("restart", "delay"), 1.0),
            factor=_or(restart.get("factor"), 1.5),
            longest=_seconds(document, ("restart", "longest"), 300.0),
            reset_after=_seconds(document, ("restart", "reset_after"), 60.0),
            attempts=_or(restart.get("attempts"), 0),
        ),
        replace_after=_seconds(
            document, ("replace_after",), float("inf") if document.get("volumes") else 300.0
        ),
        launch_timeout=_seconds(document, ("launch_timeout",), 300.0),
        drain=_seconds(document, ("kill", "drain"), 0.0),
        cron=(document.get("schedule") or {}).get("cron") or "",
        collision=((document.get("schedule") or {}).get("collision") or "skip").lower(),
        version=version_of(document),
        volumes=tuple(
            VolumeSpec(item["name"], milli(item["size"]), item["path"])
            for item in document.get("volumes") or ()
        ),
        reserve=bool(document.get("reserve")),
    )


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _scalars(task: Json) -> tuple[tuple[str, int], ...]:
    resources = task.get("resources") or {}
    amounts = {
        "cpus": _or(resources.get("cpu"), 0.1),
        "mem": _or(resources.get("mem"), 32),
        "disk": _or(resources.get("disk"), 0),
        "gpus": _or(resources.get("gpu"), 0),
    }
    return tuple((name, milli(amount)) for name, amount in amounts.items() if amount)


_NOT_OF_THE_VERSION = (
    "instances",
    "update",
    "restart",
    "replace_after",
    "launch_timeout",
    "schedule",
    "kind",
)


def version_of(document: Json) -> str:
    """Twelve hexadecimal digits of what an instance is made of; what the service does with it counts not."""
    kept = {
        name: value
        for name, value in document.items()
        if name not in _NOT_OF_THE_VERSION and value is not None
    }
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]
