"""Settings and tables of the host's kernel."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator

from cni_plugins.kernel import sysctl
from cni_plugins.kernel.links import Setting
from cni_plugins.kernel.netlink.netfilter import Nfnetlink
from cni_plugins.kernel.nft import library
from cni_plugins.spec.errors import CniError
from cni_plugins.view.doctor.facts import Facts, Finding, Inside, Level, is_routed
from cni_plugins.view.inside import inside_of
from cni_plugins.view.remedies import enter

_FORWARDING = {4: "ipv4/ip_forward", 6: "ipv6/conf/all/forwarding"}
_RA = 9  # RTPROT_RA
_STRICT = 1  # rp_filter, RFC 3704
_MANY, _FULL = 0.8, 0.97
_SLOW = 1.0  # seconds for a list of links
_NFT_KINDS = frozenset(("masquerade", "nptv6", "ports", "spoof-check"))


def _persistent(name: str, value: str) -> str:
    dotted = name.replace("/", ".")
    return f"sysctl -w net.{dotted}={value}; echo net.{dotted}={value} >> /etc/sysctl.d/90-mesokit.conf"


def forwarding(facts: Facts) -> Iterator[Finding]:
    wanted = {6 if ":" in entry.ip else 4 for item in facts.routed() for entry in item.addresses}
    for version in sorted(wanted):
        name = _FORWARDING[version]
        value = sysctl.read(facts.host, name)
        if value is not None and value != "1":
            yield Finding(
                "forwarding",
                Level.FAIL,
                f"the host does not forward IPv{version}: containers reach nothing beyond it",
                f"net.{name.replace('/', '.')} = {value}",
                _persistent(name, "1"),
            )


def forwarding_of_links(facts: Facts) -> Iterator[Finding]:
    """A link of ours that IPv4 is not forwarded from, though the host forwards: another tool's doing."""
    if sysctl.read(facts.host, _FORWARDING[4]) != "1":
        return
    links = {
        item.parent or item.host_interface: item
        for item in facts.routed()
        if any(":" not in entry.ip for entry in item.addresses)
    }
    for link, item in sorted(links.items()):
        there = facts.node.by_name.get(link)
        if there is not None and not there.setting(Setting.FORWARDING):
            yield Finding(
                "forwarding",
                Level.FAIL,
                f"the host does not forward what comes from {link}: containers of network {item.network} "
                "reach nothing beyond it",
                f"net.ipv4.conf.{link}.forwarding = 0, and ip_forward = 1",
                f"sysctl -w net.ipv4.conf.{link}.forwarding=1",
            )


def router_advertisements(facts: Facts) -> Iterator[Finding]:
    if sysctl.read(facts.host, _FORWARDING[6]) != "1":
        return
    for route in facts.routes[6]:
        if route.protocol == _RA and not route.route.dst.network.prefixlen:
            link = facts.name_of(route.index)
            name = f"ipv6/conf/{link}/accept_ra"
            value = sysctl.read(facts.host, name)
            if value not in {None, "2"}:
                yield Finding(
                    "router-advertisements",
                    Level.FAIL,
                    f"the host will lose its IPv6 default route by {link}: it forwards, and {link} believes "
                    "no router any more",
                    f"net.ipv6.conf.{link}.accept_ra = {value}, the route came by an advertisement",
                    _persistent(name, "2"),
                )


