"""A device of the host in the container, given back as it was.

The record holds what it was on the host: name, MTU, MAC address, queue, flags, alias, master, sysctls,
addresses and routes. Undo finds it by its identity (kernel.devices), whatever a task has called it: in the
container, or already on the host, where the kernel puts a physical device whose namespace has died and where
a call that was killed left it half restored. (The kernel destroys virtual devices with their namespace.) What
took its name or MAC address in the container is a task's own, and never comes to the host.

On the way it carries the name that it had as its alias, for the reference plugin's DEL.
"""

import errno
import time
from contextlib import suppress
from dataclasses import field, replace

from cni_plugins.kernel import devices, links, routes, sysctl
from cni_plugins.kernel.links import Link
from cni_plugins.kernel.netlink.route import Netlink, answered
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.steps import link_state
from cni_plugins.steps.context import Context
from cni_plugins.steps.link_state import LinkAddress, LinkRoute
from cni_plugins.steps.step import Step, step

_RETURN_SECONDS = 5.0
_FLAGS = links.IFF_UP | links.IFF_PROMISC | links.IFF_ALLMULTI


@step
class HostDevice(Step):
    """The host's link `name`, of a `kind` ("" is a physical device), as the container's `ifname`; `identity`
    is 0 where the kernel tells none: then kind and MAC address have to do.
    """

    name: str
    ifname: str
    identity: int
    kind: str
    mac: str
    mtu: int
    queue: int
    flags: int = 0
    alias: str = ""
    master: int = 0
    addresses: tuple[LinkAddress, ...] = ()
    routes: tuple[LinkRoute, ...] = ()
    sysctls: dict[str, str] = field(default_factory=dict)

    def apply(self, context: Context) -> None:
        """CniError 7 for a device that has to stay where it is, 999; also when the container has a link of
        the name by now.
        """
        link = self._found(context.host)
        if link is None:
            raise CniError(Code.INTERNAL, f"the host's device {self.name} vanished before it was moved")
        context.host.request(links.change(link.name, link.index, ifalias=self.name))
        moving = links.move(link.name, link.index, context.inside.fd, self.ifname)
        message = replace(moving, allow=frozenset((errno.EINVAL, errno.EOPNOTSUPP)))
        if answered(context.host.request(message)).error:
            raise CniError(
                Code.INVALID_CONFIG, f"{self.name} is {self.kind or 'a device'} that cannot leave the host"
            )

    def _found(self, netlink: Netlink) -> Link | None:
        """The device in the socket's namespace."""
        if self.identity:
            return devices.find(netlink, self.identity)
        for name in (self.ifname, self.name):
            link = links.find(netlink, name)
            if link is not None and (link.kind, link.mac) == (self.kind, self.mac):
                return link
        return None

    def undo(self, context: Context) -> None:
        """CniError 11 while another link of the host has its name: it stays in the container then."""
        inside = self._found(context.sandbox) if context.sandbox_namespace is not None else None
        if inside is not None:
            self._require_name(context.host)
            home = context.call.host.fd
            context.sandbox.request(links.move(inside.name, inside.index, home, self.name))
        here = self._on_host(context)
        if here is not None:
            self._restore(context.host, here)
        elif not self.kind:
            context.call.warn(
                f"the device {self.name} is neither in the container nor on the host: it was taken out, or "
                "somebody holds the namespace that it is in"
            )

    def _require_name(self, netlink: Netlink) -> None:
        if links.find(netlink, self.name) is not None:
            raise CniError(
                Code.TRY_AGAIN,
                f"the device {self.ifname} cannot go back: the host has another link {self.name} by now",
                f"give that one another name (ip link set {self.name} name …), then repeat the call",
            )

    def _on_host(self, context: Context) -> Link | None:
        """The device on the host. A physical one takes a moment to come back from a namespace that died."""
        end = time.monotonic() + min(_RETURN_SECONDS, context.deadline.remaining() / 2)
        while True:
            found = self._found(context.host)
            if found is not None or self.kind or time.monotonic() > end:
                return found
            time.sleep(0.02)

    def _restore(self, netlink: Netlink, link: Link) -> None:
        name, index = link.name, link.index
        if name != self.name:
            self._require_name(netlink)
            netlink.request(links.change(name, index, clear_flags=links.IFF_UP))
            netlink.request(links.rename(name, index, self.name))
        values: dict[str, object] = {"ifalias": self.alias} if link.alias != self.alias else {}
        values |= {"mtu": self.mtu} if link.mtu != self.mtu else {}
        values |= {"txqlen": self.queue} if link.queue != self.queue else {}
        netlink.request(links.change(self.name, index, **values))  # type: ignore[arg-type]
        if link.mac != self.mac:
            netlink.request(links.change(self.name, index, address=self.mac))
        if self.master and link.master != self.master and links.find_index(netlink, self.master):
            netlink.request(links.set_master(self.name, index, self.master))
        wanted = {key.replace("/", f"/conf/{self.name}/", 1): value for key, value in self.sysctls.items()}
        sysctl.ensure(netlink.namespace, wanted, optional=True)
        link_state.give_addresses(netlink, index, self.addresses)
        clear = _FLAGS & ~self.flags
        netlink.request(links.change(self.name, index, set_flags=self.flags, clear_flags=clear))
        for item in link_state.by_reach(self.routes):
            with suppress(CniError):  # its gateway may be out of reach by now, as it might be at any time
                netlink.request(item.add(index))

    def check(self, context: Context) -> None:
        link = links.find(context.sandbox, self.ifname)
        if link is None:
            raise CniError(Code.INTERNAL, f"the container has no interface {self.ifname}")
        if self.identity and devices.identity(context.inside, self.ifname) != self.identity:
            raise CniError(Code.INTERNAL, f"{self.ifname} is not the device {self.name} of the host")


def moved(context: Context, link: Link, ifname: str) -> HostDevice:
    """The step that moves a link of the host, with all that it is now. CniError 999."""
    listed = [
        item
        for item in link_state.main_routes(context.host, link.index)
        if item.protocol not in {routes.PROTOCOL_KERNEL, routes.PROTOCOL_ROUTER}
    ]
    return HostDevice(
        name=link.name,
        ifname=ifname,
        identity=devices.identity(context.call.host, link.name),
        kind=link.kind,
        mac=link.mac,
        mtu=link.mtu,
        queue=link.queue,
        flags=link.flags & _FLAGS,
        alias=link.alias,
        master=link.master,
        addresses=tuple(link_state.held_addresses(context.host, link.index)),
        routes=tuple(listed),
        sysctls=sysctl.of_interface(context.call.host, link.name),
    )
