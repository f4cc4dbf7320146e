"""Links: looked up, made, changed and deleted."""

import errno
import os
import struct
import sys
import time
from _socket import if_indextoname
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from functools import lru_cache
from typing import Any

from cni_plugins.kernel.namespace import entered
from cni_plugins.kernel.netlink.codec import attributes, encode, number, text
from cni_plugins.kernel.netlink.layouts import LINK
from cni_plugins.kernel.netlink.route import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    RTM_DELLINK,
    RTM_GETLINK,
    RTM_NEWLINK,
    RTM_SETLINK,
    Message,
    Netlink,
    answered,
)
from cni_plugins.kernel.netlink.socket import Request

IFF_UP, IFF_LOOPBACK, IFF_PROMISC, IFF_ALLMULTI, IFF_LOWER_UP = 0x1, 0x8, 0x100, 0x200, 0x10000
_NO_LINK = frozenset((errno.ENODEV,))
_HEADER = struct.Struct("=BxHiII")
_BODY = 16 + _HEADER.size

# linux/if_link.h
_ADDRESS, _IFNAME, _MTU, _LINK, _MASTER, _TXQLEN, _OPERSTATE, _LINKINFO, _ALIAS = (
    1,
    3,
    4,
    5,
    10,
    13,
    16,
    18,
    20,
)
_AF_SPEC, _GROUP, _LINK_NETNSID = 26, 27, 37
_GROUPS = 0x7FFFFFFF
_READ = frozenset(
    (
        *(_ADDRESS, _IFNAME, _MTU, _LINK, _MASTER, _TXQLEN, _OPERSTATE, _LINKINFO, _ALIAS, _AF_SPEC),
        _LINK_NETNSID,
    )
)  # a link has sixty
_AF_INET, _INET_CONF = 2, 1
# linux/net_namespace.h
_RTM_GETNSID, _NETNSA_NSID, _NETNSA_FD = 90, 1, 3
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_DATA = 1, 2, 5
_BRPORT_STATE, _BRPORT_MODE, _BRPORT_BROADCAST, _BRPORT_ISOLATED, _BRPORT_LOCKED = 1, 4, 30, 33, 39
_BR_STP_STATE = 5
_OPERSTATE_UP, _FORWARDING = 6, 3
_SKIP_STATS = ("IFLA_EXT_MASK", 8)


class Setting(IntEnum):
    """A setting of IPv4 that each link has, net.ipv4.conf.LINK (linux/ip.h, IPV4_DEVCONF_*)."""

    FORWARDING = 1
    RP_FILTER = 8
    ARP_FILTER = 13
    ARP_IGNORE = 19


@dataclass(frozen=True, slots=True)
class Link:
    """A link as the kernel tells it.

    `peer` is IFLA_LINK (a veth's other end, a macvlan's master), 0 for none: an index in the namespace that
    `peer_namespace` numbers (see `namespace_id`), or in the link's own where that is None. `kind_data`,
    `port_data` and `families` (IFLA_AF_SPEC) are what `data`, `port` and settings are cut from when somebody
    asks: each has forty attributes.
    """

    index: int
    name: str
    kind: str
    mac: str
    mtu: int
    flags: int
    master: int
    peer: int
    alias: str
    queue: int
    running: bool
    kind_data: bytes
    port_data: bytes
    peer_namespace: int | None = None
    families: bytes = field(default=b"", repr=False)

    def setting(self, name: Setting) -> int:
        """Its own value of a setting, which stands beside that of `all`; 0 where the kernel tells none."""
        conf = attributes(attributes(self.families).get(_AF_INET, b"")).get(_INET_CONF, b"")
        start = 4 * (name - 1)
        return int.from_bytes(conf[start : start + 4], sys.byteorder)

    @property
    def data(self) -> Mapping[int, bytes]:
        """The attributes of its kind, by number."""
        return _cut(self.kind_data)

    @property
    def port(self) -> Mapping[int, bytes]:
        """The attributes of its master's kind, by number."""
        return _cut(self.port_data)

    @property
    def up(self) -> bool:
        return bool(self.flags & IFF_UP)

    @property
    def carrier(self) -> bool:
        """Whether there is one. Other than `running` also of `lo` and those whose driver tells no state."""
        return bool(self.flags & IFF_LOWER_UP)

    @property
    def forwarding(self) -> bool:
        """Whether a bridge port passes frames: its carrier is there and the bridge has let it in."""
        return self.running and self.port.get(_BRPORT_STATE, b"\0")[0] == _FORWARDING

    @property
    def port_state(self) -> int:
        """BR_STATE_* of a bridge port; that of one that passes frames for any other link."""
        return self.port.get(_BRPORT_STATE, bytes((_FORWARDING,)))[0]

    @property
    def spanning_tree(self) -> bool:
        """Whether a bridge runs a spanning tree protocol."""
        return any(self.data.get(_BR_STP_STATE, b""))

    @property
    def locked(self) -> bool:
        return self.port.get(_BRPORT_LOCKED, b"\0")[0] == 1

    @property
    def deaf(self) -> bool:
        """Whether a bridge port is spared broadcasts."""
        return self.port.get(_BRPORT_BROADCAST, b"\1")[0] == 0

    @property
    def hairpin(self) -> bool:
        return self.port.get(_BRPORT_MODE, b"\0")[0] == 1

    @property
    def isolated(self) -> bool:
        return self.port.get(_BRPORT_ISOLATED, b"\0")[0] == 1


