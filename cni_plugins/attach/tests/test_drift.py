"""Drift: files are compared as they are found, whatever stands in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from typing import Any

import pytest

from cni_plugins.attach.drift import drift
from cni_plugins.plugins.registry import Plugins
from cni_plugins.spec.errors import CniError
from cni_plugins.store.records import Contents

POOL = {"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/24"}]], "routes": [{"dst": "10.30.0.0/16"}]}
BRIDGE: dict[str, Any] = {"type": "bridge", "mtu": 1400, "dns": {"nameservers": ["192.0.2.1"]}, "ipam": POOL}
TUNING: dict[str, Any] = {"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}}
STATIC: dict[str, Any] = {
    "type": "ptp",
    "ipam": {"type": "static", "addresses": [{"address": "10.9.0.5/24"}]},
}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "bridge": BRIDGE,
    "static": STATIC,
    "delegate": TUNING | {"delegate": BRIDGE},
    "chain": {"type": "chain", "plugins": [BRIDGE, TUNING, {"type": "portmap"}]},
    "another's": {"type": "foreign", "x": 1},
}
JUNK: tuple[Any, ...] = (
    *(None, 5, -1, 1.5, True, "", "x", "\0", 10**30, "10.0.0.0/99", "\ud800"),
    *([], {}, [5], [None], [[]], {"a": 1}, {"type": 5}, {"type": ["x"]}, [{"dst": 5}]),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a document."""
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, item in entries:
        yield (*path, key)
        yield from places(item, (*path, key))


def spoilt(document: Any, path: tuple[Any, ...], junk: Any) -> Any:
    made = deepcopy(document)
    inner = made
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = junk
    return made


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_whatever_stands_in_a_file_is_compared_or_refused(name: str) -> None:
    plugins, conf = Plugins(), CONFIGURATIONS[name]
    for head in ({}, {"added": True}):
        own = {"plugin": conf["type"], "config": {"name": "net", **conf}, **head}
        contents = Contents(own, (), {}, 1)
        for document in ({"name": "net", **conf}, {"name": "net", "plugins": [conf, TUNING]}):
            for path in places(document):
                for junk in JUNK:
                    with suppress(CniError):
                        drift(contents, spoilt(document, path, junk), plugins)


def test_each_difference_is_told_with_what_it_was() -> None:
    contents = Contents({"plugin": "bridge", "config": {"name": "net", **BRIDGE}}, (), {}, 1)
    ipam = POOL | {"routes": [{"dst": "10.40.0.0/16", "gw": "10.9.0.1"}]}
    new = BRIDGE | {"mtu": 1300, "hairpinMode": True, "dns": {"nameservers": ["192.0.2.2"]}, "ipam": ipam}
    found = drift(contents, {"name": "net", **new}, Plugins())
    assert sorted(found.told) == [
        "dns.nameservers 192.0.2.1 → 192.0.2.2",
        "hairpinMode false → true",
        "mtu 1400 → 1300",
        "routes+=10.40.0.0/16@10.9.0.1, routes-=10.30.0.0/16",
    ]
    assert not found.problems
