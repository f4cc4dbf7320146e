"""An attachment with all that is known of it: the record, both sides of it in the kernel, its steps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cni_plugins.plugins.registry import Plugins
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.roots import Roots
from cni_plugins.view import endpoint
from cni_plugins.view.attachments import Attachment
from cni_plugins.view.endpoint import Endpoint
from cni_plugins.view.node import Node
from cni_plugins.view.plain import attachment, plain
from cni_plugins.view.remedies import enter
from cni_plugins.view.verdict import StepState


@dataclass(frozen=True, slots=True)
class Inspected:
    """`there` is what the kernel has, `steps` is each line of the record with its state."""

    item: Attachment
    there: Endpoint
    steps: tuple[StepState, ...]


def inspect(items: Iterable[Attachment], roots: Roots, host: Namespace) -> list[Inspected]:
    """Look at attachments. CniError 999 when the kernel does not answer."""
    with endpoint.checking(roots, host, Plugins()) as checks:
        return [
            Inspected(item, endpoint.endpoint(item, host), tuple(endpoint.check(item, checks)))
            for item in items
        ]


def as_json(node: Node, found: Inspected) -> dict[str, Any]:
    """As `mesokit inspect --json` shows it; `nsenter` is the line that shows the container's interfaces."""
    item, there = found.item, found.there
    return {
        **attachment(node, item),
        "nsenter": enter(item.netns, "ip a") if item.netns else "",
        "inside": plain(there.inside),
        "routes": list(there.routes),
        "host": plain(there.outside),
        "rules": list(there.rules),
        "missing": there.missing,
        "steps": plain(found.steps),
        "config": item.config,
    }
