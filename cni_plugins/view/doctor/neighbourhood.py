"""Who answers for whom on a link: MAC addresses that two have, and links that answer no ARP question."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from cni_plugins.kernel import sysctl
from cni_plugins.kernel.links import Setting
from cni_plugins.view.attachments import Attachment
from cni_plugins.view.doctor.facts import Facts, Finding, Level
from cni_plugins.view.remedies import enter

_NOARP = 0x80  # IFF_NOARP, netdevice(7)
#: Values of arp_ignore (ip-sysctl.rst) with which a gateway does not answer: to nobody; and to nobody whose
#: address is not in a subnet of the link, as that of a container behind a ptp gateway is not.
_TO_NOBODY, _WITHIN_SUBNET = 8, 2


def _of(item: Attachment) -> str:
    return f"{item.ifname} of container {item.container_id} on network {item.network}"


def duplicate_macs(facts: Facts) -> Iterator[Finding]:
    """Two ports of one bridge with one MAC address: it sends the frames of both to the last one heard."""
    owners: dict[tuple[str, str], Attachment] = {}
    for item, there in facts.inside.items():
        link = facts.node.by_name.get(item.parent)
        if there.link is None or not there.link.mac or link is None or item.type == "ipvlan":
            continue
        other = owners.setdefault((item.parent, there.link.mac), item)
        if other is not item:
            changed = next((one for one in (item, other) if one.mac and one.mac != there.link.mac), None)
            yield Finding(
                "duplicate-macs",
                Level.FAIL,
                f"two at {item.parent} have the MAC address {there.link.mac}: {_of(other)}, and {_of(item)}: "
                "frames for one reach the other",
                f"nsenter --net={shlex.quote(item.netns)} ip link show {item.ifname}",
                enter(changed.netns, f"ip link set {changed.ifname} address {changed.mac}")
                if changed is not None
                else "end one of them, and ask for another MAC address (`mac`) in its network's file",
            )
        elif there.link.mac == link.mac and item.host_interface:
            yield Finding(
                "duplicate-macs",
                Level.FAIL,
                f"{_of(item)} has the MAC address of {item.parent} itself: it reaches no gateway",
                f"{there.link.mac}, at {item.parent} and in the container",
                enter(item.netns, f"ip link set {item.ifname} address {item.mac}")
                if item.mac not in {"", link.mac}
                else "end the container and start it anew",
            )


def silent_links(facts: Facts) -> Iterator[Finding]:
    """Links that are up and answer no ARP question: switched off, or told to by arp_ignore."""
    told = set()
    for item, there in facts.inside.items():
        if there.link is not None and there.link.kind == "veth" and there.link.flags & _NOARP:
            yield Finding(
                "silent-links",
                Level.FAIL,
                f"{_of(item)} answers no ARP question: nobody reaches it over IPv4",
                enter(item.netns, f"ip link show {item.ifname}") + ": NOARP",
                enter(item.netns, f"ip link set {item.ifname} arp on"),
            )
        if there.link is not None and there.link.setting(Setting.ARP_IGNORE) == _TO_NOBODY:
            name = f"net.ipv4.conf.{item.ifname}.arp_ignore"
            yield Finding(
                "silent-links",
                Level.FAIL,
                f"{_of(item)} is told to answer no ARP question: nobody reaches it over IPv4",
                f"in the container: {name} = {_TO_NOBODY}",
                enter(item.netns, f"sysctl -w {name}=0"),
            )
    value = sysctl.read(facts.host, "ipv4/conf/all/arp_ignore") or ""
    every = int(value) if value.isdigit() else 0
    for item in facts.routed():
        name = item.parent if item.parent in facts.node.by_name else item.host_interface
        link = facts.node.by_name.get(name)
        if link is None or name in told or not any(":" not in entry.ip for entry in item.addresses):
            continue
        told.add(name)
        if link.flags & _NOARP:
            yield Finding(
                "silent-links",
                Level.FAIL,
                f"{name} answers no ARP question: containers of network {item.network} do not find their "
                "gateway",
                f"ip link show {name}: NOARP",
                f"ip link set {name} arp on",
            )
        own = link.setting(Setting.ARP_IGNORE)
        worst = max(every, own)
        if worst == _TO_NOBODY or (worst == _WITHIN_SUBNET and not item.parent):
            values = {"all": every, name: own}
            which = [one for one, value in values.items() if value == worst]
            yield Finding(
                "silent-links",
                Level.FAIL,
                f"{name} is told to answer no ARP question of its containers: those of network "
                f"{item.network} do not find their gateway",
                ", ".join(f"net.ipv4.conf.{one}.arp_ignore = {worst}" for one in which),
                "; ".join(f"sysctl -w net.ipv4.conf.{one}.arp_ignore=0" for one in which),
            )


CHECKS = (duplicate_macs, silent_links)
