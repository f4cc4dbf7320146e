"""Each container's side, its host side, and rules that were flushed: what a user of it would feel."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from cni_plugins.kernel import addresses, neighbours, routes
from cni_plugins.kernel.netlink.netfilter import NFPROTO_BRIDGE, NFPROTO_INET
from cni_plugins.kernel.nft import owner
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.values import Network, packed_cidr, packed_network, parse_ip
from cni_plugins.steps import registry
from cni_plugins.view.attachments import Attachment, State, listed
from cni_plugins.view.doctor.facts import Facts, Finding, Inside, Level
from cni_plugins.view.remedies import remedy

#: Kinds of steps whose elements stand in our tables, and how their sets' names begin.
_SETS: Mapping[str, tuple[int, str]] = {
    "masquerade": (NFPROTO_INET, "masquerade"),
    "nptv6": (NFPROTO_INET, "nptv6_out"),
    "ports": (NFPROTO_INET, "port"),
    "spoof-check": (NFPROTO_BRIDGE, "guarded"),
}


def _of(item: Attachment) -> str:
    return f"{item.ifname} of container {item.container_id} on network {item.network}"


def _step_remedy(item: Attachment, kind: str) -> str:
    for line in item.steps:
        if line.get("step") == kind:
            with suppress(CniError):  # of a step that this release does not understand
                return remedy(item, registry.decode(line), "")
    return "end the container and start it anew"


def host_side(facts: Facts) -> Iterator[Finding]:
    bridges = set()
    for item in facts.living():
        state = facts.node.state(item)
        link = facts.node.host_link(item)
        parent = facts.node.by_name.get(item.parent)
        if state is State.DOWN and parent is not None and not parent.up:
            if parent.name not in bridges:
                bridges.add(parent.name)
                yield Finding(
                    "host-side",
                    Level.FAIL,
                    f"{parent.kind or 'device'} {parent.name} is down: its containers reach nothing",
                    f"ip link show {parent.name}",
                    f"ip link set {parent.name} up",
                )
        elif state is State.DOWN and link is not None:
            yield Finding(
                "host-side",
                Level.FAIL,
                f"the host's end of {_of(item)} is down",
                f"ip link show {link.name}",
                f"ip link set {link.name} up",
            )
        elif state is State.BROKEN:
            what = "is no port of " + item.parent if link is not None else "is gone"
            yield Finding(
                "host-side",
                Level.FAIL,
                f"the host's end of {_of(item)} {what}",
                f"{item.host_interface or item.parent}, MAC address {item.host_mac or '-'}",
                _step_remedy(item, "bridge-port" if link is not None else "veth"),
            )


def inside(facts: Facts) -> Iterator[Finding]:
    for item, there in facts.inside.items():
        if there.link is None:
            yield Finding(
                "inside",
                Level.FAIL,
                f"{_of(item)} is gone from the container",
                f"nsenter --net={shlex.quote(item.netns)} ip link",
                "end the container and start it anew",
            )
            continue
        given = map(addresses.given, there.sandbox.addresses)
        found = {(raw, length): flags for raw, length, flags in given}
        problems = [] if there.link.up else [f"{item.ifname} is down"]
        for entry in item.addresses:
            flags = found.get(packed_cidr(entry.address))
            if flags is None:
                problems.append(f"address {entry.address} is missing")
            elif ":" in entry.address and flags & addresses.DADFAILED:
                problems.append(f"address {entry.address} is a duplicate (dadfailed)")
        problems += _missing_routes(item, there)
        if problems:
            yield Finding(
                "inside",
                Level.FAIL,
                f"{_of(item)} is not as it was made: {', '.join(problems)}",
                f"nsenter --net={shlex.quote(item.netns)} ip a",
                _step_remedy(item, "addresses"),
            )


def _missing_routes(item: Attachment, inside: Inside) -> Iterator[str]:
    """Of the newest result, which an update or a later plugin may have changed; in whatever table."""
    result = next((each.result for each in reversed(item.contents) if each.result is not None), {})
    wanted: list[tuple[dict[str, Any], Network, bytes | None]] = []
    for route in listed(result or {}, "routes"):
        if not isinstance(route, dict):
            continue
        with suppress(TypeError, ValueError):  # of a result that nobody of ours wrote
            gateway = parse_ip(str(route["gw"])).packed if route.get("gw") else None
            wanted.append((route, packed_network(str(route.get("dst"))), gateway))
    there: dict[Network, set[bytes | None]] = {}
    for way in map(routes.way, inside.sandbox.routes_with({network[1] for _, network, _ in wanted})):
        if way is not None and (4 if len(way[0]) == 4 else 6) in inside.versions:
            there.setdefault(way[:2], set()).add(way[2])
    for route, network, gateway in wanted:
        ways = there.get(network)
        if ways is None:
            yield f"the route to {route.get('dst')} is missing"
        elif gateway is not None and not ways & {gateway, None}:
            yield f"the route to {route.get('dst')} does not go by {route.get('gw')}"


def host_routes(facts: Facts) -> Iterator[Finding]:
    there = {
        (route.route.dst.packed, route.route.dst.network.prefixlen, route.index)
        for version in (4, 6)
        for route in facts.routes[version]
    }
    for item in facts.living():
        for line in item.steps:
            arguments = line.get("args")
            if line.get("step") != "host-routes" or not isinstance(arguments, dict):
                continue
            for entry in item.addresses:
                raw, _ = packed_cidr(entry.address)
                link = facts.node.by_name.get(item.host_interface)
                if link is None or (raw, 8 * len(raw), link.index) not in there:
                    yield Finding(
                        "host-routes",
                        Level.FAIL,
                        f"the host has no route to {entry.ip}, {_of(item)}",
                        f"{entry.ip}/{8 * len(raw)} dev {item.host_interface} is missing",
                        _step_remedy(item, "host-routes"),
                    )


def gateways(facts: Facts) -> Iterator[Finding]:
    there = {(str(entry.address), facts.name_of(entry.index)) for entry in facts.addresses}
    told = set()
    for item in facts.living():
        for line in item.steps:
            arguments = line.get("args")
            if line.get("step") != "gateway" or not isinstance(arguments, dict):
                continue
            for address in listed(arguments, "addresses"):
                where = (str(address), str(arguments.get("interface")))
                if where not in there and where not in told:
                    told.add(where)
                    yield Finding(
                        "gateways",
                        Level.FAIL,
                        f"{where[1]} has lost the gateway's address {where[0]} of network {item.network}",
                        f"ip address show {where[1]}",
                        f"mesokit reload --network {shlex.quote(item.network)}",
                    )


def flushed_rules(facts: Facts) -> Iterator[Finding]:
    """An attachment whose elements are not in our tables (those of iptables are checked by `check`)."""
    wanted: dict[str, list[Attachment]] = {}
    for item in facts.living():
        for line in item.steps:
            kind, arguments = str(line.get("step", "")), line.get("args")
            if kind not in _SETS or not isinstance(arguments, dict) or arguments.get("keys"):
                continue
            if arguments.get("backend", "nftables") == "nftables":
                wanted.setdefault(kind, []).append(item)
    if not wanted:
        return
    for kind, items in wanted.items():
        family, beginning = _SETS[kind]
        tags = {
            comment.partition(",")[0]
            for name, comments in facts.sets.comments(family).items()
            if name.startswith((beginning, "address_port"))
            for comment in comments
        }
        lost = [item for item in items if owner.tag(item.identity) not in tags]
        if lost:
            ids = list(dict.fromkeys(item.container_id for item in lost))
            names = ", ".join(ids[:5]) + (" …" if len(ids) > 5 else "")
            yield Finding(
                "flushed-rules",
                Level.FAIL,
                f"somebody flushed rules: {kind} is gone for {len(lost)} of {len(items)} attachments",
                names,
                "mesokit reload",
            )


def duplicate_addresses(facts: Facts) -> Iterator[Finding]:
    owners: dict[str, Attachment] = {}
    on_host = {str(entry.address.ip): facts.name_of(entry.index) for entry in facts.addresses}
    for item in facts.living():
        for entry in item.addresses:
            other = owners.setdefault(entry.ip, item)
            if other.container_id != item.container_id:
                yield _duplicate(entry.ip, item, _of(other), f"mesokit ls {entry.ip}")
            if entry.ip in on_host and item.host_interface:
                link = on_host[entry.ip]
                seen = f"ip address show {link}"
                way_out = f"ip address del {entry.address} dev {link}"
                yield _duplicate(entry.ip, item, f"{link} of the host", seen, way_out)
    for neighbour in facts.neighbours:
        known = owners.get(str(neighbour.address))
        if known is None or not neighbour.mac or not known.mac or neighbour.mac == known.mac:
            continue
        if known.type in {"ipvlan", "macvlan"} or facts.name_of(neighbour.index) not in {
            known.parent,
            known.host_interface,
        }:
            continue
        there = facts.inside.get(known)
        if there is not None and there.link is not None and there.link.mac == neighbour.mac:
            continue
        if neighbour.state & neighbours.State.PERMANENT:
            link = facts.name_of(neighbour.index)
            yield Finding(
                "duplicate-addresses",
                Level.FAIL,
                f"the host was told by hand that {neighbour.address} is somebody else, and not {_of(known)}",
                f"{neighbour.mac} at {link}, permanent; the container has {known.mac}",
                f"ip neigh del {neighbour.address} dev {link}",
            )
            continue
        evidence = (
            f"{neighbour.mac} answers at {facts.name_of(neighbour.index)}, the container has {known.mac}"
        )
        yield _duplicate(str(neighbour.address), known, "somebody else", evidence)


def _duplicate(ip: str, item: Attachment, other: str, evidence: str, way_out: str = "") -> Finding:
    apart = f"end one of them, and let network {item.network} not give what others use (rangeStart, rangeEnd)"
    return Finding(
        "duplicate-addresses",
        Level.FAIL,
        f"two have the address {ip}: {_of(item)}, and {other}",
        evidence,
        way_out or apart,
    )


CHECKS = (host_side, inside, host_routes, gateways, flushed_rules, duplicate_addresses)
