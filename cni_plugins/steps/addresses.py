"""Addresses and routes of the container's interface. They go with it, so there is nothing to undo."""

import errno
from collections.abc import Sequence
from ipaddress import ip_interface

from cni_plugins.kernel import addresses, interface, links, routes, verify
from cni_plugins.kernel.interface import Plan
from cni_plugins.kernel.netlink.route import Message
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Address, Result, Route
from cni_plugins.spec.values import Ip, IpInterface
from cni_plugins.steps.context import Context
from cni_plugins.steps.step import Step, step

MINIMUM_MTU_OF_IPV6 = 1280


def whole(ip: Ip) -> IpInterface:
    """An address as a network of its own."""
    return ip_interface(f"{ip}/{ip.max_prefixlen}")


@step
class Addresses(Step):
    """The container's interface `ifname` in service. `dad`, `up` and `notify` as in kernel.interface.Plan.

    `by_gateway`: the subnet is not on the link; it is reached by the gateway, and the gateway by the link.
    """

    ifname: str
    ips: tuple[Address, ...]
    routes: tuple[Route, ...]
    dad: bool = False
    up: bool = True
    notify: bool = True
    by_gateway: bool = False

    def plan(self) -> Plan:
        """As kernel.interface takes it."""
        return Plan(self.ifname, self.ips, self.routes, dad=self.dad, up=self.up, notify=self.notify)

    def apply(self, context: Context) -> None:
        try:
            self._apply(context)
        except CniError as error:
            raise self._of_small_mtu(context, error) from error

    def _of_small_mtu(self, context: Context, error: CniError) -> CniError:
        """The kernel says no more than EINVAL where an interface is too small for IPv6, by its master's MTU
        or its own.
        """
        link = links.find(context.sandbox, self.ifname)
        if link is None or link.mtu >= MINIMUM_MTU_OF_IPV6 or not self.plan().has(6):
            return error
        return CniError(
            Code.INVALID_CONFIG,
            f"{self.ifname} would have an MTU of {link.mtu}, and below {MINIMUM_MTU_OF_IPV6} (RFC 8200) no "
            "interface can have an IPv6 address",
            "raise the MTU of its master or device, or give the network no IPv6 range",
        )

    def _apply(self, context: Context) -> None:
        if not self.by_gateway:
            interface.configure(context.sandbox, self.plan(), context.deadline)
            return
        netlink, plan = context.sandbox, self.plan()
        index = interface.prepare(context.inside, plan)
        first: list[Message] = [
            addresses.add(index, entry.address, dad=self.dad, prefix_route=False) for entry in self.ips
        ]
        first.append(links.change(self.ifname, index, set_flags=links.IFF_UP))
        late = [routes.add(route, index, source) for route, source in _inner_routes(self.ips)]
        late += [routes.add(route, index) for route in interface.resolved(plan)]
        waits = self.dad and plan.has(6)
        answers = netlink.request(*first, *(() if waits else late))
        for entry, answer in zip(self.ips, answers, strict=False):
            if answer.error == errno.EEXIST:
                raise CniError(Code.INTERNAL, f"{self.ifname} already has address {entry.address}")
        if waits:
            interface.wait_for_dad(netlink, self.ifname, index, context.deadline)
            netlink.request(*late)

    def check(self, context: Context) -> None:
        """The addresses and routes are those of prevResult, which later plugins may have changed."""
        result = context.call.previous or Result(ips=self.ips, routes=self.routes)
        link = links.find(context.sandbox, self.ifname)
        if link is None:
            raise CniError(Code.INTERNAL, f"the container has no interface {self.ifname}")
        if self.up and not link.up:
            raise CniError(Code.INTERNAL, f"{self.ifname} is down in the container")
        verify.ips(context.sandbox, link, result)
        inner = [route for route, _ in _inner_routes(self.ips)] if self.by_gateway else []
        verify.route_list(context.sandbox, [*inner, *result.routes])


def _inner_routes(ips: Sequence[Address]) -> list[tuple[Route, Ip]]:
    """The routes that stand for each subnet in the container, with their source address."""
    listed: list[tuple[Route, Ip]] = []
    for entry in ips:
        if entry.gateway is None:
            continue
        source, network = entry.address.ip, entry.address.network
        scope = routes.SCOPE_LINK if source.version == 4 else None
        listed.append((Route(whole(entry.gateway), scope=scope), source))
        if network.num_addresses > 1:
            listed.append((Route(ip_interface(str(network)), entry.gateway), source))
    return listed
