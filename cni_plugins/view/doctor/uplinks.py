"""Links that packets of containers pass on this host: filters of others there, and addresses to leave by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cni_plugins.kernel import addresses, filters, routes
from cni_plugins.kernel.filters import Ending
from cni_plugins.kernel.netlink.route import Netlink
from cni_plugins.spec.deadline import after
from cni_plugins.view.attachments import Attachment, listed
from cni_plugins.view.doctor.facts import Facts, Finding, Level

_SECONDS = 10.0
_SHAPER = "ifb"  # what is led there comes back: it is how traffic is shaped on its way in
_WAYS: Mapping[str, tuple[str, str]] = {"in": ("comes in by", "ingress"), "out": ("goes out by", "egress")}


def traffic_filters(facts: Facts) -> Iterator[Finding]:
    """Of others, on the host's ends, the bridges and the uplinks."""
    owners: dict[int, Attachment] = {}
    for item in facts.living():
        for name in (item.host_interface, item.parent):
            if name in facts.node.by_name:
                owners.setdefault(facts.node.by_name[name].index, item)
    if not owners:
        return
    uplinks = {index for version in (4, 6) for index in _uplinks(facts, version)}
    with Netlink(facts.host, after(_SECONDS)) as netlink:
        found = filters.endings(netlink, frozenset(owners) | uplinks)
    for each in found:
        target = facts.node.by_index.get(each.target)
        if target is not None and target.kind == _SHAPER:
            continue
        yield _filtered(facts, each, owners.get(each.index))


def _filtered(facts: Facts, each: Ending, item: Attachment | None) -> Finding:
    name = facts.name_of(each.index)
    passes, way = _WAYS[each.way]
    does = f"leads all{_kind_of(each)} that {passes} {name} to {facts.name_of(each.target)}"
    if not each.target:
        does = f"drops all{_kind_of(each)} that {passes} {name}"
    if item is None:
        whose = "an uplink of this host"
    elif name == item.host_interface:
        whose = f"the host's end of {item.ifname} of container {item.container_id} on network {item.network}"
    else:
        whose = f"the device of network {item.network}"
    return Finding(
        "traffic-filters",
        Level.FAIL,
        f"a filter of others {does}, {whose}",
        f"tc filter show dev {name} {way}: {each.kind}, protocol {each.protocol}, pref {each.priority}",
        f"tc filter del dev {name} {way} protocol {each.protocol} pref {each.priority}",
    )


def _kind_of(each: Ending) -> str:
    return {"ip": " IPv4", "ipv6": " IPv6"}.get(each.protocol, "")


def _uplinks(facts: Facts, version: int) -> set[int]:
    """The links that default routes of the main table leave by."""
    return {
        route.index
        for route in facts.routes[version]
        if not route.route.dst.network.prefixlen and route.route.table in {None, routes.MAIN_TABLE}
    }


def uplink_addresses(facts: Facts) -> Iterator[Finding]:
    """What is masqueraded takes an address of the uplink, or (where that is unnumbered) one of another link
    of the host's own; one of a bridge of ours nobody answers.
    """
    inner = {name for item in facts.node.attachments for name in (item.host_interface, item.parent) if name}
    for version in (4, 6):
        masqueraded = [item for item in facts.routed() if _is_masqueraded(item, version)]
        own = [
            entry
            for entry in facts.addresses
            if entry.address.version == version
            and entry.scope == addresses.GLOBAL
            and facts.name_of(entry.index) not in inner
        ]
        if not masqueraded or own:
            continue
        for index in sorted(_uplinks(facts, version)):
            name = facts.name_of(index)
            networks = ", ".join(sorted({item.network for item in masqueraded}))
            yield Finding(
                "uplink-addresses",
                Level.FAIL,
                f"{name}, by which the default route leaves, has no IPv{version} address: what containers of "
                f"network {networks} send beyond this host has no address to be masqueraded to",
                f"ip -{version} address show {name}: no global address, and none on another link of the host",
                f"ip address add ADDRESS/LENGTH dev {name}  # or whoever gives it its address, such as "
                f"networkctl renew {name}",
            )


def _is_masqueraded(item: Attachment, version: int) -> bool:
    for line in item.steps:
        arguments = line.get("args")
        if line.get("step") == "masquerade" and isinstance(arguments, dict):
            return any((":" in str(one)) == (version == 6) for one in listed(arguments, "addresses"))
    return False


CHECKS = (traffic_filters, uplink_addresses)
