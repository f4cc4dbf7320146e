"""Real packets from inside one container to another (or to any address), and where they end.

What comes back decides first: an answer, a refusal (the target's own), or an ICMP error with its sender's
words. When nothing comes back, hop by hop: the source's interface and route, its neighbour, the counters of
the two host ends before and after, the rules of the host (a trace of these packets alone), the host's
neighbour entry for the target, the target's interface. The first hop that did not pass is where it ends.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from ipaddress import ip_address

from cni_plugins.kernel import addresses, counters, ip_counters, links, neighbours, routes
from cni_plugins.kernel.counters import Counters
from cni_plugins.kernel.namespace import entered
from cni_plugins.kernel.neighbours import State as Known
from cni_plugins.kernel.netlink.route import Netlink
from cni_plugins.kernel.nft.trace import Drop, Match, Trace
from cni_plugins.spec.deadline import after
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.values import Ip
from cni_plugins.view.attachments import Attachment
from cni_plugins.view.inside import inside_of
from cni_plugins.view.rules import Rules

_SECONDS = 30.0
_TRIES = 3
#: What the kernel answers to a question for a way, in words.
_REFUSALS = {
    errno.EINVAL: "a blackhole, or a source that it believes to be elsewhere",
    errno.EXDEV: "it believes the source to be elsewhere (rp_filter)",
    errno.EHOSTUNREACH: "unreachable, or no forwarding",
    errno.EACCES: "prohibited",
    errno.ENETUNREACH: "no route",
}
_BESIDE_THE_HOST = frozenset(("macvlan", "ipvlan"))


@dataclass(frozen=True, slots=True)
class Ask:
    """`protocol` is icmp, tcp or udp; `port` 0 for icmp. `seconds` for an answer to each of three packets."""

    protocol: str
    port: int
    seconds: float = 0.5


@dataclass(frozen=True, slots=True)
class Way:
    """From `one`, which has the address `source`, to `target`, an address of `other` if that is a container's
    of this node.
    """

    one: Attachment
    source: Ip
    target: Ip
    other: Attachment | None


@dataclass(frozen=True, slots=True)
class Hop:
    """A place on the way, and whether the packets passed it, None where that cannot be told."""

    place: str
    passed: bool | None
    about: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """`verdict`: answered, refused (reached, nobody listens), unreachable, lost. `ends` is the hop where it
    ends, "" when answered.
    """

    family: int
    source: str
    target: str
    verdict: str
    milliseconds: float
    about: str
    ends: str
    hops: tuple[Hop, ...]


def probe(way: Way, ask: Ask, host: Namespace) -> Outcome:
    """Send packets, and look where they end when nothing comes back. CniError."""
    one, source, target, other = way.one, way.source, way.target, way.other
    with ExitStack() as stack:
        inside = stack.enter_context(inside_of(one, host))
        near = stack.enter_context(Netlink(inside, after(_SECONDS)))
        middle = stack.enter_context(Netlink(host, after(_SECONDS)))
        far = None
        if other is not None:
            with suppress(CniError):
                far = stack.enter_context(
                    Netlink(stack.enter_context(inside_of(other, host)), after(_SECONDS))
                )
        trace = _trace(stack, host, source, target)
        before, answered = _counted(near, middle, far), _sent(far, target)
        began = time.monotonic()
        verdict, about = _send(inside, source, target, ask)
        took = round((time.monotonic() - began) * 1000, 2)
        later, answered = _counted(near, middle, far), _sent(far, target) - answered
        drops = trace.drops() if trace is not None else []
        if verdict == "refused" and drops:  # a rule's answer (reject with tcp reset) is no program's
            verdict, about = "unreachable", "a rule answers in its place"
        if verdict in {"answered", "refused"}:
            return Outcome(target.version, str(source), str(target), verdict, took, about, "", ())
        look = _Look(near, middle, far, source, before, later, drops, answered)
        hops = tuple(_hops(one, other, target, look))
    bad = next((hop for hop in hops if hop.passed is False), None)
    ends = (
        bad.place if bad is not None else "beyond what can be seen" if other is None else "the target itself"
    )
    return Outcome(
        target.version,
        str(source),
        str(target),
        verdict,
        took,
        (f"{bad.place}: {bad.about}" if _is_rule(bad) else bad.about) if bad else about,
        ends,
        hops,
    )


def _is_rule(hop: Hop) -> bool:
    return hop.place.startswith("table ")


def _trace(stack: ExitStack, host: Namespace, source: Ip, target: Ip) -> Trace | None:
    try:
        return stack.enter_context(Trace(host, [Match(source, target)]))
    except (CniError, OSError):  # a kernel before 5.12, or without nf_tables
        return None


Count = dict[str, Counters]


@dataclass(frozen=True, slots=True)
class _Look:
    near: Netlink
    middle: Netlink
    far: Netlink | None
    source: Ip
    before: tuple[Count, Count, Count]
    later: tuple[Count, Count, Count]
    drops: list[Drop]
    answered: int  # packets that the target sent meanwhile, ARP and neighbour discovery left out

    def gained(self, place: int, name: str, field: str) -> int:
        one, other = self.before[place].get(name), self.later[place].get(name)
        if one is None or other is None:
            return 0
        return int(getattr(other, field)) - int(getattr(one, field))


def _counted(near: Netlink, middle: Netlink, far: Netlink | None) -> tuple[Count, Count, Count]:
    found: list[Count] = []
    for netlink in (near, middle, far):
        if netlink is None:
            found.append({})
            continue
        carried = counters.every(netlink)
        found.append(
            {link.name: carried[link.index] for link in links.every(netlink) if link.index in carried}
        )
    return found[0], found[1], found[2]


def _sent(far: Netlink | None, target: Ip) -> int:
    return ip_counters.sent(far.namespace, target.version) if far is not None else 0


def _send(inside: Namespace, source: Ip, target: Ip, ask: Ask) -> tuple[str, str]:
    """Verdict and words of up to three packets."""
    verdict = ("lost", f"no answer within {ask.seconds * _TRIES:g} s")
    for number in range(_TRIES):
        try:
            if _once(inside, source, target, ask, number):
                return "answered", ""
        except ConnectionRefusedError:
            return "refused", "it is reached, and nobody listens there"
        except TimeoutError:
            continue
        except OSError as error:
            verdict = ("unreachable", error.strerror or str(error))
            if error.errno == errno.EHOSTUNREACH and number + 1 < _TRIES:
                continue
            break
    return verdict


def _once(inside: Namespace, source: Ip, target: Ip, ask: Ask, number: int) -> bool:
    family = socket.AF_INET if target.version == 4 else socket.AF_INET6
    with entered(inside):
        if ask.protocol == "tcp":
            made = socket.socket(family, socket.SOCK_STREAM)
        elif ask.protocol == "udp":
            made = socket.socket(family, socket.SOCK_DGRAM)
        else:
            protocol = socket.IPPROTO_ICMP if family == socket.AF_INET else socket.IPPROTO_ICMPV6
            made = socket.socket(family, socket.SOCK_RAW, protocol)
    with closing(made):
        made.settimeout(ask.seconds)
        made.bind((str(source), 0))
        made.connect((str(target), ask.port))
        if ask.protocol == "tcp":
            return True
        if ask.protocol == "udp":
            made.send(b"mesokit ping\n")
            made.recv(2048)
            return True
        return _echo(made, family, ask.seconds, number)


def _echo(made: socket.socket, family: int, seconds: float, number: int) -> bool:
    request, reply = (8, 0) if family == socket.AF_INET else (128, 129)
    name = os.getpid() & 0xFFFF
    body = b"mesokit ping    "
    head = struct.pack(">BBHHH", request, 0, 0, name, number)
    checked = struct.pack(">BBHHH", request, 0, _checksum(head + body), name, number)
    made.send(checked + body)
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        made.settimeout(left)
        data = made.recv(2048)
        if family == socket.AF_INET:
            data = data[(data[0] & 15) * 4 :]
        if len(data) >= 8 and data[0] == reply and data[4:8] == struct.pack(">HH", name, number):
            return True
    raise TimeoutError


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _hops(one: Attachment, other: Attachment | None, target: Ip, look: _Look) -> Iterator[Hop]:
    yield from _leaving(one, target, look)
    yield from _host(one, other, target, look)
    if other is not None:
        yield from _arriving(other, target, look)


def _leaving(one: Attachment, target: Ip, look: _Look) -> Iterator[Hop]:
    place = f"{one.ifname} of container {one.container_id}"
    link = links.find(look.near, one.ifname)
    if link is None or not link.up:
        yield Hop(place, False, f"{one.ifname} is {'gone' if link is None else 'down'} in the container")
        return
    index = routes.towards(look.near, target)
    if not index:
        yield Hop(place, False, f"the container has no route to {target}")
        return
    way = links.find_index(look.near, index)
    name = way.name if way is not None else str(index)
    failed = [
        entry
        for entry in neighbours.of_link(look.near, index, target.version)
        if entry.state in {Known.FAILED, Known.INCOMPLETE}
    ]
    route = routes.matched(look.near, target)
    next_hop = route.route.gw if route is not None and route.route.gw is not None else target
    wanted = {target, next_hop, *map(ip_address, _gateways(one))}
    asked = [str(entry.address) for entry in failed if entry.address in wanted]
    sent = look.gained(0, name, "sent_packets")
    yield Hop(place, True, f"{sent} packets left by {name}")
    host = one.host_interface
    if host:
        there = links.find(look.middle, host)
        if there is None or not there.up:
            yield Hop(host, False, f"the host's end {host} is {'gone' if there is None else 'down'}")
            return
        came = look.gained(1, host, "received_packets")
        yield Hop(host, came > 0 or sent == 0, f"{came} packets came in")
        master = links.find_index(look.middle, there.master) if there.master else None
        if one.parent and any(line.get("step") == "bridge-port" for line in one.steps):
            if master is None:
                yield Hop(one.parent, False, f"{host} is no port of {one.parent}")
            elif not master.up:
                yield Hop(one.parent, False, f"bridge {one.parent} is down")
    yield from _by_hand(one, index, next_hop, look)
    if asked and not look.drops:
        who = ", ".join(asked)
        yield Hop(
            f"neighbour {who}", False, f"{who} does not answer the container's search for its MAC address"
        )


def _by_hand(one: Attachment, index: int, next_hop: Ip, look: _Look) -> Iterator[Hop]:
    """The container was told another MAC address of its gateway than the host's side has."""
    gateway = links.find(look.middle, one.parent or one.host_interface)
    known = neighbours.find(look.near, index, next_hop)
    if gateway is None or known is None or str(next_hop) not in _gateways(one):
        return
    if known.state & Known.PERMANENT and known.mac != gateway.mac and one.type in {"bridge", "ptp"}:
        about = f"the container was told by hand that it is {known.mac}, and {gateway.name} has {gateway.mac}"
        yield Hop(f"neighbour {next_hop}", False, about)


