"""Facts, gathered."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping

from cni_plugins.kernel import addresses, links, neighbours, routes
from cni_plugins.kernel.netlink.route import Netlink
from cni_plugins.spec.deadline import after
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.roots import Roots
from cni_plugins.view.attachments import Attachment, State
from cni_plugins.view.doctor import (
    containers,
    firewall,
    host,
    neighbourhood,
    networks,
    policy,
    runtime,
    state,
)
from cni_plugins.view.doctor.facts import Facts, Finding, Inside, Level
from cni_plugins.view.endpoint import opened
from cni_plugins.view.node import Node
from cni_plugins.view.pools import pools

_SECONDS = 10.0

#: In the order in which they are told; the name of each is its function's.
CHECKS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    *host.CHECKS,
    *firewall.CHECKS,
    *policy.CHECKS,
    *networks.CHECKS,
    *containers.CHECKS,
    *neighbourhood.CHECKS,
    *state.CHECKS,
    *runtime.CHECKS,
)


def look(node: Node, roots: Roots, namespace: Namespace) -> Facts:
    """Everything that checks look at. CniError 999 when the kernel does not answer."""
    with Netlink(namespace, after(_SECONDS)) as netlink:
        began = time.monotonic()
        links.count(netlink)
        seconds = time.monotonic() - began
        return Facts(
            roots,
            namespace,
            node,
            tuple(pools(node, roots)),
            tuple(addresses.every(netlink)),
            {version: tuple(routes.every(netlink, version)) for version in (4, 6)},
            tuple(entry for version in (4, 6) for entry in neighbours.every(netlink, version)),
            _inside(node, namespace),
            seconds,
        )


def _inside(node: Node, host_namespace: Namespace) -> Mapping[Attachment, Inside]:
    found = {}
    for item in node.attachments:
        if item.type == "loopback" or node.state(item) in {State.STALE, State.ELSEWHERE, State.UNFINISHED}:
            continue
        try:
            namespace = opened(item, host_namespace)
            if namespace is None:
                continue
            try:
                with Netlink(namespace, after(_SECONDS)) as netlink:
                    found[item] = _of(netlink, item)
            finally:
                os.close(namespace.fd)
        except CniError:  # who is not root enters none
            continue
    return found


def _of(netlink: Netlink, item: Attachment) -> Inside:
    link = links.find(netlink, item.ifname)
    if link is None:
        return Inside(None, (), ())
    return Inside(
        link,
        tuple(addresses.of_link(netlink, link.index)),
        tuple(
            route
            for version in sorted({6 if ":" in entry.ip else 4 for entry in item.addresses})
            for route in routes.every(netlink, version)
        ),
    )


def examine(facts: Facts) -> list[Finding]:
    """Every check's findings; one that breaks is a finding itself."""
    found = []
    for check in CHECKS:
        name = check.__name__.replace("_", "-")
        try:
            found += list(check(facts))
        except (CniError, OSError) as error:
            found.append(
                Finding(
                    name, Level.UNKNOWN, f"{name} cannot be told", str(error), "run mesokit doctor as root"
                )
            )
    return found