@lru_cache(maxsize=8)
def _cut(data: bytes) -> Mapping[int, bytes]:
    """Who wants to know one thing of a link asks for the next one then."""
    return attributes(data)


def index_in(packet: bytes) -> int:
    """The index of the link of an RTM_NEWLINK message, without reading more of it."""
    return int(_HEADER.unpack_from(packet, 16)[2])


def parse(packet: bytes) -> Link:
    """A link of an RTM_NEWLINK message."""
    _, _, index, flags, _ = _HEADER.unpack_from(packet, 16)
    found = attributes(packet, _BODY, _READ)
    info = attributes(found.get(_LINKINFO, b""), 0)
    return Link(
        index=index,
        name=text(found, _IFNAME),
        kind=text(info, _INFO_KIND),
        mac=found.get(_ADDRESS, b"").hex(":"),
        mtu=number(found, _MTU),
        flags=flags,
        master=number(found, _MASTER),
        peer=number(found, _LINK),
        alias=text(found, _ALIAS),
        queue=number(found, _TXQLEN),
        running=found.get(_OPERSTATE, b"\0")[0] == _OPERSTATE_UP,
        kind_data=info.get(_INFO_DATA, b""),
        port_data=info.get(_INFO_SLAVE_DATA, b""),
        peer_namespace=number(found, _LINK_NETNSID) if _LINK_NETNSID in found else None,
        families=found.get(_AF_SPEC, b""),
    )


def namespace_id(netlink: Netlink, descriptor: int) -> int | None:
    """The number by which the socket's namespace knows another one, None if it has given it none. CniError
    999.
    """
    body = bytes(4) + struct.pack("=HHI", 8, _NETNSA_FD, descriptor)
    (answer,) = netlink.request(Message("number a network namespace", _RTM_GETNSID, 0, body))
    found = attributes(answer.packet, 20)
    return None if found.get(_NETNSA_NSID, b"\xff" * 4) == b"\xff" * 4 else number(found, _NETNSA_NSID)


def other_end(here: Netlink, there: Netlink, link: Link) -> Link | None:
    """The end in the namespace of `here` of a veth whose other end is `link`, in the namespace of `there`;
    None when there is none. CniError 999.

    What `link` says of its peer is not believed: whoever may make links in a container can give a veth of
    its own any index for a peer. It counts only if the link here says the same of that end, namespace
    included.
    """
    if link.kind != "veth" or not link.peer:
        return None
    apart = not here.namespace.same(there.namespace)
    if (link.peer_namespace is not None) != apart:
        return None
    peer = find_index(here, link.peer)
    if peer is None or peer.kind != "veth" or peer.peer != link.index:
        return None
    if (peer.peer_namespace is not None) != apart:
        return None
    if apart and peer.peer_namespace != namespace_id(here, there.namespace.fd):
        return None
    return peer


def remember(netlink: Netlink, listed: Iterable[Link]) -> None:
    """Let a socket that remembers answer for these links without asking the kernel again."""
    if netlink.remembered is not None:
        for link in listed:
            netlink.remembered["link", link.name] = netlink.remembered["link", link.index] = link


def _find(netlink: Netlink, key: str | int) -> Link | None:
    known = netlink.remembered
    if known is not None and ("link", key) in known:
        there = known["link", key]
        return there if isinstance(there, Link) else None
    if isinstance(key, str):
        what, body = key, question(key).body
    else:
        what, body = f"link {key}", encode(LINK, {"index": key}, [_SKIP_STATS])
    answer = answered(netlink.request(Message(f"look up {what}", RTM_GETLINK, 0, body, _NO_LINK)))
    link = parse(answer.packet) if answer.packet else None
    if known is not None:
        known["link", key] = link
    return link


