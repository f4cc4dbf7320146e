"""The model as JSON. One schema: every document is `{"schema": 1, "kind": KIND, "items": [...]}`, an item's
keys are the fields that the README of cli/ lists, texts are as they were recorded (a terminal's escapes
included: JSON has its own). New keys may come, none changes its meaning within a schema.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from cni_plugins.view.attachments import Attachment
from cni_plugins.view.node import Node

SCHEMA = 1


def document(kind: str, items: Iterable[Any], **more: Any) -> dict[str, Any]:
    return {"schema": SCHEMA, "kind": kind, **more, "items": [plain(item) for item in items]}


def plain(value: Any) -> Any:
    """A value of the model: dataclasses become objects, tuples lists, enumerations their value."""
    if value is None or isinstance(value, bool | int | float) or type(value) is str:
        return value
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [plain(item) for item in value]
    return str(value)


def attachment(node: Node, item: Attachment) -> dict[str, Any]:
    """One attachment as `mesokit ls --json` shows it."""
    task, other = node.task(item), node.difference(item)
    return {
        "network": item.network,
        "container_id": item.container_id,
        "interface": item.ifname,
        "state": node.state(item).value,
        "type": item.type,
        "plugins": list(item.plugins),
        "tasks": list(task.names) if task is not None else [],
        "framework": task.framework if task is not None else "",
        "addresses": [entry.address for entry in item.addresses],
        "external": list(item.external),
        "gateways": [entry.gateway for entry in item.addresses if entry.gateway],
        "mac": item.mac,
        "host_interface": item.host_interface,
        "parent": item.parent,
        "ports": [plain(port) for port in item.ports],
        "netns": item.netns,
        "since": item.since,
        "differs": [*other.changes, *other.problems] if other is not None else [],
        "file": other.file if other is not None else "",
        "update": other.command if other is not None else "",
    }
