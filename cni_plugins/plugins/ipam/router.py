"""Addresses and routes of router advertisements (SLAAC, RFC 4862), for the dhcp plugin's `ra`.

The kernel does it, and goes on doing it while the container lives: nobody has to renew anything, and DEL has
nothing to give back. The plugin waits until there are an address and a route, and tells them.
"""

import select
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field

from cni_plugins.dhcp import options
from cni_plugins.dhcp.packet6 import is_host
from cni_plugins.kernel import advertisements
from cni_plugins.kernel.advertisements import Advertised, Names
from cni_plugins.kernel.netlink.route import Netlink
from cni_plugins.kernel.routes import ROUTER_METRIC
from cni_plugins.plugins.ipam.dhcp_ipv6 import SETTINGS
from cni_plugins.spec.deadline import Deadline
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.result import Address, Dns, Result, Route

_NAP = 0.05
_GRACE = 3.0  # seconds after the first advertisement for what others, or a second one, may add
_MOST_NAMES = 16


def settings(priority: int | None) -> Mapping[str, str]:
    """How the interface has to be before it comes up. IPv6 starts anew, so that it asks for routers now;
    `accept_ra` 2 says that somebody wants it, whatever forwards. `priority` is the metric of the route.
    """
    wanted = dict(SETTINGS) | {
        "disable_ipv6": "1",
        "accept_ra": "2",
        "accept_ra_defrtr": "1",
        "accept_ra_pinfo": "1",
        "autoconf": "1",
        "use_tempaddr": "0",
        "router_solicitation_delay": "0",
        "router_solicitation_interval": "1",
    }
    return wanted if priority is None else wanted | {"ra_defrtr_metric": str(max(1, priority))}


@dataclass(slots=True)
class _Dns:
    servers: list[str] = field(default_factory=list)
    search: list[str] = field(default_factory=list)

    def take(self, names: Names) -> None:
        if not names.seconds:
            return
        listed = [str(item) for item in names.servers if is_host(item)]
        for target, found in ((self.servers, listed), (self.search, options.search_of(names.domains))):
            target.extend([item for item in found if item not in target][: _MOST_NAMES - len(target)])


class Listener:
    """Opened before the interface comes up, because routers answer within milliseconds. Close it."""

    __slots__ = ("_dns", "_sock", "namespace")

    def __init__(self, namespace: Namespace) -> None:
        """CniError 999."""
        self.namespace = namespace
        self._sock = advertisements.listen(namespace)
        self._dns = _Dns()

    def close(self) -> None:
        self._sock.close()

    def wait(self, ifname: str, index: int, deadline: Deadline) -> tuple[Advertised, Dns]:
        """What routers advertise, as soon as there are an address (or word that DHCPv6 has one) and a
        default route, or 3 s after the first advertisement whatever there is. CniError 11 when no
        router was heard.
        """
        events = select.poll()
        events.register(self._sock, select.POLLIN)
        until: float | None = None
        with closing(Netlink(self.namespace, deadline)) as netlink:
            while True:
                for names in advertisements.heard(self._sock, index):
                    self._dns.take(names)
                found = advertisements.seen(netlink, index)
                if found.received and until is None:
                    until = time.monotonic() + _GRACE
                complete = found.received and bool(found.addresses or found.managed) and bool(found.routes)
                over = until is not None and time.monotonic() >= until
                if not found.unsettled and (complete or over):
                    return found, Dns(tuple(self._dns.servers), "", tuple(self._dns.search))
                if deadline.remaining() <= _NAP:
                    raise CniError(
                        Code.TRY_AGAIN,
                        f"no router advertised itself on {ifname} within {deadline.seconds:g} s (ipam.ra)",
                        "leave ra out for an address by DHCPv6 alone",
                    )
                events.poll(_NAP * 1000)


def result_of(ifname: str, found: Advertised, leased: Result, dns: Dns) -> Result:
    """What routers gave, and what they sent us to DHCPv6 for. CniError 11 when that is no address at all."""
    if not found.addresses and not leased.ips:
        raise CniError(
            Code.TRY_AGAIN,
            f"the routers on {ifname} advertise no prefix to make an address of, and do not say that "
            "DHCPv6 has addresses (M)",
            'leave ipam.ra out: "families": ["ipv6"] asks DHCPv6 anyway',
        )
    gateway = next((route.gw for route in found.routes if route.gw is not None), None)
    listed = [*(Address(item) for item in found.addresses), *leased.ips]
    return Result(
        ips=tuple(Address(entry.address, gateway) for entry in listed),
        routes=tuple(_told(route) for route in found.routes),
        dns=dns,
    )


def _told(route: Route) -> Route:
    """A route as a result has it: without the metric that every such route has."""
    return Route(route.dst, route.gw, priority=None if route.priority == ROUTER_METRIC else route.priority)
