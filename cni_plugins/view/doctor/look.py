"""Facts, gathered."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from cni_plugins.kernel import addresses, links, neighbours, routes, rules, sandboxes
from cni_plugins.kernel.netlink.route import Netlink
from cni_plugins.kernel.nft.elements import Sets
from cni_plugins.kernel.sandboxes import Sandbox
from cni_plugins.spec.deadline import after
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.roots import Roots
from cni_plugins.view.attachments import Attachment, State
from cni_plugins.view.doctor import (
    containers,
    firewall,
    foreign_rules,
    host,
    neighbourhood,
    networks,
    policy,
    ports,
    routing,
    runtime,
    state,
    uplinks,
)
from cni_plugins.view.doctor.facts import Facts, Finding, Inside, Level
from cni_plugins.view.node import Node
from cni_plugins.view.pools import pools

_SECONDS = 10.0

#: In the order in which they are told; the name of each is its function's.
CHECKS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    *host.CHECKS,
    *firewall.CHECKS,
    *foreign_rules.CHECKS,
    *policy.CHECKS,
    *networks.CHECKS,
    *containers.CHECKS,
    *neighbourhood.CHECKS,
    *ports.CHECKS,
    *routing.CHECKS,
    *uplinks.CHECKS,
    *state.CHECKS,
    *runtime.CHECKS,
)


def look(node: Node, roots: Roots, namespace: Namespace) -> Facts:
    """Everything that checks look at. CniError 999 when the kernel does not answer."""
    with Netlink(namespace, after(_SECONDS)) as netlink:
        began = time.monotonic()
        links.count(netlink)
        seconds = time.monotonic() - began
        ways = routes.packets(netlink)
        known = [(routes.version_of(packet), routes.parse(packet)) for packet in ways]
        return Facts(
            roots,
            namespace,
            node,
            tuple(pools(node, roots)),
            tuple(addresses.every(netlink)),
            {version: tuple(route for of, route in known if route and of == version) for version in (4, 6)},
            tuple(entry for version in (4, 6) for entry in neighbours.every(netlink, version)),
            _inside(node, namespace),
            seconds,
            Sets(namespace),
            tuple(found for found in map(routes.refusal, ways) if found is not None),
            tuple(rules.of_all(netlink)),
        )


def _inside(node: Node, host_namespace: Namespace) -> Mapping[Attachment, Inside]:
    """Of who is not root none is seen."""
    listed = [
        item
        for item in node.attachments
        if item.netns
        and item.type != "loopback"
        and node.state(item) not in {State.STALE, State.ELSEWHERE, State.UNFINISHED}
    ]
    places = [(item.netns, item.ifname, item.netns_id) for item in listed]
    seen = sandboxes.look(places, host_namespace, after(_SECONDS))
    return {item: _of(there, item) for item, there in zip(listed, seen, strict=True) if there is not None}


def _of(there: Sandbox, item: Attachment) -> Inside:
    return Inside(there, frozenset(6 if ":" in entry.ip else 4 for entry in item.addresses))


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
