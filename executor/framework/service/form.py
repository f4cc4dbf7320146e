"""The keys of an app's document, and what the talk's form is in them.

`FORM` says the shape of a document with `"version": 1`; the API's schema is made from it.
"""

from collections.abc import Mapping
from typing import Any

from executor.local_agent.shapes import Flag, Kind, ListOf, MapOf, Number, Object, Text
from executor.local_agent.shortform import APPLICATION
from executor.local_agent.validation import Json

MAX_INSTANCES = 10_000
MAX_DOCUMENT = 512 * 1024
"""Bytes of one app as JSON."""

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
        "volumes": ListOf(
            Object({"name": Text(), "size": Number(1), "path": Text()}, ("name", "size", "path"))
        ),
        "reserve": Flag(),
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


_TALK_KEYS = {
    "restart.delay": "retry.time",
    "restart.factor": "retry.exp_backoff",
    "restart.attempts": "retry.total_retries",
    "resources.disk": "resources.disk.size",
    "role": "resources.role",
}


def talk_key(key: str, prefix: str) -> str:
    """The key of the talk's form that a fault's key, of the richer one, came from."""
    bare = key.removeprefix(prefix)
    return f"{prefix}{_TALK_KEYS[bare]}" if bare in _TALK_KEYS else key
