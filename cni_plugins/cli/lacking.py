"""What a plugin's configuration needs of this kernel and this host, and is not there."""

import ctypes
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from cni_plugins.kernel import links, routes
from cni_plugins.kernel.netlink.netfilter import Nfnetlink
from cni_plugins.kernel.netlink.route import Netlink
from cni_plugins.spec.config import is_interface_name
from cni_plugins.spec.deadline import after
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.namespace import OWN_NETNS, Namespace, open_namespace
from cni_plugins.spec.values import JsonObject, fold

#: Kinds of links that a plugin makes, of those that need no other link.
_LINKS: Mapping[str, tuple[str, ...]] = {
    "bridge": ("bridge", "veth"),
    "flannel": ("bridge", "veth"),
    "ptp": ("veth",),
    "vrf": ("vrf",),
    "dummy": ("dummy",),
    "bandwidth": ("ifb",),
}
#: Plugins whose link stands on a `master`.
_ON_MASTER = frozenset(("ipvlan", "macvlan", "vlan"))
_CLONE_NEWNET = 0x40000000


def lacking(host: Namespace, name: str, config: JsonObject, *, first: bool) -> Iterator[tuple[str, str]]:
    """What the kernel and the host lack for plugin `name`, which is `first` in its list or is not: the key
    that needs it, and what is missing.
    """
    for kind in _LINKS.get(name, ()):
        if not kernel_makes(kind):
            yield "type", f"this kernel makes no {kind} links"
    if name in {"portmap", "firewall"} or fold(config, "ipMasq") is True or fold(config, "nptv6"):
        # Who is not root may not ask: what cannot be told is not said to be missing.
        with suppress(CniError), Nfnetlink(host) as socket:
            if not socket.supported and fold(config, "backend") != "iptables":
                yield "type", "this kernel has no nf_tables"
    if name in _ON_MASTER and fold(config, "linkInContainer") is not True:
        yield from _master(host, fold(config, "master") or "", named=name == "vlan" or not first)
    device = fold(config, "device")
    if name == "host-device" and isinstance(device, str) and is_interface_name(device):
        yield from _link(host, "device", device)
    ipam = fold(config, "ipam")
    delegated = fold(ipam, "prefixDelegation") if isinstance(ipam, dict) else None
    uplink = fold(delegated, "uplink") if isinstance(delegated, dict) else None
    if isinstance(uplink, str) and is_interface_name(uplink):
        yield from _link(host, "ipam.prefixDelegation.uplink", uplink)


def _link(host: Namespace, key: str, name: str) -> Iterator[tuple[str, str]]:
    with Netlink(host, after(5)) as netlink:
        if links.find(netlink, name) is None:
            yield key, f"this host has no link {name!r}"


def _master(host: Namespace, master: Any, *, named: bool) -> Iterator[tuple[str, str]]:
    """`named`: the default route's link does not stand in for one that is not given."""
    if isinstance(master, str) and is_interface_name(master):
        yield from _link(host, "master", master)
    elif not master and not named:
        with Netlink(host, after(5)) as netlink:
            if not any(routes.default_link(netlink, version) for version in (4, 6)):
                yield "master", "master is not given, and this host has no default route to take it from"


def kernel_makes(kind: str) -> bool:
    """Whether the kernel makes a kind of link that needs no other: tried in a namespace of a child process.
    True where that cannot be tried (no root).
    """
    child = os.fork()
    if child == 0:
        status = 2
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) == 0:
                own = open_namespace(OWN_NETNS)
                assert own is not None
                with Netlink(own, after(5)) as netlink:
                    values = [("IFLA_VRF_TABLE", 10)] if kind == "vrf" else []
                    netlink.request(links.create("probe0", kind, values))
                status = 0
        except CniError as error:
            status = 1 if "not supported" in str(error).lower() else 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) != 1
