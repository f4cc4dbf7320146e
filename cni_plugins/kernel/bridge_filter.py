"""br_netfilter of one bridge: what passes from port to port meets the hooks of IPv4 and IPv6 too.

The bridge's own flags do that (`nf_call_iptables`, `nf_call_ip6tables` of ip-link(8)), whatever the switches
for all bridges say, which stay as they are. Loading the module turns those on for every bridge of the node,
so whoever loads it here turns them off again.
"""

import os
from pathlib import Path

from cni_plugins.kernel import bridges, sysctl
from cni_plugins.kernel.links import Link
from cni_plugins.kernel.netlink.codec import encode
from cni_plugins.kernel.netlink.layouts import LINK
from cni_plugins.kernel.netlink.route import RTM_NEWLINK, Message, Netlink
from cni_plugins.kernel.program import run
from cni_plugins.spec.deadline import Deadline
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.namespace import Namespace

_CALL_IPTABLES, _CALL_IP6TABLES = 36, 37  # linux/if_link.h
_GLOBAL = (
    "bridge/bridge-nf-call-iptables",
    "bridge/bridge-nf-call-ip6tables",
    "bridge/bridge-nf-call-arptables",
)


def available(host: Namespace) -> bool:
    """Whether the kernel has br_netfilter, loaded."""
    return sysctl.read(host, _GLOBAL[0]) is not None


def require(host: Namespace, deadline: Deadline) -> None:
    """Load br_netfilter where it is not. CniError 50 when there is none."""
    if available(host):
        return
    try:
        run(host, ["modprobe", "br_netfilter"], os.environ, b"", deadline)
    except CniError as error:
        raise _missing(str(error)) from error
    if not available(host):
        raise _missing("")
    sysctl.ensure(host, dict.fromkeys(_GLOBAL, "0"), optional=True)


def require_loadable(host: Namespace, deadline: Deadline) -> None:
    """CniError 50 when br_netfilter is not there and `require` would not load it. Nothing is changed."""
    if available(host):
        return
    if _no_more_modules():
        raise _missing("kernel.modules_disabled is 1: no module is loaded before the next boot")
    try:
        found = run(host, ["modprobe", "--dry-run", "br_netfilter"], os.environ, b"", deadline)
    except CniError as error:
        raise _missing(str(error)) from error
    if found.status != 0:
        raise _missing("")


def _no_more_modules() -> bool:
    try:
        return Path("/proc/sys/kernel/modules_disabled").read_bytes().strip() == b"1"
    except OSError:  # a kernel without modules
        return True


def _missing(why: str) -> CniError:
    return CniError(
        Code.NOT_AVAILABLE,
        "policy cannot be enforced between the ports of a bridge: this kernel has no br_netfilter",
        why or "modprobe br_netfilter; or use a ptp network, whose packets are always routed",
    )


def is_on(bridge: Link) -> bool:
    return all(bridge.data.get(flag, b"\0")[0] == 1 for flag in (_CALL_IPTABLES, _CALL_IP6TABLES))


def turn(netlink: Netlink, name: str, *, on: bool) -> bool:
    """Turn a bridge's flags on or off; whether that changed anything. CniError 999."""
    bridge = bridges.find(netlink, name)
    if bridge is None or is_on(bridge) == on:
        return False
    options = [("IFLA_BR_NF_CALL_IPTABLES", int(on)), ("IFLA_BR_NF_CALL_IP6TABLES", int(on))]
    data = {"attrs": [("IFLA_INFO_KIND", "bridge"), ("IFLA_INFO_DATA", {"attrs": options})]}
    body = encode(LINK, {"index": bridge.index}, [("IFLA_LINKINFO", data)])
    netlink.request(Message(f"filter what passes bridge {name}", RTM_NEWLINK, 0, body))
    return True
