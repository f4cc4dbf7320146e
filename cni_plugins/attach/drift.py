"""How a configuration file differs from what an attachment was made with.

Effective values are compared, with defaults filled in: what a file says in other words is no difference. A
list (`plugins` without `type`) stands for the plugins in it, each with a record of its own; what the runtime
adds (`runtimeConfig`, `args`) is not the file's. An address that a container has is kept whatever the file's
ranges are: that is told, and hinders nothing.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cni_plugins.attach.added import HEAD
from cni_plugins.attach.changes import FIXED, FLAGS, LIMITS, Changes
from cni_plugins.attach.plugin import Plugin
from cni_plugins.spec.config import decode, keys_of
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Dns, Route, decode_dns
from cni_plugins.spec.values import JsonObject, fold
from cni_plugins.store.records import Contents

_KEPT = frozenset(
    ("subnet", "ranges", "rangeStart", "rangeEnd", "dataDir", "resolvConf", "sticky", "prefixDelegation")
)


class Drift:
    """The changes that lead to the file, and why there are none; `told` is each change for people."""

    __slots__ = ("changes", "problems", "told")

    def __init__(self) -> None:
        self.changes = Changes()
        self.problems: list[str] = []
        self.told: list[str] = []

    def want(self, key: str, told: str, **values: Any) -> None:
        self.changes = replace(self.changes, keys=(*self.changes.keys, key), **values)
        self.told.append(told)

    def cannot(self, key: str, old: object, new: object) -> None:
        reason = FIXED.get(key, "it is part of how the interface was made: attach the container anew")
        self.problems.append(f"{key} {old!r} → {new!r} cannot be changed in place: {reason}")


def drift(contents: Contents, document: JsonObject, plugins: Mapping[str, Plugin[Any]]) -> Drift:
    """What of `document` an attachment does not have yet. CniError 2 or 7 for one that no plugin takes."""
    found = Drift()
    name = str(contents.head["plugin"])
    wanted: Any = document
    members = fold(document, "plugins")
    if contents.head.get(HEAD) and fold(document, "type") != name:  # made of the whole list in one call
        listed = members if isinstance(members, list) else [document]
        _members(fold(contents.head["config"], "plugins"), listed, plugins, found)
        return found
    if fold(document, "type") is None and isinstance(members, list):
        wanted = next(
            (item for item in members if isinstance(item, dict) and fold(item, "type") == name), None
        )
    if not isinstance(wanted, dict):
        found.problems.append(f"the file has no plugin {name}, which made this attachment")
        return found
    _compare(contents.head.get("config", {}), wanted, plugins, found)
    return found


def _compare(old: JsonObject, new: JsonObject, plugins: Mapping[str, Plugin[Any]], found: Drift) -> None:
    name, wanted = str(fold(old, "type")), fold(new, "type")
    if name != wanted:
        found.cannot("type", name, wanted)
        return
    plugin = plugins.get(name)
    if plugin is None:
        if {key: old[key] for key in old if key in new} != new:
            found.problems.append(f"{name} is not one of ours: attach the container anew")
        return
    before, after = decode(plugin.config, old, lenient=True), decode(plugin.config, new)
    for key in keys_of(plugin.config):
        was, is_ = getattr(before, key.attribute), getattr(after, key.attribute)
        if was != is_ and key.key != "plugins":
            _key(key.key, was, is_, found)
    _dns(old, new, found)
    _ipam(fold(old, "ipam"), fold(new, "ipam"), plugins, found)
    inner = fold(old, "delegate"), fold(new, "delegate")
    if isinstance(inner[0], dict) and isinstance(inner[1], dict):
        _compare(*inner, plugins, found)
    _members(fold(old, "plugins"), fold(new, "plugins"), plugins, found)


def _members(old: object, new: object, plugins: Mapping[str, Plugin[Any]], found: Drift) -> None:
    lists = [_objects(item) for item in (old, new)]
    types = [[fold(item, "type") for item in listed] for listed in lists]
    if types[0] != types[1]:
        found.problems.append(
            f"plugins are {types[0]}, and {types[1]} in the file: attach the container anew"
        )
        return
    for one, other in zip(*lists, strict=True):
        _compare(one, other, plugins, found)


def _objects(value: object) -> list[JsonObject]:
    """Files are read as they are found: what is no list of objects has none."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _from_to(key: str, old: object, new: object) -> str:
    words = [str(value).lower() if isinstance(value, bool) else str(value) for value in (old, new)]
    return f"{key} {words[0]} → {words[1]}"