def _gateways(one: Attachment) -> set[str]:
    return {entry.gateway for entry in one.addresses if entry.gateway}


def _refused(one: Attachment, target: Ip, out: int, look: _Look) -> str:
    """Why the host's rules and routes let neither a packet pass nor its answer, "" when they do."""
    come = links.find(look.middle, one.parent or one.host_interface)
    if come is None or one.type not in {"bridge", "ptp"} or out in {0, come.index}:
        return ""
    for source, destination, by in ((look.source, target, come.index), (target, look.source, out)):
        error = routes.forwarded(look.middle, source, destination, by)
        if error:
            why = _REFUSALS.get(error, os.strerror(error))
            return f"the host does not forward from {source} to {destination}: {why}"
    return ""


def _host(one: Attachment, other: Attachment | None, target: Ip, look: _Look) -> Iterator[Hop]:
    rules = Rules()
    for drop in look.drops:
        whose = rules.whose(drop.family, drop.table, drop.chain)
        rule = rules.text(drop.family, drop.table, drop.chain, drop.handle) or "policy drop"
        where = f"table {drop.family} {drop.table}, chain {drop.chain}"
        yield Hop(where, False, f"dropped here, by {rule} ({whose})")
    index = routes.towards(look.middle, target)
    if not index:
        yield Hop("the host's routes", False, f"the host has no route to {target}")
        return
    refused = _refused(one, target, index, look) if not look.drops else ""
    if refused:
        yield Hop("the host's routes", False, f"{refused} (ip rule; ip route)")
        return
    way = links.find_index(look.middle, index)
    name = way.name if way is not None else str(index)
    known = neighbours.find(look.middle, index, target)
    if known is not None and known.state in {Known.FAILED, Known.INCOMPLETE}:
        why = f"nobody answers at {name} for {target}'s MAC address"
        if other is not None and other.type in _BESIDE_THE_HOST and other.parent == name:
            why += f": a {other.type} link is reached neither by its own host nor by what that forwards"
        yield Hop(f"neighbour {target}", False, why)