def ipv6_disabled(facts: Facts) -> Iterator[Finding]:
    """On the host, at the links that stand for gateways, in containers: a link that has it switched off loses
    its addresses, and none can be added.
    """
    with_ipv6 = [item for item in facts.living() if any(":" in entry.ip for entry in item.addresses)]
    if not with_ipv6:
        return
    name = "ipv6/conf/all/disable_ipv6"
    value = sysctl.read(facts.host, name)
    if value is None or value == "1":
        yield Finding(
            "ipv6-disabled",
            Level.FAIL,
            "containers have IPv6 addresses, and the host has IPv6 switched off",
            f"net.ipv6.conf.all.disable_ipv6 = {value or 'missing'}",
            f"{_persistent(name, '0')}; mesokit reload" if value else "boot without ipv6.disable=1",
        )
        return
    for link, item in sorted({item.parent or item.host_interface: item for item in with_ipv6}.items()):
        if not is_routed(item) or sysctl.read(facts.host, f"ipv6/conf/{link}/disable_ipv6") != "1":
            continue
        yield Finding(
            "ipv6-disabled",
            Level.FAIL,
            f"{link} has IPv6 switched off: containers of network {item.network} have no IPv6 gateway",
            f"net.ipv6.conf.{link}.disable_ipv6 = 1",
            f"sysctl -w net.ipv6.conf.{link}.disable_ipv6=0; mesokit reload --network "
            f"{shlex.quote(item.network)}",
        )
    for item in with_ipv6:
        there = facts.inside.get(item)
        if there is None or there.link is None or there.has_ipv6:
            continue
        with inside_of(item, facts.host) as namespace:
            off = [
                one
                for one in ("all", item.ifname)
                if sysctl.read(namespace, f"ipv6/conf/{one}/disable_ipv6") == "1"
            ]
        if off:
            commands = [f"sysctl -w net.ipv6.conf.{one}.disable_ipv6=0" for one in off]
            yield Finding(
                "ipv6-disabled",
                Level.FAIL,
                f"container {item.container_id} has IPv6 switched off, and an IPv6 address on network "
                f"{item.network}",
                "in the container: " + ", ".join(f"net.ipv6.conf.{one}.disable_ipv6 = 1" for one in off),
                enter(item.netns, f"sh -c {shlex.quote('; '.join(commands))}"),
            )


def reverse_path(facts: Facts) -> Iterator[Finding]:
    """A container with several networks answers what comes in by one of them by another, the one with the
    default route; and so does a host that has several uplinks. Who filters strictly drops one way or the
    other.
    """
    every = int(sysctl.read(facts.host, "ipv4/conf/all/rp_filter") or 0)
    counts = Counter(item.container_id for item in facts.living())
    several = {item: there for item, there in facts.inside.items() if counts[item.container_id] > 1}
    ways = {item.container_id: item for item, there in several.items() if _has_default(there)}
    for item, inside in several.items():
        way = ways.get(item.container_id)
        if way is item or inside.link is None:
            continue
        with inside_of(item, facts.host) as namespace:
            names = (f"ipv4/conf/{item.ifname}/rp_filter", "ipv4/conf/all/rp_filter")
            values = [sysctl.read(namespace, name) or "0" for name in names]
        if max(values) == "1":
            yield Finding(
                "reverse-path",
                Level.WARN,
                f"container {item.container_id} drops what comes in by {item.ifname} from beyond its "
                "network: it has several networks, answers by another, and filters strictly",
                f"rp_filter of {item.ifname} and all in the container: {' '.join(values)}",
                enter(item.netns, f"sysctl -w net.ipv4.conf.{item.ifname}.rp_filter=2"),
            )
        link = facts.node.by_name.get(way.parent or way.host_interface) if way is not None else None
        if way is None or link is None or not (is_routed(item) and is_routed(way)):
            continue
        if max(every, link.setting(Setting.RP_FILTER)) == _STRICT:
            yield Finding(
                "reverse-path",
                Level.WARN,
                f"the host drops what container {item.container_id} answers from its address on network "
                f"{item.network} to beyond it: that comes by {link.name}, which filters strictly",
                f"its default route is by {way.ifname}; rp_filter of {link.name} and all: "
                f"{link.setting(Setting.RP_FILTER)} {every}",
                f"sysctl -w net.ipv4.conf.{link.name}.rp_filter=2",
            )
    yield from _published_beside(facts, every)