@lru_cache(maxsize=16)
def question(name: str) -> Request:
    """What asks for the link called `name`."""
    return Request(RTM_GETLINK, 0, encode(LINK, {}, [("IFLA_IFNAME", name), _SKIP_STATS]))


def find(netlink: Netlink, name: str) -> Link | None:
    """The link called `name`, None if there is none. CniError 999."""
    return _find(netlink, name)


def find_index(netlink: Netlink, index: int) -> Link | None:
    """The link with this index, None if there is none. CniError 999."""
    return _find(netlink, index)


def _selection(master: int) -> bytes:
    filters = [("IFLA_MASTER", master)] if master else []
    return encode(LINK, {}, [*filters, _SKIP_STATS])


def every(netlink: Netlink, *, master: int = 0) -> list[Link]:
    """All links, or the ports of one master. CniError 999."""
    return [parse(packet) for packet in netlink.dump("list links", RTM_GETLINK, _selection(master))]


def count(netlink: Netlink) -> int:
    """How many links there are. CniError 999."""
    return len(netlink.dump("count links", RTM_GETLINK, _selection(0)))


def change(name: str, index: int, *, set_flags: int = 0, clear_flags: int = 0, **values: Any) -> Message:
    """Change flags and attributes of a link; `values` are named as IFLA_* without the prefix, in lower case.

    Used as `netlink.request(change("eth0", 7, set_flags=IFF_UP, mtu=1400))`; `index` 0 finds it by name.
    """
    fields = {"index": index, "flags": set_flags, "change": set_flags | clear_flags}
    listed = [(f"IFLA_{key.upper()}", value) for key, value in values.items()]
    if not index:
        listed.append(("IFLA_IFNAME", name))
    return Message(f"change {name}", RTM_SETLINK, 0, encode(LINK, fields, listed))


def set_master(name: str, index: int, master: int) -> Message:
    """Make a link a port of a bridge, a bond or a VRF; 0 takes it out."""
    return change(name, index, master=master)


def rename(name: str, index: int, new: str) -> Message:
    """Give a link another name. EEXIST when that is taken."""
    return change(name, index, ifname=new)


def move(name: str, index: int, namespace: int, new: str = "") -> Message:
    """Move a link to the namespace behind a descriptor, where it is down and is called `new` (else as it
    was). EEXIST when it has a link of that name.
    """
    named: dict[str, Any] = {"ifname": new} if new else {}
    return change(name, index, net_ns_fd=namespace, **named)


class PortFlag(StrEnum):
    """What a bridge port does (bridge(8)): send frames back where they came from, keep apart from other
    isolated ports, learn MAC addresses, be flooded with frames to unknown unicast, multicast and broadcast
    addresses, be spared neighbour discovery whose answer the bridge knows, take frames of known stations
    only, take no bridge protocol data.
    """

    HAIRPIN = "IFLA_BRPORT_MODE"
    ISOLATED = "IFLA_BRPORT_ISOLATED"
    LEARNING = "IFLA_BRPORT_LEARNING"
    UNICAST_FLOOD = "IFLA_BRPORT_UNICAST_FLOOD"
    MULTICAST_FLOOD = "IFLA_BRPORT_MCAST_FLOOD"
    BROADCAST_FLOOD = "IFLA_BRPORT_BCAST_FLOOD"
    SUPPRESS_NEIGHBOURS = "IFLA_BRPORT_NEIGH_SUPPRESS"
    LOCKED = "IFLA_BRPORT_LOCKED"
    GUARD = "IFLA_BRPORT_GUARD"


def set_port(name: str, index: int, flags: Mapping[PortFlag, bool]) -> Message:
    """Set flags of a bridge port; others stay."""
    options = [(str(flag), int(value)) for flag, value in flags.items()]
    data = {"attrs": [("IFLA_INFO_SLAVE_KIND", "bridge"), ("IFLA_INFO_SLAVE_DATA", {"attrs": options})]}
    body = encode(LINK, {"index": index}, [("IFLA_LINKINFO", data)])
    return Message(f"set options of bridge port {name}", RTM_NEWLINK, 0, body)


def change_port(name: str, index: int, *, hairpin: bool = False, isolated: bool = False) -> Message:
    """Set options of a bridge port; what is false is left alone."""
    wanted = {PortFlag.HAIRPIN: hairpin, PortFlag.ISOLATED: isolated}
    return set_port(name, index, {flag: True for flag, value in wanted.items() if value})


