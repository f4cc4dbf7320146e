"""The plugins by name. Modules are imported when their plugin is first called: a process of one call needs
one of them, and one that looks at the node none.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cni_plugins.attach.plugin import Plugin
    from cni_plugins.spec.dispatch import Handler

MODULES: Mapping[str, str] = {
    "bandwidth": "cni_plugins.plugins.meta.bandwidth",
    "bridge": "cni_plugins.plugins.main.bridge",
    "chain": "cni_plugins.chain.plugin",
    "dhcp": "cni_plugins.plugins.ipam.dhcp",
    "firewall": "cni_plugins.plugins.meta.firewall",
    "flannel": "cni_plugins.plugins.main.flannel",
    "dummy": "cni_plugins.plugins.main.dummy",
    "host-device": "cni_plugins.plugins.main.host_device",
    "host-local": "cni_plugins.plugins.ipam.host_local",
    "ipvlan": "cni_plugins.plugins.main.ipvlan",
    "ptp": "cni_plugins.plugins.main.ptp",
    "macvlan": "cni_plugins.plugins.main.macvlan",
    "loopback": "cni_plugins.plugins.main.loopback",
    "mesos-cni-port-mapper": "cni_plugins.plugins.meta.port_mapper",
    "portmap": "cni_plugins.plugins.meta.portmap",
    "sbr": "cni_plugins.plugins.meta.sbr",
    "static": "cni_plugins.plugins.ipam.static",
    "tap": "cni_plugins.plugins.main.tap",
    "tuning": "cni_plugins.plugins.meta.tuning",
    "vlan": "cni_plugins.plugins.main.vlan",
    "vrf": "cni_plugins.plugins.meta.vrf",
}


class Plugins(Mapping[str, "Plugin[Any]"]):
    """Every plugin of the toolkit, imported on demand."""

    def __getitem__(self, name: str) -> Plugin[Any]:
        module = MODULES[name]
        known: Plugin[Any] | None = getattr(sys.modules.get(module), "PLUGIN", None)
        return known or importlib.import_module(module).PLUGIN

    def __iter__(self) -> Iterator[str]:
        return iter(MODULES)

    def __len__(self) -> int:
        return len(MODULES)


class Handlers(Mapping[str, "Handler"]):
    """Every plugin as `spec.dispatch.handle` wants it."""

    def __getitem__(self, name: str) -> Handler:
        from cni_plugins.attach.lifecycle import handler

        plugins = Plugins()
        return handler(plugins[name], plugins)

    def __iter__(self) -> Iterator[str]:
        return iter(MODULES)

    def __len__(self) -> int:
        return len(MODULES)
