"""A link of the container's that stands on another link (macvlan, ipvlan, VLAN) or on none (dummy).

It is made in the container's namespace under a name that nobody has, because the kernel looks for the name in
the host's namespace first, and is renamed there. Its identity is the container's namespace, its kind and its
MAC address; once the ADD came through, and the name is its own, also its name and the link that it stands on,
because a task may change the address. A link without a MAC address of its own that a task renames is left to
its namespace, except a VLAN: a master has each of them once.
"""

import errno
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cni_plugins.kernel import links, verify
from cni_plugins.kernel.links import Link
from cni_plugins.kernel.netlink.route import answered
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Result
from cni_plugins.steps import mtu
from cni_plugins.steps.context import Context
from cni_plugins.steps.step import Step, step

#: What the kernel's refusal to make a link of a kind means.
_MEANING: Mapping[tuple[str, int], str] = {
    (
        "vlan",
        errno.EEXIST,
    ): "has a link for that VLAN already, here or in a container, and can have one",
    ("ipvlan", errno.EBUSY): "has links of another kind (macvlan, a bridge), not beside ipvlan",
    (
        "macvlan",
        errno.EBUSY,
    ): "has links of another kind (ipvlan, a bridge, passthru), not beside macvlan",
}


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute of the link's kind: its name in IFLA_INFO_DATA and value for making it, its number
    (linux/if_link.h) and the kernel's value for checking it; -1: not checked.
    """

    name: str
    value: str | int
    number: int = 0
    raw: int = -1


@step
class ChildLink(Step):
    """`temporary` is the name that it is made under, `mac` "" the master's or the kernel's choice; `master`
    is "" for a link without one, `in_container` says where the master is. `mtu` 0 is the master's.
    `master_up`: it was up when the link was made; one that never was is its owner's affair.
    """

    kind: str
    ifname: str
    temporary: str
    mac: str
    master: str = ""
    master_index: int = 0
    in_container: bool = False
    mtu: int = 0
    attributes: tuple[Attribute, ...] = ()
    master_up: bool = True

    def apply(self, context: Context) -> None:
        """CniError 7 when the master cannot have it, 999; also when the container has a link of the name by
        now.
        """
        values: dict[str, Any] = {"link": self.master_index} if self.master_index else {}
        values |= {"net_ns_fd": context.inside.fd}
        values |= {"mtu": self.mtu} if self.mtu else {}
        values |= {"address": self.mac} if self.mac else {}
        data: list[tuple[str, Any]] = [(item.name, item.value) for item in self.attributes]
        maker = context.sandbox if self.in_container else context.host
        refusals = frozenset(code for kind, code in _MEANING if kind == self.kind)
        message = links.create(self.temporary, self.kind, data, **values)
        error = answered(maker.request(replace(message, allow=refusals))).error
        if error:
            raise CniError(Code.INVALID_CONFIG, f"master {self.master} {_MEANING[self.kind, error]}")
        link = links.find(context.sandbox, self.temporary)
        if link is None:
            raise CniError(Code.INTERNAL, f"{self.kind} {self.temporary} vanished as soon as it was made")
        context.sandbox.request(links.change(self.temporary, link.index, ifname=self.ifname))

    def _ours(self, context: Context, link: Link) -> bool:
        if link.kind != self.kind:
            return False
        if self.mac and link.mac == self.mac:
            return True
        if self.kind == "vlan" and context.complete and link.peer == self.master_index:
            return all(self._value(link, item) == item.raw for item in self.attributes)
        named = link.name == self.ifname and (context.complete or not self.mac)
        return link.name == self.temporary or (named and link.peer == self.master_index)

    def _value(self, link: Link, item: Attribute) -> int:
        return int.from_bytes(link.data.get(item.number, bytes(4)), sys.byteorder)

    def find(self, context: Context) -> Link | None:
        """The link in the container, wherever a crash or a task left it."""
        for name in (self.ifname, self.temporary):
            link = links.find(context.sandbox, name)
            if link is not None and self._ours(context, link):
                return link
        return next((link for link in links.every(context.sandbox) if self._ours(context, link)), None)

    def undo(self, context: Context) -> None:
        if context.sandbox_namespace is None:
            return
        link = self.find(context)
        if link is not None:
            links.remove(context.sandbox, link.name, link.index)

    def check(self, context: Context) -> None:
        link = verify.link(context.sandbox, self.ifname, self.kind, context.call.previous or Result())
        if self.master_index:
            netlink = context.sandbox if self.in_container else context.host
            there = links.find_index(netlink, self.master_index)
            if there is None:
                raise CniError(Code.INTERNAL, f"{self.master}, the master of {self.ifname}, is gone")
            if link.peer != self.master_index:
                raise CniError(Code.INTERNAL, f"{self.ifname} is not a {self.kind} of {there.name}")
            if self.master_up and not there.up:
                raise CniError(Code.INTERNAL, f"{there.name}, the master of {self.ifname}, is down")
        for item in self.attributes:
            found = self._value(link, item)
            if item.raw >= 0 and found != item.raw:
                raise CniError(
                    Code.INTERNAL, f"{item.name} of {self.ifname} is {found}, not {item.raw} ({item.value})"
                )
        mtu.require_mtu(context, link, self.mtu)
