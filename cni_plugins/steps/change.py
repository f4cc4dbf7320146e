"""What an update changes on an attachment that is there.

These steps stand in a record only while an update is at work: when it is complete they have become part of
the steps that an ADD makes, so that DEL, CHECK and GC know no others. Undone, they put back what was there.
Anything inside the container is told by its namespace, anything on the host by its MAC address.
"""

import errno
from collections.abc import Sequence
from dataclasses import replace

from cni_plugins.kernel import addresses, interface, links, routes, shaping, sysctl
from cni_plugins.kernel.links import Link, PortFlag
from cni_plugins.kernel.netlink.route import Message
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Address, Route
from cni_plugins.spec.values import IpInterface
from cni_plugins.steps.addresses import whole
from cni_plugins.steps.context import Context
from cni_plugins.steps.step import Step, step

#: Answers to a route whose interface or gateway the container itself has taken away: there is no way back,
#: and what is left goes with the container. No task may keep its own DEL from coming through.
_HINDERED = frozenset((errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTUNREACH, errno.EINVAL, errno.EACCES))


def _inside(context: Context, name: str) -> int:
    index = interface.index_of(context.inside, name)
    if not index:
        raise CniError(Code.INTERNAL, f"the container has no interface {name} any more")
    return index


def _delete_inside(context: Context, name: str, gone: Sequence[Route]) -> None:
    """Delete routes of the container, if it and its interface are there."""
    if context.sandbox_namespace is None:
        return
    index = interface.index_of(context.sandbox_namespace, name)
    if index:
        context.sandbox.request(*(routes.delete(route, index) for route in gone))


@step
class AddedAddresses(Step):
    """Further addresses of the container's interface. `prefix_route` as in kernel.addresses.add."""

    ifname: str
    addresses: tuple[IpInterface, ...]
    prefix_route: bool = True

    def apply(self, context: Context) -> None:
        index = _inside(context, self.ifname)
        context.sandbox.request(
            *(
                addresses.add(index, item, dad=False, prefix_route=self.prefix_route)
                for item in self.addresses
            )
        )

    def undo(self, context: Context) -> None:
        """Without the others of the same subnet, which the kernel takes along with the first one unless it
        is told to promote them.
        """
        if context.sandbox_namespace is None:
            return
        index = interface.index_of(context.sandbox_namespace, self.ifname)
        if not index:
            return
        promote = f"ipv4/conf/{self.ifname}/promote_secondaries"
        before = sysctl.read(context.sandbox_namespace, promote)
        if before == "0":
            sysctl.write(context.sandbox_namespace, {promote: "1"})
        try:
            context.sandbox.request(*(addresses.delete(index, item) for item in self.addresses))
        finally:
            if before == "0":
                sysctl.write(context.sandbox_namespace, {promote: "0"})


@step
class AddedRoutes(Step):
    """Further routes of the container by its interface, each with its gateway where it has one."""

    ifname: str
    routes: tuple[Route, ...]

    def apply(self, context: Context) -> None:
        index = _inside(context, self.ifname)
        context.sandbox.request(*(routes.add(route, index) for route in self.routes))

    def undo(self, context: Context) -> None:
        _delete_inside(context, self.ifname, self.routes)


@step
class ReplacedRoute(Step):
    """A route of the container in the place of `before`: same destination, table and priority."""

    ifname: str
    before: Route
    after: Route

    def apply(self, context: Context) -> None:
        context.sandbox.request(routes.replace(self.after, _inside(context, self.ifname)))

    def undo(self, context: Context) -> None:
        if context.sandbox_namespace is None:
            return
        index = interface.index_of(context.sandbox_namespace, self.ifname)
        if index:
            message = routes.replace(self.before, index).unless_gone()
            context.sandbox.request(replace(message, allow=message.allow | _HINDERED))


@step
class AddedHostRoutes(Step):
    """What the host's end `name` of a routed pair needs for further addresses of the container; the gateways'
    addresses in `shared` are there already.
    """

    name: str
    mac: str
    ips: tuple[Address, ...]
    shared: tuple[IpInterface, ...] = ()

    def _link(self, context: Context) -> Link | None:
        link = links.find(context.host, self.name)
        return link if link is not None and link.mac == self.mac else None

    def _routes(self) -> list[Route]:
        return [
            Route(whole(entry.address.ip), scope=routes.SCOPE_HOST if entry.address.version == 4 else None)
            for entry in self.ips
        ]

    def _gateways(self) -> list[IpInterface]:
        found = [whole(entry.gateway) for entry in self.ips if entry.gateway is not None]
        return [item for item in dict.fromkeys(found) if item not in self.shared]

    def apply(self, context: Context) -> None:
        link = self._link(context)
        if link is None:
            raise CniError(Code.INTERNAL, f"the host's end {self.name} is gone")
        batch: list[Message] = [addresses.add(link.index, item, dad=False) for item in self._gateways()]
        batch += [routes.add(route, link.index) for route in self._routes()]
        context.host.request(*batch)

    def undo(self, context: Context) -> None:
        link = self._link(context)
        if link is None:
            return
        batch: list[Message] = [routes.delete(route, link.index) for route in self._routes()]
        batch += [addresses.delete(link.index, item) for item in self._gateways()]
        context.host.request(*batch)


@step
class BucketChange(Step):
    """The token bucket at the root of the host's link `name`, changed in place: what waits in it is not
    lost. Rates are bits a second, bursts bits, latencies milliseconds; `mtu` is the frames' that must pass.
    """

    name: str
    mac: str
    mtu: int
    before: tuple[int, int, int]
    after: tuple[int, int, int]

    def _change(self, context: Context, values: tuple[int, int, int], *, undoing: bool = False) -> bool:
        link = links.find(context.host, self.name)
        if link is None or link.mac != self.mac or shaping.egress(context.host, link.index) is None:
            return False
        rate, burst, latency = values
        shape = shaping.bucket(rate, burst, latency, self.mtu)
        message = shaping.change_egress(link.index, shape)
        context.host.request(message.unless_gone() if undoing else message)
        return True

    def apply(self, context: Context) -> None:
        if not self._change(context, self.after):
            raise CniError(
                Code.INTERNAL, f"{self.name} has no token bucket any more", "mesokit reload makes it again"
            )

    def undo(self, context: Context) -> None:
        self._change(context, self.before, undoing=True)


@step
class PortFlags(Step):
    """Flags of the bridge port `name`: names of kernel.links.PortFlag, set or cleared."""

    name: str
    mac: str
    after: tuple[tuple[str, bool], ...]
    before: tuple[tuple[str, bool], ...]

    def _set(self, context: Context, flags: tuple[tuple[str, bool], ...], *, undoing: bool = False) -> bool:
        link = links.find(context.host, self.name)
        if link is None or link.mac != self.mac or not link.master:
            return False
        named = {PortFlag[name]: value for name, value in flags}
        message = links.set_port(link.name, link.index, named)
        context.host.request(message.unless_gone() if undoing else message)
        return True

    def apply(self, context: Context) -> None:
        if not self._set(context, self.after):
            raise CniError(Code.INTERNAL, f"{self.name} is no port of a bridge any more")

    def undo(self, context: Context) -> None:
        self._set(context, self.before, undoing=True)
