"""VLANs of the bridge plugin: a port's membership, and the interface that is the gateway of a VLAN.

That interface, `<bridge>.<vid>`, is one end of a veth pair whose other end is a port of the bridge in that
VLAN. It carries the bridges' alias and goes with the last port of the VLAN.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cni_plugins.attach.context import Context
from cni_plugins.kernel import bridges, links, vlans
from cni_plugins.kernel.links import Link
from cni_plugins.kernel.netlink.route import Message
from cni_plugins.spec.config import integer, option
from cni_plugins.spec.errors import CniError, Code


@dataclass(frozen=True, slots=True)
class Trunk:
    vid: int | None = option("id", integer(1, 4094), None, "one VLAN")
    low: int | None = option("minID", integer(1, 4094), None, "the first VLAN of a range")
    high: int | None = option("maxID", integer(1, 4094), None, "the last VLAN of a range")


def validate(trunks: Iterable[Trunk]) -> None:
    """CniError 7 for an entry that says neither a VLAN nor a range."""
    for trunk in trunks:
        if trunk.low is None and trunk.high is None and trunk.vid is not None:
            continue
        if trunk.low is None or trunk.high is None:
            raise CniError(
                Code.INVALID_CONFIG, "vlanTrunk has an entry without id, or without one of minID and maxID"
            )
        if trunk.low > trunk.high:
            raise CniError(Code.INVALID_CONFIG, f"vlanTrunk has minID {trunk.low} above maxID {trunk.high}")


def _ranges(trunks: Iterable[Trunk]) -> list[tuple[int, int]]:
    ranges = []
    for trunk in trunks:
        if trunk.vid is not None:
            ranges.append((trunk.vid, trunk.vid))
        if trunk.low is not None and trunk.high is not None:
            ranges.append((trunk.low, trunk.high))
    return ranges


def gateway_name(bridge: str, vid: int) -> str:
    """The name of a VLAN's gateway interface. CniError 7 when it does not fit."""
    name = f"{bridge}.{vid}"
    if len(name.encode()) > 15:
        raise CniError(
            Code.INVALID_CONFIG,
            f"bridge is {bridge!r} and vlan {vid}: the gateway's interface {name!r} has more than 15 bytes",
        )
    return name


def require_filtering(bridge: Link) -> None:
    """CniError 7 for a bridge that would let every VLAN through."""
    if not bridges.filters_vlans(bridge):
        raise CniError(
            Code.INVALID_CONFIG,
            f"bridge {bridge.name} does not filter VLANs, so vlan and vlanTrunk would have no effect",
            f"ip link set {bridge.name} type bridge vlan_filtering 1",
        )


def membership(
    bridge: Link, port: str, index: int, vid: int, trunks: Sequence[Trunk], *, keep: bool
) -> list[Message]:
    """The changes that put a new port into its VLANs: untagged `vid` (1 for a pure trunk), tagged
    `trunks`.
    """
    default = bridges.default_vlan(bridge)
    untagged = vid or 1
    changes = []
    if default and default != untagged and not keep:
        changes.append(vlans.leave(port, index, default))
    changes.append(vlans.access(port, index, untagged))
    return changes + [vlans.trunk(port, index, first, last) for first, last in _ranges(trunks)]


def gateway_link(context: Context, bridge: Link, vid: int, mtu: int) -> Link:
    """The gateway interface of a VLAN, made when missing; the bridge's lock is held and the removal
    announced. CniError 7 or 999.
    """
    name = gateway_name(bridge.name, vid)
    netlink = context.host
    found = links.find(netlink, name)
    if found is not None:
        return found
    peer = links.random_name()
    mac = links.random_mac()
    host = context.call.host
    netlink.request(
        links.create_veth(name, peer, host.fd, mtu=mtu, mac=mac, peer_mac=links.random_mac()),
        links.change(name, 0, ifalias=bridges.ALIAS),
        links.change(peer, 0, set_flags=links.IFF_UP, master=bridge.index),
    )
    made = links.find(netlink, peer)
    gateway = links.find(netlink, name)
    if made is None or gateway is None:
        raise CniError(Code.INTERNAL, f"the gateway's interface {name} vanished as soon as it was made")
    netlink.request(*membership(bridge, peer, made.index, vid, (), keep=False))
    return gateway


def check(context: Context, port: Link, vid: int, trunks: Sequence[Trunk]) -> None:
    """CniError 999 naming the first VLAN that the port should be in and is not."""
    there = vlans.of_ports(context.host, port.master).get(port.index, frozenset())
    wanted = {vid or 1}
    for first, last in _ranges(trunks):
        wanted.update(range(first, last + 1))
    missing = sorted(wanted - there)
    if missing:
        raise CniError(Code.INTERNAL, f"bridge port {port.name} is not in VLAN {missing[0]}")