def create(name: str, kind: str, data: list[tuple[str, Any]] | None = None, **values: Any) -> Message:
    """Make a link; `data` is its IFLA_INFO_DATA, `flags` its first flags, other values as for `change`."""
    info: list[tuple[str, Any]] = [("IFLA_INFO_KIND", kind)]
    if data is not None:
        info.append(("IFLA_INFO_DATA", {"attrs": data}))
    flags = values.pop("flags", 0)
    listed = [("IFLA_IFNAME", name), ("IFLA_LINKINFO", {"attrs": info})]
    listed += [(f"IFLA_{key.upper()}", value) for key, value in values.items()]
    body = encode(LINK, {"flags": flags, "change": flags}, listed)
    return Message(f"create {kind} {name}", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def create_veth(
    name: str, peer: str, sandbox: int, *, mtu: int, mac: str, peer_mac: str, master: int = 0
) -> Message:
    """Make a veth pair, `name` here and up, `peer` directly in the namespace behind the descriptor `sandbox`
    and down.

    EEXIST is an answer: one of the two names is taken.
    """
    size = {"mtu": mtu} if mtu else {}
    other: list[tuple[str, Any]] = [
        ("IFLA_IFNAME", peer),
        ("IFLA_ADDRESS", peer_mac),
        ("IFLA_NET_NS_FD", sandbox),
    ]
    other += [("IFLA_MTU", mtu)] * bool(mtu)
    bound = {"master": master} if master else {}
    message = create(
        name, "veth", [("VETH_INFO_PEER", {"attrs": other})], address=mac, flags=IFF_UP, **size, **bound
    )
    return replace(message, allow=frozenset((errno.EEXIST,)))


def remove(netlink: Netlink, name: str, index: int = 0) -> None:
    """Delete the link with that index, which is never given to another, or the one that is called `name` now;
    returns when it is gone, or was gone already. CniError 999.

    The kernel unlists a link and its peer, with their addresses and routes, within a millisecond. Then the
    sender waits 10 to 50 ms until no processor can hold a reference any more: for a bridge under the lock for
    network configuration (rcu_barrier), for others after it (netdev_run_todo). Nobody needs to wait for that,
    so somebody else sends, while we look whether the link is listed, which takes no lock, and whether there
    is an answer.
    """
    if not index:
        link = find(netlink, name)
        if link is None:
            return
        index = link.index
    _sent_apart(netlink, deletion(name, index), (index,))


def remove_together(netlink: Netlink, name: str, *indices: int) -> None:
    """Delete the links with these indices as `remove` does, with one wait of the kernel for all of them.

    The kernel deletes several at once only by the group that they are in, so they are given one that no link
    has: a random number, for which all links are looked through first. CniError 999.
    """
    group = 0
    while not group or group in _groups(netlink):
        group = int.from_bytes(os.urandom(4), "little") & _GROUPS
    netlink.request(*(change(name, index, group=group).unless_gone() for index in indices))
    body = encode(LINK, {}, [("IFLA_GROUP", group)])
    _sent_apart(netlink, Message(f"delete {name}", RTM_DELLINK, 0, body, _NO_LINK), indices)


def _groups(netlink: Netlink) -> set[int]:
    packets = netlink.dump("list links", RTM_GETLINK, _selection(0))
    return {number(attributes(packet, _BODY, frozenset((_GROUP,))), _GROUP) for packet in packets}


def _sent_apart(netlink: Netlink, message: Message, indices: Sequence[int]) -> None:
    with netlink.another() as apart:
        is_answered = apart.request_apart(message)
        pause = 0.0001
        while not is_answered() and any(_listed(netlink, index) for index in indices):
            time.sleep(pause)
            pause = min(1.25 * pause, 0.005)  # so that at most a fifth of the wait is for nothing


def _listed(netlink: Netlink, index: int) -> bool:
    with entered(netlink.namespace):
        try:
            return bool(if_indextoname(index))
        except OSError:
            return False


def deletion(name: str, index: int = 0) -> Message:
    """Delete a link, by its index if that is given; that it is gone already is an answer."""
    named = [] if index else [("IFLA_IFNAME", name)]
    return Message(f"delete {name}", RTM_DELLINK, 0, encode(LINK, {"index": index}, named), _NO_LINK)


def random_mac() -> str:
    """A locally administered unicast address: one that is chosen needs no reading back, and is not changed by
    udev.
    """
    octets = bytearray(os.urandom(6))
    octets[0] = octets[0] & 0xFE | 0x02
    return octets.hex(":")


def random_name() -> str:
    """A host veth's name, in the reference plugins' form."""
    return "veth" + os.urandom(4).hex()