def _published_beside(facts: Facts, every: int) -> Iterator[Finding]:
    """Ports that are published on the address of an uplink without a default route."""
    homes = {str(entry.address.ip): entry.index for entry in facts.addresses}
    open_ways = {
        route.index
        for route in facts.routes[4]
        if not route.route.dst.network.prefixlen  # in whatever table: a rule may choose it
    }
    told = set()
    for item in facts.living():
        for port in item.ports:
            link = facts.node.by_index.get(homes.get(port.host_ip, 0))
            if link is None or link.index in open_ways or link.name in told or link.name == "lo":
                continue
            if max(every, link.setting(Setting.RP_FILTER)) == _STRICT and link.kind != "bridge":
                told.add(link.name)
                yield Finding(
                    "reverse-path",
                    Level.WARN,
                    f"the host drops what comes in by {link.name} from beyond its network: it answers by "
                    "another link, and filters strictly",
                    f"port {port} of container {item.container_id} is published there; rp_filter of "
                    f"{link.name} and all: {link.setting(Setting.RP_FILTER)} {every}",
                    f"sysctl -w net.ipv4.conf.{link.name}.rp_filter=2",
                )


def _has_default(inside: Inside) -> bool:
    return inside.link is not None and any(
        not route.route.dst.network.prefixlen and route.index == inside.link.index for route in inside.routes
    )


def connection_table(facts: Facts) -> Iterator[Finding]:
    count, most = (
        sysctl.read(facts.host, f"netfilter/nf_conntrack_{name}") or "0" for name in ("count", "max")
    )
    if int(most) and int(count) >= int(most) * _MANY:
        full = int(count) >= int(most) * _FULL
        yield Finding(
            "connection-table",
            Level.FAIL if full else Level.WARN,
            "the table of tracked connections is full: new connections are dropped"
            if full
            else "the table of tracked connections is nearly full",
            f"nf_conntrack_count {count} of nf_conntrack_max {most}",
            _persistent("netfilter/nf_conntrack_max", str(max(4 * int(most), 65536))),
        )


def neighbour_table(facts: Facts) -> Iterator[Finding]:
    for version in (4, 6):
        limit = int(sysctl.read(facts.host, f"ipv{version}/neigh/default/gc_thresh3") or 0)
        count = sum(entry.address.version == version for entry in facts.neighbours)
        if limit and count >= limit * _MANY:
            yield Finding(
                "neighbour-table",
                Level.WARN,
                f"the host's table of IPv{version} neighbours is nearly full: new ones are not reached",
                f"{count} entries, gc_thresh3 {limit}",
                _persistent(f"ipv{version}/neigh/default/gc_thresh3", str(max(4 * limit, 8192))),
            )


def kernel_features(facts: Facts) -> Iterator[Finding]:
    if not any(line.get("step") in _NFT_KINDS for item in facts.living() for line in item.steps):
        return
    with Nfnetlink(facts.host) as socket:
        if not socket.supported:
            yield Finding(
                "kernel-features",
                Level.FAIL,
                "this kernel has no nf_tables: addresses are not translated, ports not published",
                "NETLINK_NETFILTER is not supported",
                "modprobe nf_tables",
            )
    try:
        library.load()
    except CniError as error:
        yield Finding(
            "kernel-features",
            Level.WARN,
            "libnftables cannot be loaded: tables cannot be made anew",
            str(error),
            "apt-get install libnftables1",
        )


def slow_kernel(facts: Facts) -> Iterator[Finding]:
    if facts.seconds > _SLOW:
        yield Finding(
            "slow-kernel",
            Level.WARN,
            "the kernel answers slowly: somebody holds the lock for network configuration",
            f"a list of links took {facts.seconds:.1f} s",
            "look for a process in state D: ps -eo state,pid,cmd | grep ^D",
        )


CHECKS = (
    forwarding,
    forwarding_of_links,
    router_advertisements,
    ipv6_disabled,
    reverse_path,
    connection_table,
    neighbour_table,
    kernel_features,
    slow_kernel,
)
