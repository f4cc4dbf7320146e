"""Networks: their configurations, subnets, pools and sizes of packets."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from ipaddress import IPv6Address
from itertools import combinations
from typing import TYPE_CHECKING

from cni_plugins.dhcp.stores import lease_files
from cni_plugins.kernel import routes
from cni_plugins.spec.text import printable
from cni_plugins.spec.values import IpNetwork
from cni_plugins.store import network_files
from cni_plugins.view import configurations, differences, pools
from cni_plugins.view.attachments import Attachment
from cni_plugins.view.doctor.facts import Facts, Finding, Level, is_routed

if TYPE_CHECKING:
    from cni_plugins.dhcp.lease6 import Lease6

_NEARLY = 10  # percent of a pool
_LEAST_IPV6 = 1280
_SHOWN = 5
#: Types whose subnet this host routes: another link with a route into it takes their packets.
_ROUTED = frozenset(("bridge", "ptp"))


def overlapping_subnets(facts: Facts) -> Iterator[Finding]:
    found = pools.subnets(facts.node, facts.roots)
    for (one, ones), (other, others) in combinations(sorted(found.items(), key=lambda item: str(item[0])), 2):
        if one.version == other.version and one.overlaps(other) and ones != others:
            yield _overlap(sorted(ones | others), str(one), str(other))
    for subnet, names in found.items():
        if len(names) > 1:
            yield _overlap(sorted(names), str(subnet), str(subnet))


def _overlap(names: list[str], one: str, other: str) -> Finding:
    return Finding(
        "overlapping-subnets",
        Level.FAIL,
        f"networks {' and '.join(names)} give the same addresses",
        f"{one} and {other}" if one != other else f"both have {one}",
        f"give one of them another subnet: edit its file in {network_files.DIRECTORY}, "
        "then restart its tasks",
    )


def route_overlaps(facts: Facts) -> Iterator[Finding]:
    """Another link of the host has a route into a subnet of ours."""
    ours: dict[str, set[str]] = {}
    for item in facts.living():
        if item.type in _ROUTED and is_routed(item):
            ours.setdefault(item.network, set()).update(
                name for name in (item.parent, item.host_interface) if name
            )
    for network, config in configurations.configurations(facts.node, facts.roots):
        for section in configurations.sections(config):
            if network in ours and section.get("type") == "bridge":
                ours[network].add(str(section.get("bridge", "cni0")))
    for subnet, names in pools.subnets(facts.node, facts.roots).items():
        own = {link for name in names for link in ours.get(name, ())}
        if not own:
            continue
        for route in facts.routes[subnet.version]:
            there = route.route.dst.network
            link = facts.name_of(route.index)
            master = facts.node.by_name[link].master if link in facts.node.by_name else 0
            if not there.prefixlen or route.route.table not in {None, routes.MAIN_TABLE}:
                continue
            if link in own or facts.name_of(master) in own or there.prefixlen < subnet.prefixlen:
                continue  # a wider route takes only what no link of ours has
            if not there.overlaps(subnet) or _is_a_containers(facts, there, link):
                continue
            yield Finding(
                "route-overlaps",
                Level.FAIL,
                f"packets for network {' and '.join(sorted(names))} go to {link}, which has a route there",
                f"{there} dev {link}, within {subnet}",
                f"ip route del {there} dev {link}  # or give the network another subnet",
            )


def _is_a_containers(facts: Facts, there: IpNetwork, link: str) -> bool:
    """A route to one address by one end of a pair: of a container that a reference plugin attached, or whose
    record is lost. Its address is that container's.
    """
    kind = facts.node.by_name[link].kind if link in facts.node.by_name else ""
    return kind == "veth" and there.prefixlen == there.max_prefixlen


def full_pools(facts: Facts) -> Iterator[Finding]:
    for pool in facts.pools:
        if not pool.size or pool.free * 100 > pool.size * _NEARLY:
            continue
        stale = sum(item.state in {"stale", "unfinished"} for item in pool.held)
        unrecorded = sum(item.state == "unrecorded" for item in pool.held)
        if pool.free and pool.free > 2 and not stale:
            continue
        level = Level.WARN if pool.free else Level.FAIL
        what = "is full: nothing can be attached" if not pool.free else f"has {pool.free} addresses left"
        gc = (
            "mesokit gc" if stale else f"mesokit ip {pool.network}  # who has them? or give it a larger range"
        )
        yield Finding(
            "full-pools",
            level,
            f"network {pool.network} {what}",
            f"{pool.used} of {pool.size} addresses of {', '.join(pool.subnets)} are reserved, {stale} "
            f"of them by containers that are no more, {unrecorded} by none that is recorded",
            gc,
        )


def delegated_prefixes(facts: Facts) -> Iterator[Finding]:
    """A network whose prefix has ended, and containers with addresses of one that it had before."""
    files = lease_files(facts.roots)
    if not files:
        return
    from cni_plugins.dhcp import lease6
    from cni_plugins.dhcp.store import read

    for path in files:
        lease = read(path)
        if isinstance(lease, lease6.Lease6) and lease.delegated and lease.address is not None:
            yield from _delegated(facts, lease)


def _delegated(facts: Facts, lease: Lease6) -> Iterator[Finding]:
    network, uplink = lease.identity.network, lease.identity.ifname
    if not lease.holds:
        yield Finding(
            "delegated-prefixes",
            Level.FAIL,
            f"network {network} has no IPv6 prefix: its containers are not reached, and none can be attached",
            f"{lease.told or f'{lease.prefix} has ended'} (mesokit dhcp leases)",
            f"ask the operator of the router on {uplink}; it is asked for a prefix again and again",
        )
        return
    old = sorted(
        item.container_id for item in facts.living() if item.network == network and _is_outside(item, lease)
    )
    if old:
        yield Finding(
            "delegated-prefixes",
            Level.WARN,
            f"network {network} has containers with IPv6 addresses of a prefix that is another's now",
            f"{lease.told or f'the prefix is {lease.prefix}'}: {', '.join(old[:_SHOWN])}",
            "restart these tasks, and they get an address of the new prefix",
        )


def _is_outside(item: Attachment, lease: Lease6) -> bool:
    """Whether an attachment took an address of a delegated prefix, and has none of the lease's."""
    took = any(line.get("step") == "prefix-lease" for line in item.steps)
    mine = [IPv6Address(each.ip) for each in item.addresses if ":" in each.ip]
    return took and bool(mine) and not any(each in lease.prefix for each in mine)