def _arriving(other: Attachment, target: Ip, look: _Look) -> Iterator[Hop]:
    host, place = other.host_interface, f"{other.ifname} of container {other.container_id}"
    if host:
        link = links.find(look.middle, host)
        if link is None or not link.up:
            yield Hop(host, False, f"the target's host end {host} is {'gone' if link is None else 'down'}")
            return
        if (
            other.parent
            and any(line.get("step") == "bridge-port" for line in other.steps)
            and not link.master
        ):
            yield Hop(host, False, f"the target's host end {host} is no port of {other.parent}")
            return
    if look.far is None:
        yield Hop(place, False, f"the network namespace of {other.container_id} is gone")
        return
    link = links.find(look.far, other.ifname)
    if link is None or not link.up:
        yield Hop(place, False, f"{other.ifname} is {'gone' if link is None else 'down'} in the target")
        return
    if not _has(look.far, link.index, target):
        yield Hop(place, False, f"the target does not have {target}")
        return
    sent, came = look.gained(1, host, "sent_packets"), look.gained(2, other.ifname, "received_packets")
    if came:
        back = look.answered
        about = f"{came} packets arrived, {back} went back"
        if not routes.towards(look.far, look.source):
            yield Hop(place, False, "the target has no route back")
            return
        yield Hop(place, bool(back), about + ("" if back else ": the target drops them"))
    else:
        yield Hop(host or place, False, f"{sent} packets were sent to the target, none arrived")


def _has(netlink: Netlink, index: int, address: Ip) -> bool:
    return any(item.address.ip == address for item in addresses.of_link(netlink, index))
