"""Configurations of networks that a node has: those of records, and those of its configuration files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from cni_plugins.spec.roots import Roots
from cni_plugins.spec.values import JsonObject
from cni_plugins.store import network_files
from cni_plugins.view.node import Node


def networks(node: Node, roots: Roots) -> set[str]:
    """The names of networks that this node has heard of: attachments, reservations, files."""
    found = {item.network for item in node.attachments}
    found.update(name for name, _ in configurations(node, roots))
    with suppress(OSError):
        found.update(path.name for path in roots.host_local.iterdir() if path.is_dir())
    return found


def configurations(node: Node, roots: Roots) -> Iterator[tuple[str, JsonObject]]:
    """Network and configuration: of records, then of the files of the configuration directory."""
    for item in node.attachments:
        if isinstance(item.config, dict):
            yield item.network, item.config
    for _, config in files(roots):
        if config is not None and isinstance(config.get("name"), str):
            yield config["name"], config


def files(roots: Roots) -> Iterator[tuple[Path, JsonObject | None]]:
    """The configuration files of the node and what they hold; None for one that is no JSON object."""
    try:
        listed = network_files.listed(roots.relocate(network_files.DIRECTORY))
    except OSError:
        return
    for path in listed:
        try:
            config = _parsed(path)
            if isinstance(config, dict):
                config = network_files.whole(path, config, _parsed)
        except PermissionError:
            continue
        except (OSError, ValueError, RecursionError):
            config = None
        yield path, config if isinstance(config, dict) else None


def _parsed(path: Path) -> object:
    return json.loads(network_files.read(path)[0])


def sections(config: JsonObject, depth: int = 0) -> Iterator[JsonObject]:
    """The configuration of every plugin in a configuration: itself, members of a list, delegates."""
    yield config
    inner: list[object] = []
    if isinstance(config.get("plugins"), list):
        inner += config["plugins"]
    inner.append(config.get("delegate"))
    for item in inner if depth < 8 else ():
        if isinstance(item, dict):
            yield from sections(item, depth + 1)
