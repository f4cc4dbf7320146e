"""The toolkit's plugins, imported and warmed up once for a process that serves many calls."""

from __future__ import annotations

import importlib
import logging
import os
from contextlib import suppress

from cni_plugins.attach.reload import reload
from cni_plugins.attach.update import Where
from cni_plugins.kernel.netlink import layouts
from cni_plugins.kernel.nft import library
from cni_plugins.node import network_upkeep
from cni_plugins.node.network_upkeep import Watching
from cni_plugins.node.policy_upkeep import serve, upkeep
from cni_plugins.node.service import Handler
from cni_plugins.plugins.registry import MODULES, Handlers, Plugins
from cni_plugins.spec import dispatch
from cni_plugins.spec.call import Reply, Request
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.namespace import OWN_NETNS, open_namespace
from cni_plugins.spec.roots import roots_from
from cni_plugins.steps import registry

log = logging.getLogger("mesokit.node")

#: What functions import when they run, to spare a process of one call.
IMPORTED_LATE = (
    "cni_plugins.attach.lifecycle",
    "cni_plugins.kernel.iptables",
    "cni_plugins.kernel.nft.masquerade",
    "cni_plugins.kernel.nft.orphans",
    "cni_plugins.kernel.nft.spoof",
    "cni_plugins.plugins.ipam.prefix",
    "cni_plugins.plugins.ipam.resolv_conf",
    "cni_plugins.steps.policy_endpoints",
    "cni_plugins.steps.version1",
    "subprocess",
    "yaml",
)


def restore(watching: str = Watching.OFF) -> None:
    """Make again what somebody flushed, for the attachments of this process's namespace, then see to networks
    whose files changed, as `watching` (a value of Watching) has it; log errors.
    """
    host = open_namespace(OWN_NETNS)
    if host is None:
        return
    try:
        upkeep(roots_from(os.environ), host)
        for item in reload(roots_from(os.environ), host, Plugins()):
            for error in item.errors:
                who = item.identity
                log.error(
                    "%s %s on %s cannot be restored: %s", who.container_id, who.ifname, who.network, error
                )
        network_upkeep.upkeep(Where(roots_from(os.environ), host, Plugins()), Watching(watching))
    finally:
        os.close(host.fd)


def policies() -> int:
    """Apply the policy files of this process's namespace whenever one changes (policy_process.py)."""
    return serve()


def prepare() -> Handler:
    """Imports every plugin, and what they import when they first run; the function that serves a request.

    Nothing may be left to import: an upgrade replaces the files of a bundle under a service that runs.
    """
    for module in MODULES.values():
        importlib.import_module(module)
    for kind in registry.Kind:
        registry.load(kind)
    for module in IMPORTED_LATE:
        importlib.import_module(module)
    layouts.load_fallbacks()
    with suppress(CniError):  # a host without libnftables can do without it
        library.load()
    handlers = Handlers()

    def handle(request: Request) -> Reply:
        return dispatch.handle(request, handlers)

    for name in MODULES:
        handle(Request(name, {"CNI_COMMAND": "VERSION"}, b""))
    return handle
