"""Addresses and routes of the host towards a routed container. They go with the pair's host end."""

from cni_plugins.kernel import addresses, interface, links, routes, verify
from cni_plugins.kernel.netlink.route import Message
from cni_plugins.spec.result import Address, Route
from cni_plugins.steps.addresses import whole
from cni_plugins.steps.context import Context
from cni_plugins.steps.step import Step, step


@step
class HostRoutes(Step):
    """The gateways' addresses on the host's end `name` of a pair, and routes to the container's addresses."""

    name: str
    ips: tuple[Address, ...]

    def apply(self, context: Context) -> None:
        index = interface.index_of(context.call.host, self.name)
        batch: list[Message] = []
        for entry in self.ips:
            if entry.gateway is not None:
                batch.append(addresses.add(index, whole(entry.gateway), dad=False))
            scope = routes.SCOPE_HOST if entry.address.version == 4 else None
            batch.append(routes.add(Route(whole(entry.address.ip), scope=scope), index))
        if batch:
            context.host.request(*batch)

    def check(self, context: Context) -> None:
        """Only the routes by the pair's host end are asked for: a node has one for each of its containers."""
        link = links.find(context.host, self.name)
        wanted = [Route(whole(entry.address.ip)) for entry in self.ips]
        verify.route_list(context.host, wanted, 0 if link is None else link.index)
