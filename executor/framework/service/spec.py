"""What an app is: a document that people write, checked, with its defaults filled in. Never changed once
read.

Two forms: the talk's task.json (executor/local_agent/shortform.py; `curl -d @task.json`, one object or a
list), and the richer one beside it, which says `"version": 1`. Both become an `App`. What each key of the
second means is in `FORM`, from which the reference in README.md and the API's schema are made.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from executor.config.units import parse_duration
from executor.framework.sdk.resources import InvalidResourceError, milli
from executor.framework.service.constraints import Constraint, ConstraintError, parse_constraint
from executor.framework.service.cron import CronError, parse_cron
from executor.local_agent.shapes import Flag, Kind, ListOf, MapOf, Number, Object, Text, faults_of
from executor.local_agent.shortform import APPLICATION
from executor.local_agent.validation import DescriptionError, Fault, Json, fault, missing

MAX_INSTANCES = 10_000
MAX_DOCUMENT = 512 * 1024
"""Bytes of one app as JSON."""

_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
KINDS = ("service", "job", "cron")
COLLISIONS = ("skip", "replace", "queue")
ON_FAILURE = ("pause", "rollback", "continue")

_DURATION = Text()


def _keys(kind: Kind) -> Mapping[str, Kind]:
    assert isinstance(kind, Object)
    return kind.keys


_TALKS_CONTAINER = _keys(APPLICATION.keys["container"])
_COMMAND = Object(
    {
        "cmd": Text(),
        "argv": ListOf(Text()),
        "user": Text(),
        "uris": ListOf(
            Object(
                {
                    "uri": Text(),
                    "extract": Flag(),
                    "execute": Flag(),
                    "cache": Flag(),
                    "output_file": Text(),
                },
                ("uri",),
            )
        ),
        "environment": MapOf(Text()),
        "secrets": MapOf(Text()),
    }
)
_READINESS = Object(
    {
        "type": Text(("healthy", "running")),
        "watch": _DURATION,
    }
)
_TASK_KEYS = {
    "command": _COMMAND,
    "resources": Object({"cpu": Number(), "mem": Number(), "disk": Number(), "gpu": Number(whole=True)}),
    "healthcheck": APPLICATION.keys["healthcheck"],
    "kill": Object({"grace": _DURATION, "drain": _DURATION}),
    "labels": MapOf(Text()),
}
_ANY_CONSTRAINT = ListOf(
    Object({"field": Text(), "operator": Text(), "value": Text()}, ("field", "operator"))
)

FORM = Object(
    {
        "version": Number(1, 1, whole=True),
        "name": Text(),
        "kind": Text(KINDS),
        "instances": Number(0, MAX_INSTANCES, whole=True),
        **_TASK_KEYS,
        "tasks": ListOf(Object({"name": Text(), **_TASK_KEYS}, ("name", "command"))),
        "ports": ListOf(Object({"name": Text(), "port": Number(0, 65535, whole=True)})),
        "role": Text(),
        "container": Object({name: _TALKS_CONTAINER[name] for name in ("network", "volume")}),
        "constraints": _ANY_CONSTRAINT,
        "readiness": _READINESS,
        "update": Object(
            {
                "floor": Number(0, 1),
                "ceiling": Number(0, 10),
                "canary": Number(0, MAX_INSTANCES, whole=True),
                "deadline": _DURATION,
                "failures": Number(0, 100_000, whole=True),
                "on_failure": Text(ON_FAILURE),
            }
        ),
        "restart": Object(
            {
                "delay": _DURATION,
                "factor": Number(1, 100),
                "longest": _DURATION,
                "reset_after": _DURATION,
                "attempts": Number(0, 1_000_000, whole=True),
            }
        ),
        "replace_after": _DURATION,
        "launch_timeout": _DURATION,
        "max_completion_time": _DURATION,
        "restarted": Text(),
        "schedule": Object({"cron": Text(), "collision": Text(COLLISIONS)}, ("cron",)),
    },
    ("name",),
)


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
    if document.get("version") is None:
        faults = faults_of(document, APPLICATION, key)
        if faults:
            raise DescriptionError(source, faults)
        document = from_talk(document)
    faults = faults_of(document, FORM, key)
    prefix = f"{key}." if key else ""
    if not faults:
        faults = list(_further_faults(document, prefix))
    if faults:
        raise DescriptionError(source, faults)
    return _app(document)


def from_talk(document: Json) -> Json:
    """The talk's form in the richer one's words; `retry`, `filters` and `strategy` keep their meaning."""
    found: dict[str, Any] = {"version": 1, "name": document["name"]}
    found["kind"] = "job"  # the talk's framework starts a task again until it finishes
    found["instances"] = document["instances"] if document.get("instances") is not None else 1
    for name in ("command", "labels", "healthcheck"):
        if document.get(name) is not None:
            found[name] = document[name]
    resources = document.get("resources") or {}
    amounts = {name: resources[name] for name in ("cpu", "mem") if resources.get(name) is not None}
    disk = (resources.get("disk") or {}).get("size")
    if disk is not None:
        amounts["disk"] = disk
    if amounts:
        found["resources"] = amounts
    if resources.get("role"):
        found["role"] = resources["role"]
    container = document.get("container") or {}
    kept = {name: container[name] for name in ("network", "volume") if container.get(name)}
    if kept:
        found["container"] = kept
    constraints = [
        {"field": "*", "operator": "any", "value": ",".join(item.get("value") or [])}
        for item in document.get("filters") or ()
        if item.get("value")
    ]
    if ((document.get("strategy") or {}).get("type") or "").lower() == "unique":
        constraints.append({"field": "@hostname", "operator": "unique"})
    if constraints:
        found["constraints"] = constraints
    retry = document.get("retry") or {}
    policy: dict[str, Any] = {}
    if retry.get("time"):
        policy["delay"] = retry["time"]
    if retry.get("exp_backoff") is not None:
        policy["factor"] = 2 if retry["exp_backoff"] else 1
    if retry.get("total_retries") is not None:
        policy["attempts"] = retry["total_retries"]
    if policy:
        found["restart"] = policy
    return found


def _further_faults(document: Json, prefix: str) -> Iterator[Fault]:
    name = document["name"]
    if not 1 <= len(name) <= 100 or not _NAME.issuperset(name) or name[0] in ".-":
        yield fault(f"{prefix}name", name, "1 to 100 letters, digits, dots, dashes or underscores")
    if bool(document.get("command")) == bool(document.get("tasks")):
        if document.get("tasks"):
            yield fault(f"{prefix}tasks", "…", "either command or tasks, not both")
        else:
            yield missing(f"{prefix}command", "an object with cmd or argv, or a list under tasks")
    for place, task in enumerate(document.get("tasks") or ()):
        where = f"{prefix}tasks[{place}]."
        if not _NAME.issuperset(task["name"]) or not 1 <= len(task["name"]) <= 60:
            yield fault(f"{where}name", task["name"], "1 to 60 letters, digits, dots, dashes or underscores")
        yield from _task_faults(task, where)
    names = [task["name"] for task in document.get("tasks") or ()]
    for twice in sorted({item for item in names if names.count(item) > 1}):
        yield fault(f"{prefix}tasks", twice, "a name of its own for every task")
    if document.get("command"):
        yield from _task_faults(document, prefix)
    yield from _duration_faults(document, prefix)
    for place, item in enumerate(document.get("constraints") or ()):
        try:
            parse_constraint(item["field"], item["operator"], item.get("value") or "")
        except ConstraintError as error:
            yield Fault(f"{prefix}constraints[{place}]", str(error), error.expected)
    yield from _kind_faults(document, prefix)
    if len(json.dumps(document)) > MAX_DOCUMENT:
        yield Fault(prefix.rstrip("."), "a large document", f"at most {MAX_DOCUMENT // 1024} kB of JSON")


def _kind_faults(document: Json, prefix: str) -> Iterator[Fault]:
    kind, schedule = _kind_of(document), document.get("schedule")
    if (kind == "cron") != bool(schedule):
        if schedule:
            yield fault(f"{prefix}kind", kind, '"cron", as there is a schedule')
        else:
            yield missing(f"{prefix}schedule", "an object with cron, as kind is cron")
    if schedule:
        try:
            parse_cron(schedule["cron"])
        except CronError as error:
            yield Fault(f"{prefix}schedule.cron", str(error), "five fields: minute hour day month weekday")


def _task_faults(task: Json, prefix: str) -> Iterator[Fault]:
    command = task.get("command") or {}
    if bool(command.get("cmd")) == bool(command.get("argv")):
        if command.get("argv"):
            yield fault(f"{prefix}command.argv", command["argv"], "either cmd (a shell's) or argv, not both")
        else:
            yield missing(f"{prefix}command.cmd", "a command line, or a list under argv")
    for name in command.get("environment") or {}:
        if not name or "=" in name or "\0" in name:
            yield fault(f"{prefix}command.environment", name, "a name without =")
        elif name in (command.get("secrets") or {}):
            yield fault(f"{prefix}command.secrets", name, "a name that environment does not have")
    for key, text in _texts(command, f"{prefix}command"):
        if "\0" in text:
            yield fault(key, text, "text without NUL")
    check = task.get("healthcheck")
    if check and not check.get(check["type"].lower()):
        kind = check["type"].lower()
        yield missing(f"{prefix}healthcheck.{kind}", f'an object, as healthcheck.type is "{check["type"]}"')
    for name, amount in (task.get("resources") or {}).items():
        try:
            if amount is not None and milli(amount) == 0 and amount != 0:
                yield fault(f"{prefix}resources.{name}", amount, "0, or at least 0.001")
        except InvalidResourceError:
            yield fault(f"{prefix}resources.{name}", amount, "an amount")


def _texts(value: Json, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _texts(item, f"{key}.{name}")
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from _texts(item, f"{key}[{place}]")


_DURATIONS = (
    ("replace_after",),
    ("launch_timeout",),
    ("max_completion_time",),
    ("readiness", "watch"),
    ("update", "deadline"),
    ("restart", "delay"),
    ("restart", "longest"),
    ("restart", "reset_after"),
    ("kill", "grace"),
    ("kill", "drain"),
)


def _duration_faults(document: Json, prefix: str) -> Iterator[Fault]:
    places = [(document, path, f"{prefix}{'.'.join(path)}") for path in _DURATIONS]
    for number, task in enumerate(document.get("tasks") or ()):
        places.append((task, ("kill", "grace"), f"{prefix}tasks[{number}].kill.grace"))
    for holder, path, key in places:
        text = _at(holder, path)
        if text is None or (text == "never" and path == ("replace_after",)):
            continue
        try:
            parse_duration(text)
        except ValueError as error:
            yield Fault(key, json.dumps(text), f"a duration such as 5secs or 2mins ({error})")


def _at(document: Json, path: tuple[str, ...]) -> Json:
    for name in path:
        document = (document or {}).get(name)
    return document


def _seconds(document: Json, path: tuple[str, ...], default: float) -> float:
    text = _at(document, path)
    if text is None:
        return default
    return float("inf") if text == "never" else parse_duration(text) / 1e9


def _kind_of(document: Json) -> str:
    return str(document.get("kind") or ("cron" if document.get("schedule") else "service")).lower()


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
        kind=_kind_of(document),
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
        replace_after=_seconds(document, ("replace_after",), 300.0),
        launch_timeout=_seconds(document, ("launch_timeout",), 300.0),
        drain=_seconds(document, ("kill", "drain"), 0.0),
        cron=(document.get("schedule") or {}).get("cron") or "",
        collision=((document.get("schedule") or {}).get("collision") or "skip").lower(),
        version=version_of(document),
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
