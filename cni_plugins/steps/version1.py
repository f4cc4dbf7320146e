"""Steps of records of version 1, which know only how to undo.

A line is `{"undo": OPERATION, "args": {…}}`. Version 1 told links by name; the result of the same record has
their MAC addresses, so that a link that took the name of one that is gone is left alone all the same. Without
a result (the ADD died) the name is all there is.
"""

from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Any

from cni_plugins.kernel import links, sysctl
from cni_plugins.kernel.nft.ports import Forward, Hide, Publication
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.values import JsonObject, parse_cidr
from cni_plugins.steps.bridge import Bridge
from cni_plugins.steps.context import Context
from cni_plugins.steps.delegate import Delegate
from cni_plugins.steps.link_settings import LinkSettings, Settings
from cni_plugins.steps.localnet import Localnet
from cni_plugins.steps.masquerade import Masquerade
from cni_plugins.steps.ports import IptablesKeys, PortClaims, Ports
from cni_plugins.steps.reservation import Reservation
from cni_plugins.steps.shaping import LimitReceiving, LimitSending
from cni_plugins.steps.spoof import SpoofCheck
from cni_plugins.steps.step import Step, step
from cni_plugins.steps.sysctl import Sysctl
from cni_plugins.steps.vlan import VlanGateway
from cni_plugins.store.records import Contents

_KINDS = frozenset(("veth", "ifb", "macvlan"))


@step
class NamedLink(Step):
    """A link of the host or of the container (`where`); `mac` is "" when the record does not tell it."""

    where: str
    name: str
    mac: str

    def undo(self, context: Context) -> None:
        if self.where != "host" and context.sandbox_namespace is None:
            return
        netlink = context.host if self.where == "host" else context.sandbox
        link = links.find(netlink, self.name)
        if link is None or link.kind not in _KINDS:
            return
        if (
            self.where == "host"
            and not (self.mac and link.mac == self.mac)
            and not self._reaches(context, link)
        ):
            return
        links.remove(netlink, link.name, link.index)

    def _reaches(self, context: Context, link: links.Link) -> bool:
        """Without a MAC address: whether the other end is in the container, whose namespace is told for
        certain. When that is gone it took the pair along, and this is somebody else's.
        """
        if self.mac or link.kind != "veth":
            return not self.mac
        if context.sandbox_namespace is None:
            return False
        return links.other_end(context.sandbox, context.host, link) is not None


@step
class _UndoOnly(Step):
    """What a record of version 1 does not tell enough of to make it again."""

    inner: Step

    def undo(self, context: Context) -> None:
        self.inner.undo(context)


@step
class HostSysctl(Step):
    """A sysctl of the host that undo puts back, if nobody changed it since."""

    inner: Sysctl

    def undo(self, context: Context) -> None:
        found = sysctl.read(context.call.host, self.inner.name)
        if found is not None and found.split() == self.inner.after.split():
            sysctl.write(context.call.host, {self.inner.name: self.inner.before})


def _mac_of(contents: Contents, name: str) -> str:
    """The MAC address of a link of the host, as the record's result has it."""
    listed = (contents.result or {}).get("interfaces")
    for item in listed if isinstance(listed, list) else ():
        if isinstance(item, dict) and item.get("name") == name and not item.get("sandbox"):
            return str(item.get("mac", "")).lower()
    return ""


def _link_delete(args: Mapping[str, Any], contents: Contents) -> Step:
    return NamedLink(args["where"], args["name"], _mac_of(contents, args["name"]))


def _link_restore(args: Mapping[str, Any], contents: Contents) -> Step:
    before = Settings(
        args.get("address"), args.get("mtu"), args.get("txqlen"), args.get("flags", 0), args.get("clear", 0)
    )
    mac = _mac_of(contents, args["name"]) if args["where"] == "host" else ""
    if args["where"] == "host" and not mac:
        return Nothing()
    return LinkSettings(args["name"], Settings(), before, mac)


@step
class Nothing(Step):
    """For what cannot be undone for certain, and goes with the link that it was a setting of."""


def _ports_delete(args: Mapping[str, Any], contents: Contents) -> Step:
    forwards = tuple(
        Forward(
            item["protocol"],
            None if item["hostIP"] is None else ip_address(item["hostIP"]),
            item["hostPort"],
            parse_cidr(item["target"]),
            item["containerPort"],
        )
        for item in args["forwards"]
    )
    v4, v6 = args["conditions"]
    wanted = Publication(forwards, Hide(args["hide"]), tuple(args["excluded"]), (v4, v6))
    return Ports(wanted) if args["backend"] == "nftables" else _UndoOnly(Ports(wanted, IptablesKeys()))


def _shaping(args: Mapping[str, Any], contents: Contents) -> Step:
    mac = _mac_of(contents, args["link"])
    if args["direction"] == "egress":
        return LimitReceiving(args["link"], mac, 0, 0, 0)
    return LimitSending(args["link"], mac, "", "", 0, 0, 0)


def _sysctl(args: Mapping[str, Any], contents: Contents) -> Step:
    step = Sysctl(args["name"], args["before"], args["after"])
    return HostSysctl(step) if args["where"] == "host" else step


_OPERATIONS: Mapping[str, Callable[[Mapping[str, Any], Contents], Step]] = {
    "bridge.release": lambda args, _: Bridge(args["name"], args["mac"]),
    "delegate.delete": lambda args, _: Delegate(
        args["plugin"],
        args["config"],
        args["containerID"],
        args["ifname"],
        args["netns"],
        args.get("args", ""),
        args["path"],
    ),
    "host-local.release": lambda args, _: Reservation(
        args["directory"], args["address"], args["containerID"], args["ifname"]
    ),
    "link.delete": _link_delete,
    "link.restore": _link_restore,
    "localnet.release": lambda args, _: Localnet(args["subject"], args["member"], args["interface"]),
    "masquerade.delete": lambda args, _: Masquerade(
        args["backend"], tuple(parse_cidr(text) for text in args["addresses"])
    ),
    "ports.delete": _ports_delete,
    "ports.release": lambda args, _: PortClaims(
        tuple((subject, member) for subject, member in args["claims"])
    ),
    "shaping.remove": _shaping,
    "spoof.delete": lambda args, _: SpoofCheck(args["port"], args["mac"]),
    "sysctl.restore": _sysctl,
    "vlan.release": lambda args, _: VlanGateway(args["bridge"], args["vid"]),
}


def decode(line: JsonObject, contents: Contents) -> Step:
    """The step of a line of version 1. CniError 999 for an operation that never was."""
    op = line.get("undo")
    try:
        return _OPERATIONS[str(op)](line["args"], contents)
    except (KeyError, TypeError, ValueError) as error:
        raise CniError(
            Code.INTERNAL,
            f"the attachment record has an undo operation {op!r} that this release does not understand",
            f"{type(error).__name__}: {error}; the record was left as it is",
        ) from error
