"""Ports of bridges that pass less than they were made for: blocked, isolated, locked, deaf."""

from __future__ import annotations

from collections.abc import Iterator

from cni_plugins.kernel.links import Link
from cni_plugins.view.attachments import Attachment
from cni_plugins.view.doctor.facts import Facts, Finding, Level

#: linux/if_bridge.h, BR_STATE_*
_STATES = {0: "disabled", 1: "listening", 2: "learning", 4: "blocking"}
_CHANGED = "port-flags"  # the step of `mesokit update` that gives a port other flags


def bridge_ports(facts: Facts) -> Iterator[Finding]:
    for item in facts.living():
        link, bridge = facts.node.host_link(item), facts.node.by_name.get(item.parent)
        made = _arguments(item)
        if link is None or bridge is None or made is None or link.master != bridge.index:
            continue
        for about, evidence, remedy in _wrong(link, bridge, made):
            yield Finding(
                "bridge-ports",
                Level.FAIL,
                f"bridge {bridge.name} {about} container {item.container_id} on network {item.network}",
                f"bridge -d link show dev {link.name}: {evidence}",
                remedy,
            )


def _arguments(item: Attachment) -> dict[str, object] | None:
    """How the port was made; None where an update has changed its flags, which are nobody's fault then."""
    made = None
    for line in item.steps:
        kind, found = line.get("step"), line.get("args")
        if kind == _CHANGED:
            return None
        if kind == "bridge-port" and isinstance(found, dict):
            made = found
    return made


def _wrong(link: Link, bridge: Link, made: dict[str, object]) -> Iterator[tuple[str, str, str]]:
    """What the bridge does, what shows it, and the way out."""
    state = _STATES.get(link.port_state)
    if state is not None and link.up and link.running:
        again = f"ip link set {link.name} down; ip link set {link.name} up"
        off = f"ip link set {bridge.name} type bridge stp_state 0; " if bridge.spanning_tree else ""
        remedy = f"{off}{again}"
        yield "lets nothing pass from and to", f"state {state}", remedy
    change = f"bridge link set dev {link.name}"
    if link.isolated and not made.get("isolated"):
        yield "keeps others that are isolated apart from", "isolated on", f"{change} isolated off"
    if link.locked:
        yield (
            "takes no frame of a station that it has not heard of before from",
            "locked on",
            f"{change} locked off",
        )
    if link.deaf:
        yield "sends no broadcast, such as ARP questions, to", "bcast_flood off", f"{change} bcast_flood on"
    if made.get("hairpin") and not link.hairpin:
        yield (
            "sends nothing back to where it came from, its own published ports, to",
            "hairpin off",
            f"{change} hairpin on",
        )


CHECKS = (bridge_ports,)
