"""A container's interface brought into service: sysctls, addresses, up, routes, and the word spread about it.

The order is the reference plugins': addresses are there before the link comes up, so that the kernel's own
announcements (arp_notify) have something to say. A bridge may lose those, because its port need not forward
yet: there `notify` is left out, and `announce` comes when the port forwards.
"""

import errno
import time
from _socket import if_nametoindex
from collections.abc import Sequence
from dataclasses import dataclass

from cni_plugins.kernel import addresses, links, routes, sysctl
from cni_plugins.kernel.namespace import entered
from cni_plugins.kernel.netlink.route import Message, Netlink
from cni_plugins.kernel.netlink.socket import NETLINK_ROUTE, Socket, open_socket
from cni_plugins.spec.deadline import Deadline
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.result import Address, Route
from cni_plugins.spec.values import Ip

_DAD_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What an interface gets.

    `dad` is duplicate address detection for IPv6: True waits for it (2 s), False leaves it out. With `notify`
    the kernel announces the addresses when the link comes up.
    """

    name: str
    ips: Sequence[Address]
    routes: Sequence[Route]
    dad: bool = False
    up: bool = True
    notify: bool = True

    def has(self, version: int) -> bool:
        return any(entry.address.version == version for entry in self.ips)


def index_of(namespace: Namespace, name: str) -> int:
    """The index of an interface, 0 if there is none of that name.

    Asked by netlink: before the kernel says no to if_nametoindex(3) it starts modprobe twice, in case that a
    module is called like the interface, and waits for it.
    """
    try:
        channel = open_socket(namespace, NETLINK_ROUTE)
    except OSError:
        return 0
    try:
        (reply,) = Socket(channel).exchange([links.question(name)])
    finally:
        channel.close()
    return links.index_in(reply.packets[0]) if reply.packets else 0


def require_free(namespace: Namespace, name: str) -> None:
    """CniError 7 if the container has an interface of that name already."""
    if index_of(namespace, name):
        raise CniError(Code.INVALID_CONFIG, f"the container already has an interface {name} (CNI_IFNAME)")


def resolved(plan: Plan) -> list[Route]:
    """The routes with a gateway each where there is one: the route's own, else the first of its family; a
    route of scope link has none.
    """
    gateways: dict[int, Ip] = {}
    for entry in plan.ips:
        if entry.gateway is not None:
            gateways.setdefault(entry.address.version, entry.gateway)
    return [with_gateway(route, gateways.get(route.dst.version)) for route in plan.routes]


def with_gateway(route: Route, gateway: Ip | None) -> Route:
    if route.gw is not None or gateway is None or (route.scope or 0) >= routes.SCOPE_LINK:
        return route
    return Route(route.dst, gateway, route.mtu, route.advmss, route.priority, route.table, route.scope)


def prepare(namespace: Namespace, plan: Plan) -> int:
    """Set the sysctls that come before addresses; the interface's index. CniError 5, or 999 if it is not
    there.
    """
    base = f"conf/{plan.name}"
    new = {f"ipv6/{base}/accept_dad": "1" if plan.dad else "0"}
    if plan.dad:
        new[f"ipv6/{base}/enhanced_dad"] = "1"
    if plan.has(6):
        new[f"ipv6/{base}/keep_addr_on_down"] = "1"
    if plan.notify:
        new |= notify(plan)
    with entered(namespace):
        if plan.has(6):  # which the kernel stops and starts for, so not without need
            on = {"ipv6/conf/lo/disable_ipv6": "0", f"ipv6/{base}/disable_ipv6": "0"}
            sysctl.ensure_here(on, optional=True)
            sysctl.deafen_here(plan.name)
        sysctl.put_here(new)
        try:
            return if_nametoindex(plan.name)
        except OSError as error:
            raise CniError(
                Code.INTERNAL, f"interface {plan.name} vanished from {namespace.path}", str(error)
            ) from error


def notify(plan: Plan) -> dict[str, str]:
    """The sysctls that make the kernel announce addresses whenever the link comes up."""
    wanted = {f"ipv4/conf/{plan.name}/arp_notify": "1"}
    if plan.has(6):
        wanted[f"ipv6/conf/{plan.name}/ndisc_notify"] = "1"
    return wanted


def configure(netlink: Netlink, plan: Plan, deadline: Deadline) -> int:
    """Give an interface its addresses, bring it up and add its routes; its index. CniError.

    An address that is already on it is an error: nobody else may configure it, but the kernel may after a
    router's advertisement (the dhcp plugin's `ra`). Those addresses and routes are left as they are.
    """
    index = prepare(netlink.namespace, plan)
    batch: list[Message] = [addresses.add(index, entry.address, dad=plan.dad) for entry in plan.ips]
    if plan.up:
        batch.append(links.change(plan.name, index, set_flags=links.IFF_UP))
    wanted = routes.not_advertised(netlink, resolved(plan), index)
    late: list[Message] = [routes.add(route, index) for route in wanted]
    waits = plan.dad and plan.has(6) and plan.up
    answers = netlink.request(*batch, *(() if waits else late))
    for entry, answer in zip(plan.ips, answers, strict=False):
        if answer.error == errno.EEXIST and not _is_advertised(netlink, index, entry):
            raise CniError(Code.INTERNAL, f"{plan.name} already has address {entry.address}")
    if waits:
        wait_for_dad(netlink, plan.name, index, deadline)
        if late:
            netlink.request(*late)
    return index


def _is_advertised(netlink: Netlink, index: int, entry: Address) -> bool:
    found = addresses.of_link(netlink, index)
    return any(item.address == entry.address and addresses.is_advertised(item) for item in found)


def wait_for_dad(netlink: Netlink, name: str, index: int, deadline: Deadline) -> None:
    """Wait up to 5 s until no address of the link is tentative. CniError 7 for a duplicate, 11 past the
    deadline.
    """
    end = time.monotonic() + _DAD_SECONDS
    while True:
        found = [item for item in addresses.of_link(netlink, index) if item.address.version == 6]
        for item in found:
            if item.flags & addresses.DADFAILED:
                raise CniError(
                    Code.INVALID_CONFIG, f"address {item.address} of {name} is in use by another host"
                )
        if not any(item.flags & addresses.TENTATIVE for item in found):
            return
        if time.monotonic() > end:
            raise CniError(Code.TRY_AGAIN, f"duplicate address detection on {name} was not done after 5 s")
        time.sleep(min(0.02, deadline.require("duplicate address detection")))


def wait_forwarding(netlink: Netlink, name: str, deadline: Deadline) -> links.Link:
    """Wait up to 5 s until a bridge port forwards; the port. CniError 11 when it does not."""
    end = time.monotonic() + 5.0
    pause = 0.0002
    while True:
        link = links.find(netlink, name)
        if link is None:
            raise CniError(Code.INTERNAL, f"bridge port {name} vanished")
        if link.forwarding:
            return link
        if time.monotonic() > end:
            raise CniError(Code.TRY_AGAIN, f"bridge port {name} did not come up within 5 s")
        time.sleep(min(pause, deadline.require(f"bridge port {name}")))
        pause = min(pause * 2, 0.05)
