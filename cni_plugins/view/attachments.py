"""Attachments as an operator thinks of them, made of records. Pure: no I/O.

Plugins of one list that a runtime calls one by one write a record each; they are one attachment here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import Any

from cni_plugins.spec import nptv6
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.values import JsonObject, packed_cidr, parse_cidr
from cni_plugins.store.records import Contents

#: Kinds of plugins that change what another made.
_META = frozenset(("chain", "portmap", "mesos-cni-port-mapper", "bandwidth", "tuning", "firewall", "sbr"))

_LOOPBACK4, _LOOPBACK6, _BYTES4 = 127, bytes(15) + b"\1", 4


class State(StrEnum):
    """Of an attachment, as the records and one look at the host tell it.

    UP: namespace and host side are there and up. DOWN: the host side is down. BROKEN: the host side is gone
    or has another master. STALE: the namespace is gone, or another boot's. UNFINISHED: its ADD did not come
    through. ELSEWHERE: made in another host namespace. UNKNOWN: what tells it may not be seen.
    """

    UP = "up"
    DOWN = "down"
    BROKEN = "broken"
    STALE = "stale"
    UNFINISHED = "unfinished"
    ELSEWHERE = "elsewhere"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Assigned:
    """An address of a container, `10.9.0.2/24`, and the gateway of its network ("" for none)."""

    address: str
    gateway: str

    @property
    def ip(self) -> str:
        return self.address.partition("/")[0]


@dataclass(frozen=True, slots=True)
class Published:
    """A port of the host that leads to the container; `host_ip` "" is every address of the host."""

    protocol: str
    host_ip: str
    host_port: int
    container_port: int

    def __str__(self) -> str:
        where = f"[{self.host_ip}]:" if ":" in self.host_ip else f"{self.host_ip}:" if self.host_ip else ""
        return f"{where}{self.host_port}->{self.container_port}/{self.protocol}"


@dataclass(frozen=True, slots=True, eq=False)
class Attachment:
    """`plugins` are those whose records these are, `type` is what made the interface. `parent` is the bridge
    that the host's end is a port of, or the master of a link in the container. `since` is seconds since the
    epoch, 0 where the record does not say. `steps` are the records' lines, oldest first.
    """

    identity: Identity
    plugins: tuple[str, ...]
    type: str
    netns: str
    netns_id: tuple[int, ...]
    host_id: tuple[int, ...]
    boot: str
    since: float
    complete: bool
    mac: str
    host_interface: str
    host_mac: str
    parent: str
    addresses: tuple[Assigned, ...]
    ports: tuple[Published, ...]
    steps: tuple[JsonObject, ...]
    config: JsonObject
    paths: tuple[Path, ...]
    contents: tuple[Contents, ...]

    @property
    def version(self) -> int:
        """The oldest format of its records."""
        return min(item.version for item in self.contents)

    @property
    def network(self) -> str:
        return self.identity.network

    @property
    def external(self) -> tuple[str, ...]:
        """The addresses that the world knows translated ones by (`nptv6`)."""
        return tuple(_external(self.steps))

    @property
    def container_id(self) -> str:
        return self.identity.container_id

    @property
    def ifname(self) -> str:
        return self.identity.ifname


def attachments(found: Iterable[tuple[Path, Contents]]) -> list[Attachment]:
    """The attachments of records, by network, container and interface."""
    ordered = sorted(found, key=lambda item: (_key(item[1].identity), _time(item[1])))
    return [
        _attachment(identity, list(group))
        for identity, group in groupby(ordered, key=lambda item: item[1].identity)
    ]


def _key(identity: Identity) -> tuple[str, str, str]:
    return identity.network, identity.container_id, identity.ifname


def _time(contents: Contents) -> float:
    moment = contents.head.get("time")
    return float(moment) if isinstance(moment, int | float) else 0.0


def _attachment(identity: Identity, found: Sequence[tuple[Path, Contents]]) -> Attachment:
    every = [contents for _, contents in found]
    first = every[0].head
    steps = tuple(line for contents in every for line in contents.steps)
    result = _result(every)
    interfaces = [item for item in listed(result, "interfaces") if isinstance(item, dict)]
    inside = next(
        (item for item in interfaces if item.get("sandbox") and item.get("name") == identity.ifname), {}
    )
    arguments = _by_kind(steps)
    made = _first(arguments, "veth")
    child = _first(arguments, "child-link")
    outside = [str(item.get("name", "")) for item in interfaces if not item.get("sandbox")]
    bridge = str(made.get("bridge") or _first(arguments, "bridge").get("name", ""))
    host = str(made.get("name", "")) or next((name for name in outside if name.startswith("veth")), "")
    config = first.get("config", {})
    return Attachment(
        identity=identity,
        plugins=tuple(str(item.head.get("plugin", "")) for item in every),
        type=str(child.get("kind", "")) or _type(config, str(first.get("plugin", ""))),
        netns=str(first.get("netns", "")),
        netns_id=_numbers(first.get("netnsID")),
        host_id=_numbers(first.get("hostID")),
        boot=str(first.get("boot", "")),
        since=_time(every[0]),
        complete=all(item.result is not None for item in every),
        mac=str(inside.get("mac") or made.get("peer_mac") or child.get("mac") or "").lower(),
        host_interface=host,
        host_mac=str(made.get("mac", "")),
        parent=bridge or str(child.get("master", "")) or next((n for n in outside if n != host), ""),
        addresses=tuple(_assigned(result, interfaces, identity.ifname)),
        ports=tuple(_published(arguments.get("ports", ()))),
        steps=steps,
        config=config,
        paths=tuple(path for path, _ in found),
        contents=tuple(every),
    )


def _result(every: Sequence[Contents]) -> Mapping[str, Any]:
    """What the last plugin answered; of one whose record an update has changed what that says since."""
    found = next((item.result for item in reversed(every) if item.result is not None), None) or {}
    for item in every:
        if item.updated and item.result is not None and _first(_by_kind(item.steps), "addresses"):
            return {**found, "ips": item.result.get("ips", [])}
    return found


def listed(document: Mapping[str, Any], key: str) -> list[Any]:
    """A key's list, an empty one where it is anything else: records are read as they are found."""
    value = document.get(key)
    return value if isinstance(value, list) else []


