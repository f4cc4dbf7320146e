"""Why a packet went no further, where no rule says so, and what a host's counters say of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from cni_plugins.kernel import counters, ip_counters, links, routes, sysctl
from cni_plugins.kernel.counters import Counters
from cni_plugins.kernel.netlink.route import Netlink
from cni_plugins.policy import explain
from cni_plugins.spec.deadline import after
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.roots import Roots
from cni_plugins.steps import policy_state
from cni_plugins.view.follow import Packet
from cni_plugins.view.packet import Headers

_SECONDS = 5.0
_FORWARDING = {4: "ipv4/ip_forward", 6: "ipv6/conf/all/forwarding"}


@dataclass(frozen=True, slots=True)
class Counted:
    """What the links of a namespace have carried, by name, and what its IP has lost."""

    links: dict[str, Counters]
    losses: dict[str, int]


def count(namespace: Namespace) -> Counted:
    """CniError 8 or 999."""
    with Netlink(namespace, after(_SECONDS)) as netlink:
        carried = counters.every(netlink)
        named = {link.name: carried[link.index] for link in links.every(netlink) if link.index in carried}
    lost: dict[str, int] = {}
    with suppress(OSError):
        lost = ip_counters.losses(namespace)
    return Counted(named, lost)


def lost(packet: Packet, namespace: Namespace) -> list[str]:
    """Why a packet that no rule dropped ended between two hooks, as far as the kernel's settings tell: the
    likely reasons, the surest first.
    """
    last = packet.hooks[-1] if packet.hooks else ""
    if last.startswith("bridge") and last != "bridge input":
        return [
            "the bridge did not pass it on: no port for its MAC address, a port that is isolated or not "
            "forwarding, or another VLAN"
        ]
    try:
        with Netlink(namespace, after(_SECONDS)) as netlink:
            found = list(_reasons(packet, packet.last, netlink))
    except CniError as error:
        return [str(error)]
    return found or ["no setting explains it: see the counters"]


def _reasons(packet: Packet, headers: Headers, netlink: Netlink) -> Iterator[str]:
    version = headers.source.version
    out = routes.towards(netlink, headers.target)
    if not out:
        yield f"the host has no route to {headers.target}"
    arrived = links.find_index(netlink, packet.routed_iif) if packet.routed_iif else None
    if arrived is not None:
        name = _FORWARDING[version]
        value = sysctl.read(netlink.namespace, name)
        if value is not None and value != "1":
            yield f"the host does not forward IPv{version}: net.{name.replace('/', '.')} = {value}"
        if version == 4:
            yield from _reverse(headers, netlink, arrived.name, arrived.index)
        if headers.hops <= 1:
            yield "it has no hops left (TTL), as traceroute wants it"
    way = links.find_index(netlink, out) if out else None
    if way is not None and headers.size > way.mtu:
        yield f"its {headers.size} bytes do not fit through {way.name} (MTU {way.mtu})"
    if way is not None and not way.up:
        yield f"{way.name} is down"


def _reverse(headers: Headers, netlink: Netlink, name: str, index: int) -> Iterator[str]:
    values = [sysctl.read(netlink.namespace, f"ipv4/conf/{item}/rp_filter") for item in ("all", name)]
    strict = (
        max(int(value) for value in values if value is not None and value.isdigit()) if any(values) else 0
    )
    back = routes.towards(netlink, headers.source)
    if strict and (not back or (strict == 1 and back != index)):
        link = links.find_index(netlink, back) if back else None
        where = f"by {link.name}" if link is not None else "not there"
        yield (
            f"the reverse path filter of {name} (rp_filter {strict}): the way back to {headers.source} is "
            f"{where}"
        )


def policies(packet: Packet, roots: Roots, host: Namespace) -> list[str]:
    """What the host's policies say of the packet: verdict, policy, file and line, for each end."""
    headers = packet.last
    try:
        state = policy_state.load(roots, host)
    except CniError:
        return []
    ends = [
        next((item for item in state.endpoints if address in item.addresses), None)
        for address in (headers.source, headers.target)
    ]
    number = headers.target_port or headers.icmp
    judged = explain.Packet(headers.source, headers.target, headers.protocol, number)
    return [
        f"{item.end}: {item.verdict} by {item.policy}" + (f", {item.where}" if item.where else "")
        for item in explain.reasons(state.policies, ends[0], ends[1], judged)
    ]


def gained(before: Counted, later: Counted, names: set[str]) -> list[str]:
    """What was counted meanwhile, a sentence for each link of `names` and each kind of loss."""
    found = []
    for name in sorted(names & before.links.keys() & later.links.keys()):
        one, other = before.links[name], later.links[name]
        text = (
            f"{name}: {other.received_packets - one.received_packets} packets in, "
            f"{other.sent_packets - one.sent_packets} out"
        )
        bad = {
            "dropped coming in": other.received_dropped - one.received_dropped,
            "dropped going out": other.sent_dropped - one.sent_dropped,
            "errors coming in": other.received_errors - one.received_errors,
            "errors going out": other.sent_errors - one.sent_errors,
        }
        found.append(text + "".join(f", {number} {what}" for what, number in bad.items() if number))
    for name, number in later.losses.items():
        more = number - before.losses.get(name, 0)
        if more > 0:
            found.append(f"lost on the whole host: {more} by {ip_counters.LOSSES[name]} ({name})")
    return found
