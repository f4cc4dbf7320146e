"""What is wrong with a document that has the right shape (form.py): texts that mean nothing, keys that
contradict each other, amounts and durations that are none.
"""

import json
from collections.abc import Iterator

from executor.config.units import parse_duration
from executor.framework.sdk.resources import InvalidResourceError, milli
from executor.framework.service.constraints import ConstraintError, parse_constraint
from executor.framework.service.cron import CronError, parse_cron
from executor.framework.service.form import MAX_DOCUMENT
from executor.local_agent.shortform import health_check_faults
from executor.local_agent.validation import Fault, Json, fault, missing

_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


def further_faults(document: Json, prefix: str) -> Iterator[Fault]:
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
    yield from _volume_faults(document, prefix)
    if len(json.dumps(document)) > MAX_DOCUMENT:
        yield Fault(prefix.rstrip("."), "a large document", f"at most {MAX_DOCUMENT // 1024} kB of JSON")


def _volume_faults(document: Json, prefix: str) -> Iterator[Fault]:
    volumes = document.get("volumes") or []
    if (volumes or document.get("reserve")) and kind_of(document) != "service":
        yield fault(f"{prefix}kind", kind_of(document), '"service", as it has volumes or reserve')
    if document.get("reserve") and not volumes:
        yield missing(f"{prefix}volumes", "at least one, as reserve keeps an instance where its volume is")
    for place, item in enumerate(volumes):
        where, path = f"{prefix}volumes[{place}]", item["path"]
        if not 1 <= len(item["name"]) <= 60 or not _NAME.issuperset(item["name"]):
            yield fault(f"{where}.name", item["name"], "1 to 60 letters, digits, dots, dashes or underscores")
        if not path or not _NAME.issuperset(path) or path in (".", "..") or len(path) > 100:
            yield fault(f"{where}.path", path, "a name below the sandbox: letters, digits, dots, - or _")
    for key in ("name", "path"):
        found = [item[key] for item in volumes]
        for twice in sorted({item for item in found if found.count(item) > 1}):
            yield fault(f"{prefix}volumes", twice, f"a {key} of its own for every volume")


def _kind_faults(document: Json, prefix: str) -> Iterator[Fault]:
    kind, schedule = kind_of(document), document.get("schedule")
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


def _command_faults(command: Json, prefix: str) -> Iterator[Fault]:
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


def _task_faults(task: Json, prefix: str) -> Iterator[Fault]:
    yield from _command_faults(task.get("command") or {}, prefix)
    check = task.get("healthcheck")
    if check and not check.get(check["type"].lower()):
        kind = check["type"].lower()
        yield missing(f"{prefix}healthcheck.{kind}", f'an object, as healthcheck.type is "{check["type"]}"')
    yield from health_check_faults(check or {}, f"{prefix}healthcheck")
    given = task.get("resources") or {}
    if given.get("cpu") == given.get("mem") == 0 and not (given.get("disk") or given.get("gpu")):
        yield fault(f"{prefix}resources", given, "some cpu or mem: a master takes no task without")
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
        text = at(holder, path)
        if text is None or (text == "never" and path == ("replace_after",)):
            continue
        try:
            parse_duration(text)
        except ValueError as error:
            yield Fault(key, json.dumps(text), f"a duration such as 5secs or 2mins ({error})")


def at(document: Json, path: tuple[str, ...]) -> Json:
    for name in path:
        document = (document or {}).get(name)
    return document


def kind_of(document: Json) -> str:
    """Service, job or cron."""
    return str(document.get("kind") or ("cron" if document.get("schedule") else "service")).lower()