def _numbers(value: object) -> tuple[int, ...]:
    return tuple(item for item in value if isinstance(item, int)) if isinstance(value, list) else ()


def _by_kind(steps: Iterable[JsonObject]) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """The arguments of all steps, by their kinds."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for line in steps:
        kind, arguments = line.get("step"), line.get("args")
        if isinstance(kind, str) and isinstance(arguments, dict):
            found.setdefault(kind, []).append(arguments)
    return found


def _first(arguments: Mapping[str, Sequence[Mapping[str, Any]]], kind: str) -> Mapping[str, Any]:
    return next(iter(arguments.get(kind, ())), {})


def _assigned(
    result: Mapping[str, Any], interfaces: Sequence[Mapping[str, Any]], ifname: str
) -> Iterator[Assigned]:
    for entry in listed(result, "ips"):
        if not isinstance(entry, dict):
            continue
        number = entry.get("interface")
        if isinstance(number, int) and 0 <= number < len(interfaces):
            owner = interfaces[number]
            if owner.get("name") != ifname or not owner.get("sandbox"):
                continue
        address = str(entry.get("address", ""))
        if _is_reached(address):
            yield Assigned(address, str(entry.get("gateway") or ""))


def _external(steps: Iterable[JsonObject]) -> Iterator[str]:
    for arguments in _by_kind(steps).get("nptv6", ()):
        with suppress(CniError, KeyError, TypeError, ValueError):  # of a record that is not as we write it
            pairs = nptv6.parse({each["internal"]: each["external"] for each in arguments["pairs"]}, "pairs")
            for address in listed(arguments, "addresses"):
                found = nptv6.external_of(pairs, parse_cidr(address).ip)
                if found is not None:
                    yield str(found)


def _is_reached(text: str) -> bool:
    """Whether it is an address, and not one that every container has for itself (containerd attaches each pod
    to a network of `loopback`)."""
    try:
        raw, _ = packed_cidr(text)
    except (TypeError, ValueError):
        return False
    return raw[0] != _LOOPBACK4 if len(raw) == _BYTES4 else raw != _LOOPBACK6


def _published(every: Iterable[Mapping[str, Any]]) -> Iterator[Published]:
    seen = set()
    for arguments in every:
        wanted = arguments.get("wanted")
        for item in listed(wanted, "forwards") if isinstance(wanted, dict) else ():
            if not isinstance(item, dict):
                continue
            ports = [item.get("host_port"), item.get("container_port")]
            port = Published(
                str(item.get("protocol", "")),
                str(item.get("host_ip") or ""),
                *(number if isinstance(number, int) else 0 for number in ports),
            )
            if port not in seen:  # one for each family
                seen.add(port)
                yield port


def _type(config: object, plugin: str) -> str:
    """What made the interface: the first plugin of a list, what a meta plugin delegates to, or the plugin."""
    name = plugin
    while isinstance(config, dict):
        name = str(config.get("type", name))
        members = listed(config, "plugins")
        inner = members[0] if members else config.get("delegate")
        if name not in _META or not isinstance(inner, dict):
            break
        config = inner
    return name
