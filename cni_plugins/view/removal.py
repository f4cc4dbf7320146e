"""Removal of what containers that are no more left behind (collect.py tells it).

It is GC of the plugins, with what is not stale as the list of what is valid, so that it decides under the
same locks: what an ADD makes meanwhile is younger than the list and stays.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass

from cni_plugins.plugins.registry import MODULES, Handlers
from cni_plugins.spec import dispatch
from cni_plugins.spec.call import LISTED, Request
from cni_plugins.spec.deadline import after
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.roots import Roots
from cni_plugins.spec.values import JsonObject
from cni_plugins.store import records
from cni_plugins.view.attachments import Attachment
from cni_plugins.view.collect import Plan, Stale
from cni_plugins.view.configurations import configurations
from cni_plugins.view.node import Node

#: GC of a network that no configuration is known of.
_ANY: JsonObject = {
    "cniVersion": "1.1.0",
    "type": "chain",
    "plugins": [{"type": "bridge", "ipam": {"type": "host-local"}}, {"type": "portmap"}],
}


@dataclass(frozen=True, slots=True)
class Failure:
    """What GC of a network left, in the plugin's words."""

    network: str
    plugin: str
    error: str


def collect(todo: Plan, node: Node, roots: Roots) -> list[Failure]:
    """Have the plugins remove what is stale; what they could not."""
    failures = []
    for network in todo.networks:
        for plugin, config in _calls(network, node, roots):
            valid = [
                {"containerID": item.container_id, "ifname": item.ifname}
                for item in todo.valid.get(network, ())
            ]
            document = {
                **config,
                "cniVersion": "1.1.0",
                "name": network,
                "type": plugin,
                "cni.dev/valid-attachments": valid,
            }
            env = {
                **os.environ,
                "CNI_COMMAND": "GC",
                "CNI_PATH": os.environ.get("CNI_PATH", "/opt/cni/bin"),
                LISTED: str(todo.listed_at),
            }
            request = Request(plugin, env, json.dumps(document).encode())
            reply = dispatch.handle(request, Handlers())
            for work in (*reply.later, *reply.idle):
                work()
            if reply.status:
                failures.append(Failure(network, plugin, _error(reply.stdout)))
    return failures


def _calls(network: str, node: Node, roots: Roots) -> Iterator[tuple[str, JsonObject]]:
    """Plugin and configuration of each GC of a network: one for each plugin that has records there."""
    seen = set()
    for item in reversed(node.attachments):
        if item.network != network:
            continue
        for contents in item.contents:
            plugin = str(contents.head.get("plugin", ""))
            if plugin in MODULES and plugin not in seen:
                seen.add(plugin)
                yield plugin, contents.head.get("config", {})
    if seen:
        return
    for name, config in configurations(node, roots):
        if name == network and config.get("type") in MODULES:
            yield str(config["type"]), config
            return
    yield "chain", _ANY


def _error(stdout: bytes) -> str:
    try:
        document = json.loads(stdout)
        return ": ".join(str(document[key]) for key in ("msg", "details") if document.get(key))
    except (ValueError, KeyError, TypeError, AttributeError):
        return stdout[:300].decode(errors="replace")


def forget(item: Attachment | Stale) -> list[str]:
    """Remove the records of an attachment whatever is left of it; what could not be, in sentences."""
    problems = []
    for path in item.paths:
        try:
            record = records.open_path(path, after(1))
            if record is not None:
                with record:
                    record.remove()
        except (CniError, OSError) as error:
            problems.append(str(error))
    return problems


def forget_headless(node: Node, roots: Roots, network: str | None) -> list[str]:
    """Remove the files among the records (of a network) that do not tell whose they are, unless a call works
    on one; what could not be, in sentences.
    """
    problems = []
    place = records.folder_name(network) if network is not None else ""
    for path in node.seen.headless:
        if place and path.parent.name != place and not path.name.startswith(f"{place}-"):
            continue
        try:
            record = records.open_path(path, after(1))  # a directory is set aside by that
            if record is not None:
                with record:
                    if record.contents is None:
                        record.remove()
        except (CniError, OSError) as error:
            problems.append(str(error))
    return problems
