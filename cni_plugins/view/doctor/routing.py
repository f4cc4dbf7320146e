"""Routes and rules of others that end what containers send and get: blackhole, unreachable, prohibit."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from cni_plugins.kernel import routes
from cni_plugins.kernel.rules import Rule
from cni_plugins.spec.values import IpNetwork
from cni_plugins.view.attachments import Attachment
from cni_plugins.view.doctor.facts import Facts, Finding, Level, subnet_of

_MAIN = 32766  # the priority of the rule that leads to the main table (ip-rule(8))
_LOCAL = 255


def refusing_routes(facts: Facts) -> Iterator[Finding]:
    """Of the main table, narrower than the route by which the host reaches a container."""
    for refusal in facts.refusals:
        if refusal.table != routes.MAIN_TABLE or not refusal.network.prefixlen:
            continue
        ended = [item for item in facts.routed() if _ends(facts, refusal.network, item)]
        if ended:
            more = f" and {len(ended) - 1} more" if len(ended) > 1 else ""
            yield Finding(
                "refusing-routes",
                Level.FAIL,
                f"a route of others ends what goes to container {ended[0].container_id}{more} on network "
                f"{ended[0].network}",
                f"{refusal.kind} {refusal.network}",
                f"ip route del {refusal.kind} {refusal.network}",
            )


def _ends(facts: Facts, network: IpNetwork, item: Attachment) -> bool:
    for entry in item.addresses:
        address = ip_address(entry.ip)
        if address.version != network.version or address not in network:
            continue
        best = max(
            (
                route.route.dst.network.prefixlen
                for route in facts.routes[address.version]
                if route.route.table in {None, routes.MAIN_TABLE} and address in route.route.dst.network
            ),
            default=-1,
        )
        if network.prefixlen > best:
            return True
    return False


def refusing_rules(facts: Facts) -> Iterator[Finding]:
    """Rules of policy routing that stand before the main table, concern us, and end there, or in a table
    without a way out.
    """
    routed = facts.routed()
    links = {name for item in routed for name in (item.parent, item.host_interface) if name}
    subnets: dict[IpNetwork, Attachment] = {}
    for item in routed:
        for entry in item.addresses:
            subnets.setdefault(subnet_of(entry.address), item)
    for rule in facts.rules:
        if (rule.priority or 0) >= _MAIN or rule.mark or rule.outgoing:
            continue
        concerned = _concerned(rule, links, subnets)
        end = rule.refuses or (concerned and _end_of(facts, rule))
        if not concerned or not end:
            continue
        tool = "ip -6" if rule.version == 6 else "ip"
        yield Finding(
            "refusing-rules",
            Level.FAIL,
            f"a rule of policy routing of others ends what containers of network {concerned.network} send or "
            "get",
            f"{_text(rule)}: {end}",
            f"{tool} rule del {_text(rule)}",
        )


def _concerned(rule: Rule, links: set[str], subnets: dict[IpNetwork, Attachment]) -> Attachment | None:
    if rule.incoming and rule.incoming not in links:
        return None
    for network, item in subnets.items():
        ends = [end.network for end in (rule.source, rule.destination) if end is not None]
        if network.version == rule.version and (not ends or any(end.overlaps(network) for end in ends)):
            if rule.incoming not in {"", item.parent, item.host_interface} and not ends:
                continue
            return item
    return None


def _end_of(facts: Facts, rule: Rule) -> str:
    """What a rule's table says to everybody, where that is a refusal."""
    if rule.table in {routes.MAIN_TABLE, _LOCAL} or any(
        route.route.table == rule.table and not route.route.dst.network.prefixlen
        for route in facts.routes[rule.version]
    ):
        return ""
    for refusal in facts.refusals:
        network = refusal.network
        if refusal.table == rule.table and not network.prefixlen and network.version == rule.version:
            return f"table {rule.table} is {refusal.kind} for all"
    return ""


def _text(rule: Rule) -> str:
    """As ip-rule(8) takes it."""
    words = [f"pref {rule.priority or 0}", f"from {rule.source.network if rule.source else 'all'}"]
    if rule.destination is not None:
        words.append(f"to {rule.destination.network}")
    if rule.incoming:
        words.append(f"iif {rule.incoming}")
    words.append(rule.refuses or f"lookup {rule.table}")
    return " ".join(words)


CHECKS = (refusing_routes, refusing_rules)