def _route(route: Route) -> str:
    return str(route.dst) + (f"@{route.gw}" if route.gw is not None else "")


def _key(key: str, old: Any, new: Any, found: Drift) -> None:
    if key == "mtu" and new:
        found.want(key, _from_to(key, old or "the link's own", new), mtu=new)
    elif key == "mtu":
        found.problems.append(
            f"mtu {old} → none: what the link has is looked up when a container is attached: write the "
            "number into the file, or attach the container anew"
        )
    elif key in FLAGS:
        found.want(key, _from_to(key, old, new), flags={**found.changes.flags, key: bool(new)})
    elif key in LIMITS:
        found.want(key, _from_to(key, old, new), limits={**found.changes.limits, key: new})
    elif key == "sysctl":
        gone = sorted(set(old or {}) - set(new or {}))
        if gone:
            found.problems.append(f"sysctl {', '.join(gone)}: what it was before comes back with DEL")
        changed = {name: value for name, value in (new or {}).items() if (old or {}).get(name) != value}
        if changed:
            listed = ", ".join(
                _from_to(f"sysctl.{name}", (old or {}).get(name, "not set"), value)
                for name, value in changed.items()
            )
            found.want(key, listed, sysctls={**found.changes.sysctls, **changed})
    else:
        found.cannot(key, old, new)


def _dns(old: JsonObject, new: JsonObject, found: Drift) -> None:
    was, wanted = (decode_dns(fold(item, "dns"), "dns") for item in (old, new))
    if wanted != was and wanted != Dns():
        domain = (wanted.domain,) if wanted.domain else ()
        parts = {"nameservers": wanted.nameservers, "search": wanted.search, "options": wanted.options}
        listed = "; ".join(
            _from_to(f"dns.{key}", " ".join(getattr(was, key)) or "none", " ".join(value) or "none")
            for key, value in parts.items()
            if getattr(was, key) != value
        )
        told = listed or _from_to("dns.domain", was.domain or "none", wanted.domain or "none")
        found.want("dns", told, dns={**parts, "domain": domain})


def _ipam(old: Any, new: Any, plugins: Mapping[str, Plugin[Any]], found: Drift) -> None:
    if not isinstance(old, dict) or not isinstance(new, dict):
        if old != new:
            found.cannot("ipam", old, new)
        return
    name = fold(old, "type")
    plugin = plugins.get(str(name))
    if name != fold(new, "type") or plugin is None:
        if old != new:
            found.cannot("ipam", name, fold(new, "type"))
        return
    before, after = decode(plugin.config, old, lenient=True), decode(plugin.config, new)
    for key in keys_of(plugin.config):
        was, is_ = getattr(before, key.attribute), getattr(after, key.attribute)
        if was == is_ or key.key in _KEPT:
            continue
        if key.key == "routes":
            _routes(was, is_, found)
        elif key.key == "gateway" and is_ is not None:
            found.want("gateway", _from_to("gateway", was or "the network's first", is_), gateways=(is_,))
        elif key.key == "addresses":
            _addresses(was, is_, found)
        else:
            found.cannot(f"ipam.{key.key}", was, is_)


def _routes(old: tuple[Route, ...], new: tuple[Route, ...], found: Drift) -> None:
    kept = {route.dst.network for route in new}
    gone = tuple(route.dst for route in old if route.dst.network not in kept)
    fresh = tuple(route for route in new if route not in old)
    if fresh or gone:
        listed = [f"routes+={_route(route)}" for route in fresh] + [f"routes-={item}" for item in gone]
        found.want("routes", ", ".join(listed), routes=fresh, no_routes=gone)


def _addresses(old: tuple[Any, ...], new: tuple[Any, ...], found: Drift) -> None:
    was = [entry.address for entry in old if entry.address is not None]
    wanted = [entry.address for entry in new if entry.address is not None]
    fresh = tuple(item for item in wanted if item not in was)
    gone = tuple(item.ip for item in was if item not in wanted)
    if fresh or gone:
        listed = [f"addresses+={item}" for item in fresh] + [f"addresses-={item}" for item in gone]
        found.want("addresses", ", ".join(listed), addresses=fresh, no_addresses=gone)


def require_network(document: object, network: str) -> JsonObject:
    """A file's document, which must be a configuration of `network`. CniError 7."""
    if not isinstance(document, dict):
        raise CniError(Code.INVALID_CONFIG, "the file holds no JSON object")
    name = fold(document, "name")
    if name != network:
        raise CniError(Code.INVALID_CONFIG, f"the file's network is {name!r}, not {network!r}")
    return document