def _smallest_port(facts: Facts, bridge: int) -> int:
    return min((link.mtu for link in facts.node.by_index.values() if link.master == bridge), default=0)


def packet_sizes(facts: Facts) -> Iterator[Finding]:
    uplinks = {
        facts.name_of(route.index)
        for version in (4, 6)
        for route in facts.routes[version]
        if not route.route.dst.network.prefixlen and route.route.table in {None, routes.MAIN_TABLE}
    }
    sizes = {name: facts.node.by_name[name].mtu for name in uplinks if name in facts.node.by_name}
    told = set()
    for item, inside in facts.inside.items():
        if inside.link is None:
            continue
        size = inside.link.mtu
        if size < _LEAST_IPV6 and any(":" in entry.ip for entry in item.addresses):
            yield Finding(
                "packet-sizes",
                Level.FAIL,
                f"{item.ifname} of container {item.container_id} is too small for IPv6",
                f"its MTU is {size}, IPv6 needs {_LEAST_IPV6}",
                f"nsenter --net={item.netns} ip link set {item.ifname} mtu {_LEAST_IPV6}",
            )
        host = facts.node.by_name.get(item.host_interface)
        if host is not None and host.mtu != size:
            yield Finding(
                "packet-sizes",
                Level.FAIL,
                f"the two ends of {item.ifname} of container {item.container_id} differ in MTU: large "
                "packets are lost",
                f"{size} in the container, {host.mtu} at {host.name}",
                f"ip link set {host.name} mtu {size}",
            )
        bridge = facts.node.by_name.get(item.parent)
        # Of itself a bridge has the MTU of its smallest port: what the host sends by it fits each of them.
        if (
            bridge is not None
            and bridge.kind == "bridge"
            and bridge.name not in told
            and bridge.mtu < min(size, _smallest_port(facts, bridge.index))
        ):
            told.add(bridge.name)
            yield Finding(
                "packet-sizes",
                Level.FAIL,
                f"bridge {bridge.name} has a smaller MTU than its containers: large packets are lost",
                f"{bridge.mtu} at {bridge.name}, {size} at {item.ifname} of {item.container_id}",
                f"ip link set {bridge.name} mtu {size}",
            )
        smallest = min(sizes.values(), default=size)
        if is_routed(item) and smallest < size and item.network not in told:
            told.add(item.network)
            link = min(sizes, key=lambda name: sizes[name])
            yield Finding(
                "packet-sizes",
                Level.WARN,
                f"containers of network {item.network} send larger packets than {link} carries: what "
                "depends on path MTU discovery may hang",
                f"MTU {size} in the containers, {smallest} at {link}",
                f'"mtu": {smallest} in the network\'s configuration, then restart its tasks',
            )


def configuration_files(facts: Facts) -> Iterator[Finding]:
    names: dict[str, str] = {}
    for path, config in configurations.files(facts.roots):
        if config is None:
            yield Finding(
                "configuration-files",
                Level.FAIL,
                f"{path} is no JSON object: the agent does not know its network",
                str(path),
                f"python3 -m json.tool {path}",
            )
            continue
        name = config.get("name")
        if not isinstance(name, str) or not ("type" in config or "plugins" in config):
            yield Finding(
                "configuration-files",
                Level.FAIL,
                f"{path} has no {'name' if not isinstance(name, str) else 'type'}",
                str(path),
                "add the key; `mesokit cni help` shows examples",
            )
        elif name in names:
            yield Finding(
                "configuration-files",
                Level.WARN,
                f"network {printable(name)} is defined twice",
                f"{names[name]} and {path}",
                f"mv {path} {path}.disabled",
            )
        else:
            names[name] = str(path)


def differing_containers(facts: Facts) -> Iterator[Finding]:
    """A network's file was edited: its containers are as it was when they were attached."""
    node = differences.look(facts.node, facts.roots)
    found: dict[tuple[str, str], dict[str, str]] = {}
    for item in facts.living():
        other = node.difference(item)
        if other is not None:
            found.setdefault((item.network, other.file), {}).setdefault(item.container_id, str(other))
    for (name, path), items in found.items():
        first = next(iter(items))
        count = len(items)
        words = ("mesokit", "update", "--network", name, "--from", path, "--dry-run")
        yield Finding(
            "differing-containers",
            Level.WARN,
            f"{count} container{'s' if count > 1 else ''} of network {name} differ from {path}",
            f"{first}: {items[first]}",
            shlex.join(words),
        )


CHECKS = (
    overlapping_subnets,
    route_overlaps,
    full_pools,
    delegated_prefixes,
    packet_sizes,
    configuration_files,
    differing_containers,
)
