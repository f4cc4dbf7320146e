"""Address pools: what networks may give, what is reserved, by whom and since when.

A pool is a network's directory of reservations and the ranges of the configurations that point there: those
of records, and those below /etc/cni/net.d. Reservation files are read without their lock; nothing is changed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv6Interface
from pathlib import Path

from cni_plugins.plugins.ipam import prefix_keys
from cni_plugins.plugins.ipam.prefix_keys import DelegationConfig
from cni_plugins.plugins.ipam.ranges import RangeConfig, RangeSet, Remarks, make_range, make_set
from cni_plugins.spec.config import decode
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.roots import Roots
from cni_plugins.spec.values import Ip, IpNetwork, JsonObject, parse_ip
from cni_plugins.store.reservations import Reservation, directory_of, read_reservation
from cni_plugins.view.attachments import State
from cni_plugins.view.configurations import configurations, sections
from cni_plugins.view.node import Node

HIDDEN = "?"  # for a container that this user may not know


@dataclass(frozen=True, slots=True)
class Held:
    """A reserved address. `state` is that of its attachment, `unrecorded` when no record has one (a reference
    plugin made it, or it was left behind). `since` is seconds since the epoch. `ours`: our host-local wrote
    it.
    """

    address: str
    container_id: str
    interface: str
    since: float
    state: str
    ours: bool


@dataclass(frozen=True, slots=True)
class Pool:
    """One range set, of which each interface gets an address: `size` can be given, `free` of them are.
    Without `ranges`: what is reserved outside of all sets, or where no configuration tells them.
    """

    network: str
    directory: str
    ranges: tuple[str, ...]
    subnets: tuple[str, ...]
    size: int
    used: int
    free: int
    held: tuple[Held, ...]


def pools(node: Node, roots: Roots) -> list[Pool]:
    """Every pool of the node, by network; hidden ones (who is not root) are left out."""
    known: dict[tuple[str, str], dict[str, RangeSet]] = {}
    for network, ipam in _every_ipam(node, roots):
        data_dir = ipam.get("dataDir")
        place = directory_of(roots, data_dir if isinstance(data_dir, str) else "", network)
        sets = known.setdefault((network, place), {})
        for one in _sets(ipam, network, roots):
            sets.setdefault(_text(one), one)
    with suppress(OSError):
        for path in sorted(roots.host_local.iterdir()):
            if path.is_dir():
                known.setdefault((path.name, str(path)), {})
    states: dict[tuple[str, str], dict[str, State]] = {}
    for item in node.attachments:
        states.setdefault((item.network, item.container_id), {})[item.ifname] = node.state(item)
    found: list[Pool] = []
    for (network, place), sets in sorted(known.items()):
        try:
            held = [
                (
                    one.address,
                    Held(
                        str(one.address),
                        one.container_id,
                        one.ifname,
                        moment,
                        State.UNKNOWN.value
                        if one.container_id == HIDDEN
                        else _state(states.get((network, one.container_id), {}), one.ifname),
                        bool(one.boot),
                    ),
                )
                for one, moment in _reservations(Path(place))
            ]
        except OSError:
            continue
        found += _pools(network, place, list(sets.values()), held)
    return found


def _state(interfaces: Mapping[str, State], ifname: str) -> str:
    """That of the interface, or of any where the reservation names none."""
    state = interfaces.get(ifname) if ifname else next(iter(interfaces.values()), None)
    return state.value if state is not None else "unrecorded"


def _pools(network: str, place: str, sets: list[RangeSet], held: Iterable[tuple[Ip, Held]]) -> Iterator[Pool]:
    numbered = [(address.version, int(address), item) for address, item in held]
    ordered = sorted(numbered, key=lambda each: each[:2])
    rest = dict(enumerate(ordered))
    for ranges in sets:
        bounds = [(one.start.version, int(one.start), int(one.end)) for one in ranges]
        inside = [
            (place_of, item)
            for place_of, (version, number, item) in enumerate(ordered)
            if any(version == of and first <= number <= last for of, first, last in bounds)
        ]
        for place_of, _ in inside:
            rest.pop(place_of, None)
        size = sum(
            int(one.end) - int(one.start) + 1 - (one.gateway is not None and one.gateway in one)
            for one in ranges
        )
        yield Pool(
            network,
            place,
            tuple(f"{one.start}-{one.end}" for one in ranges),
            tuple(dict.fromkeys(str(one.subnet) for one in ranges)),
            size,
            len(inside),
            max(size - len(inside), 0),
            tuple(item for _, item in inside),
        )
    if rest:
        left = tuple(item for _, _, item in rest.values())
        yield Pool(network, place, (), (), 0, len(left), 0, left)


def _reservations(place: Path) -> Iterator[tuple[Reservation, float]]:
    """OSError when the directory may not be read; files that may not be are passed over."""
    try:
        names = os.listdir(place)  # noqa: PTH208 - ten thousand addresses
    except FileNotFoundError:
        return
    for name in names:
        found = read_reservation(f"{place}/{name}", name) or _hidden(f"{place}/{name}", name)
        if found is not None:
            with suppress(OSError):
                yield found, os.stat(f"{place}/{name}").st_mtime  # noqa: PTH116


def _hidden(path: str, name: str) -> Reservation | None:
    """A reservation that only root may read: its name tells the address."""
    if os.access(path, os.R_OK):
        return None
    try:
        return Reservation(parse_ip(name), HIDDEN, "", "", 0.0) if Path(path).stat().st_size else None
    except (OSError, ValueError):
        return None


def _every_ipam(node: Node, roots: Roots) -> Iterator[tuple[str, JsonObject]]:
    """Network and IPAM section of every host-local; what many attachments have in common comes once."""
    told: dict[str, list[JsonObject]] = {}
    for network, config in configurations(node, roots):
        seen = told.setdefault(network, [])
        for ipam in _host_local(config):
            if ipam not in seen:
                seen.append(ipam)
                yield network, ipam


def _host_local(config: JsonObject) -> Iterator[JsonObject]:
    for section in sections(config):
        ipam = section.get("ipam")
        if isinstance(ipam, dict) and ipam.get("type") == "host-local":
            yield ipam


def _sets(ipam: JsonObject, network: str, roots: Roots) -> Iterable[RangeSet]:
    """The range sets of an IPAM section; what host-local would refuse is left out, and so is a prefix that no
    router has delegated.
    """
    remarks = Remarks(lambda text: None, lambda key: None)
    if "subnet" in ipam:
        with suppress(CniError):
            yield (make_range(decode(RangeConfig, ipam, where="", unknown=remarks.unknown), "ipam", remarks),)
    listed = ipam.get("ranges")
    for item in listed if isinstance(listed, list) else ():
        with suppress(CniError):
            yield make_set(item, "ipam.ranges", remarks)
    delegated = ipam.get("prefixDelegation")
    if isinstance(delegated, dict):
        from cni_plugins.plugins.ipam import prefix

        with suppress(CniError):
            keys = decode(DelegationConfig, delegated, where="", unknown=remarks.unknown)
            subnet = prefix.known(roots, network, keys)
            if subnet is not None:
                one = RangeConfig(IPv6Interface((subnet.network_address, subnet.prefixlen)))
                yield (make_range(one, prefix_keys.WHERE, remarks),)


def _text(one: RangeSet) -> str:
    return " ".join(f"{each.start}-{each.end}" for each in one)


def subnets(node: Node, roots: Roots) -> dict[IpNetwork, set[str]]:
    """The networks (by name) that give addresses of each subnet."""
    found: dict[IpNetwork, set[str]] = {}
    for network, ipam in _every_ipam(node, roots):
        for one in _sets(ipam, network, roots):
            for each in one:
                found.setdefault(each.subnet, set()).add(network)
    return found
