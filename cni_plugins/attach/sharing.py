"""Plugins of one list that a runtime calls one by one have a record each: which of them a change is for.

The attachment is one to its operator: a key goes to the records that can take it, one that no record takes is
refused once, and nothing is changed where one of them cannot have what it is to get. What one of them makes
of the attachment (addresses, routes) is what the others are planned with.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from cni_plugins.attach.changes import Changes
from cni_plugins.attach.plans.plan import of_type
from cni_plugins.attach.replay import steps_of
from cni_plugins.spec.result import Result, decode
from cni_plugins.spec.values import JsonObject
from cni_plugins.spec.versions import NEWEST
from cni_plugins.steps.step import Step
from cni_plugins.store.records import Contents

_PUBLISHERS = ("portmap", "mesos-cni-port-mapper")


@dataclass(frozen=True, slots=True)
class Shared:
    """What the other records of an attachment add to the plan of one: their `steps`, and the `result` of the
    one that gave the addresses, if it is among them.
    """

    steps: tuple[Step, ...] = ()
    result: Result | None = None


def _kinds(contents: Contents) -> set[str]:
    return {str(line.get("step", "")) for line in contents.steps}


def gives_addresses(contents: Contents) -> bool:
    return "addresses" in _kinds(contents)


def _has_mtu(contents: Contents) -> bool:
    if {"veth", "child-link"} & _kinds(contents):
        return True
    settings = [line.get("args", {}) for line in contents.steps if line.get("step") == "link-settings"]
    return any(item.get("wanted", {}).get("mtu") is not None for item in settings)


def _judged(contents: Contents) -> bool:
    return "policy-endpoint" in _kinds(contents)


def _of(*types: str) -> Callable[[Contents], bool]:
    def takes(contents: Contents) -> bool:
        config: JsonObject = contents.head.get("config", {})
        return of_type(config, *types) is not None

    return takes


#: Attributes of Changes, and whether a record can take what they hold.
_TAKERS: Mapping[str, Callable[[Contents], bool]] = {
    "mtu": _has_mtu,
    "routes": gives_addresses,
    "no_routes": gives_addresses,
    "addresses": gives_addresses,
    "no_addresses": gives_addresses,
    "gateways": gives_addresses,
    "dns": gives_addresses,
    "sysctls": _of("tuning"),
    "limits": _of("bandwidth"),
    "flags": _of("bridge"),
    "ports": _of(*_PUBLISHERS),
    "no_ports": _of(*_PUBLISHERS),
    "groups": _judged,
    "labels": _judged,
}
_EMPTY = Changes()


def share(changes: Changes, own: Contents, every: Sequence[Contents]) -> Changes | None:
    """Of changes those that are for one of the records of an attachment (`every`, oldest first); None when
    none is. What no record takes is for the first, which refuses it.
    """
    if len(every) < 2:
        return changes
    without = {
        name: getattr(_EMPTY, name)
        for name, takes in _TAKERS.items()
        if not takes(own) and (own is not every[0] or any(takes(item) for item in every))
    }
    mine = replace(changes, **without)
    return mine if replace(mine, keys=()) != _EMPTY else None


def shared(others: Sequence[Contents]) -> Shared:
    """What the plan of one of an attachment's records has to know of the others."""
    steps = tuple(step for item in others for step in steps_of(item))
    main = next((item for item in others if gives_addresses(item) and item.result is not None), None)
    return Shared(steps, decode(main.result, NEWEST) if main is not None else None)
