"""Traffic shaping: a token bucket on a link's way out, and a link's way in turned into another's way out.

The kernel shapes only what leaves. What comes in on a link is therefore redirected (ingress qdisc, a filter
that matches everything, the mirred action) to an ifb link, which it leaves through a bucket of its own.
Sources: tc-tbf(8), tc-u32(8), linux/pkt_sched.h, linux/pkt_cls.h.
"""

import errno
import struct
from _socket import htons
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cni_plugins.kernel.netlink.codec import attribute, attributes, encode, nested, text
from cni_plugins.kernel.netlink.layouts import EVERY_PACKET, TRAFFIC
from cni_plugins.kernel.netlink.route import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    RTM_DELQDISC,
    RTM_GETQDISC,
    RTM_GETTFILTER,
    RTM_NEWQDISC,
    RTM_NEWTFILTER,
    Message,
    Netlink,
)
from cni_plugins.spec.values import IpInterface

_TC = TRAFFIC.header
_BODY = 16 + _TC.size
_ROOT, _INGRESS, _INGRESS_HANDLE, _FIRST_HANDLE = 0xFFFFFFFF, 0xFFFFFFF1, 0xFFFF0000, 0x00010000
_KIND, _OPTIONS = 1, 2
_TBF_PARMS, _TBF_RATE64, _TBF_BURST = 1, 4, 6
_RATESPEC = struct.Struct("=BBHhHI")  # cell_log, linklayer, overhead, cell_align, mpu, rate
_LIMITS = struct.Struct("=III")  # limit, buffer, mtu
_ETHERNET = 1
_HTB_PARMS, _HTB_INIT, _U32_CLASSID, _U32_SEL, _U32_ACT = 1, 2, 1, 5, 7
_LIMITED, _FREE, _LEAF_HANDLE = 0x00010010, 0x00010020, 0x00100000
_CLASS_TICKS, _QUANTUM = 1_000_000 // 64, 60_000  # a class that limits nothing: 1 ms of its rate at once
_ETHERTYPES = {4: 0x0800, 6: 0x86DD}
RTM_NEWTCLASS = 40  # linux/rtnetlink.h
_TERMINAL, _STOLEN, _EGRESS_REDIRECT = 1, 4, 1
_MAX_32 = 0xFFFFFFFF
_GONE = frozenset((errno.ENODEV, errno.ENOENT, errno.EINVAL))


@dataclass(frozen=True, slots=True)
class Bucket:
    """A token bucket: bytes a second, bytes at once, and bytes that may wait."""

    rate: int
    burst: int
    limit: int


def bucket(rate_bits: int, burst_bits: int, latency_ms: int, mtu: int) -> Bucket:
    """A bucket of `rate_bits` a second and `burst_bits` at once, in which nothing waits longer than
    `latency_ms`. It always holds one frame of `mtu` bytes: a smaller one would let none of them through.
    """
    rate, burst = max(1, rate_bits // 8), max(burst_bits // 8, mtu + 14)
    return Bucket(rate, burst, min(rate * latency_ms // 1000 + burst, _MAX_32))


def _qdisc(index: int, handle: int, parent: int, listed: Sequence[tuple[str, Any]] = ()) -> bytes:
    return encode(TRAFFIC, {"index": index, "handle": handle, "parent": parent}, listed)


def _bucket_body(index: int, shape: Bucket, handle: int = _FIRST_HANDLE, parent: int = _ROOT) -> bytes:
    rate = {"rate": min(shape.rate, _MAX_32), "rate___reserved": _ETHERNET}
    # What tc(8) says of its rate table, though the kernel needs none for Ethernet.
    rate |= {"rate_cell_log": 3, "rate_cell_align": -1}
    parms = rate | {"limit": shape.limit}
    options: list[tuple[str, Any]] = [("TCA_TBF_PARMS", parms), ("TCA_TBF_BURST", shape.burst)]
    if shape.rate > _MAX_32:
        options.append(("TCA_TBF_RATE64", shape.rate))
    listed = [("TCA_KIND", "tbf"), ("TCA_OPTIONS", {"attrs": options})]
    return _qdisc(index, handle, parent, listed)


def limit_egress(index: int, shape: Bucket) -> Message:
    """Give a link a token bucket at its root. CniError EEXIST when it has a qdisc of somebody's there."""
    body = _bucket_body(index, shape)
    return Message("add a token bucket", RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, body)


def change_egress(index: int, shape: Bucket) -> Message:
    """Change the token bucket at a link's root in place: what waits in it is not lost. ENOENT is no answer:
    there must be one.
    """
    return Message("change a token bucket", RTM_NEWQDISC, 0, _bucket_body(index, shape))


@dataclass(frozen=True, slots=True)
class Selection:
    """What of a link's traffic is limited: what goes to `subnets` (comes from them) with `only`, else all but
    that.
    """

    subnets: tuple[IpInterface, ...]
    only: bool


def limit_selected(index: int, shape: Bucket, selection: Selection) -> list[Message]:
    """The same as `limit_egress` for a part of the traffic, told by where it comes from: two classes at the
    root (tc-htb(8)), a token bucket in one of them.
    """
    default = _FREE if selection.only else _LIMITED
    options = attribute(_HTB_INIT, struct.pack("=5I", 3, 10, default & 0xFFFF, 0, 0))
    root = _qdisc(index, _FIRST_HANDLE, _ROOT, [("TCA_KIND", "htb")]) + nested(_OPTIONS, options)
    messages = [Message("add classes", RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, root)]
    rate = _RATESPEC.pack(0, _ETHERNET, 0, 0, 0, _MAX_32)
    parms = rate + rate + struct.pack("=5I", _CLASS_TICKS, _CLASS_TICKS, _QUANTUM, 0, 0)
    for number in (_LIMITED, _FREE):
        body = _qdisc(index, number, _FIRST_HANDLE, [("TCA_KIND", "htb")])
        body += nested(_OPTIONS, attribute(_HTB_PARMS, parms))
        messages.append(Message("add a class", RTM_NEWTCLASS, NLM_F_CREATE | NLM_F_EXCL, body))
    leaf = _bucket_body(index, shape, _LEAF_HANDLE, _LIMITED)
    messages.append(Message("add a token bucket", RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, leaf))
    target = attribute(_U32_CLASSID, struct.pack("=I", _LIMITED if selection.only else _FREE))
    messages += [_filter(index, _FIRST_HANDLE, item, target, source=True) for item in selection.subnets]
    return messages


def _filter(index: int, parent: int, subnet: IpInterface, target: bytes, *, source: bool) -> Message:
    """A u32 filter of packets from (`source`) or to a subnet; `target` are attributes: where they go."""
    version = subnet.version
    offset = {(4, True): 12, (4, False): 16, (6, True): 8, (6, False): 24}[version, source]
    value, mask = subnet.network.network_address.packed, subnet.netmask.packed
    words = [at for at in range(0, len(mask), 4) if any(mask[at : at + 4])] or [0]
    keys = b"".join(
        mask[at : at + 4] + value[at : at + 4] + struct.pack("=ii", offset + at, 0) for at in words
    )
    selector = struct.pack("=BBBxHHhhI", _TERMINAL, 0, len(words), 0, 0, 0, 0, 0) + keys
    info = (1 if version == 4 else 2) << 16 | htons(_ETHERTYPES[version])
    body = encode(TRAFFIC, {"index": index, "parent": parent, "info": info}, [("TCA_KIND", "u32")])
    body += nested(_OPTIONS, target, attribute(_U32_SEL, selector))
    return Message("add a filter", RTM_NEWTFILTER, NLM_F_CREATE, body)


def redirect_selected(index: int, target: int, selection: Selection) -> list[Message]:
    """The same as `redirect_ingress` for a part of the traffic, told by where it goes to."""
    qdisc, everything = redirect_ingress(index, target, priority=3)
    if not selection.only:
        accept = attribute(_U32_CLASSID, struct.pack("=I", _FREE))
        passed = [_filter(index, _INGRESS_HANDLE, item, accept, source=False) for item in selection.subnets]
        return [qdisc, *passed, everything]
    mirred = struct.pack("=IIiiiiI", 0, 0, _STOLEN, 0, 0, _EGRESS_REDIRECT, target)
    action = nested(1, attribute(1, b"mirred\0"), nested(2, attribute(2, mirred)))
    stolen = nested(_U32_ACT, action)
    return [
        qdisc,
        *(_filter(index, _INGRESS_HANDLE, item, stolen, source=False) for item in selection.subnets),
    ]


def redirect_ingress(index: int, target: int, priority: int = 1) -> tuple[Message, Message]:
    """Make everything that comes in on a link leave by the link `target`: the qdisc, and its filter."""
    body = _qdisc(index, _INGRESS_HANDLE, _INGRESS, [("TCA_KIND", "ingress")])
    qdisc = Message("add an ingress qdisc", RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, body)
    mirred = {"action": _STOLEN, "eaction": _EGRESS_REDIRECT, "ifindex": target}
    action = [("TCA_ACT_KIND", "mirred"), ("TCA_ACT_OPTIONS", {"attrs": [("TCA_MIRRED_PARMS", mirred)]})]
    options = [
        ("TCA_U32_SEL", {"flags": _TERMINAL, "keys": [EVERY_PACKET]}),
        ("TCA_U32_ACT", {"attrs": [("TCA_ACT_PRIO_1", {"attrs": action})]}),
    ]
    info = priority << 16 | htons(0x0003)  # ETH_P_ALL
    fields = {"index": index, "parent": _INGRESS_HANDLE, "info": info}
    body = encode(TRAFFIC, fields, [("TCA_KIND", "u32"), ("TCA_OPTIONS", {"attrs": options})])
    return qdisc, Message("redirect what comes in", RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, body)


def remove_egress(index: int) -> Message:
    """Take the root qdisc from a link; that it is gone already is an answer."""
    body = _qdisc(index, _FIRST_HANDLE, _ROOT)
    return Message("remove a token bucket", RTM_DELQDISC, 0, body, _GONE)


def remove_ingress(index: int) -> Message:
    """Take the ingress qdisc and its filters from a link; that they are gone already is an answer."""
    body = _qdisc(index, _INGRESS_HANDLE, _INGRESS)
    return Message("remove an ingress qdisc", RTM_DELQDISC, 0, body, _GONE)


def egress(netlink: Netlink, index: int, *, selected: bool = False) -> Bucket | None:
    """The token bucket at a link's root (`selected`: in the class of `limit_selected`), None if there is
    none. CniError 999.
    """
    wanted = _LIMITED if selected else _ROOT
    for packet in netlink.dump("list qdiscs", RTM_GETQDISC, _qdisc(index, 0, 0)):
        _, link, _, parent, _ = _TC.unpack_from(packet, 16)
        found = attributes(packet, _BODY)
        if link != index or parent != wanted or text(found, _KIND) != "tbf":
            continue
        options = attributes(found.get(_OPTIONS, b""), 0)
        parms = options.get(_TBF_PARMS, b"")
        if len(parms) < 36:
            continue
        rate = _RATESPEC.unpack_from(parms)[5]
        if _TBF_RATE64 in options:
            rate = struct.unpack("=Q", options[_TBF_RATE64])[0]
        limit, ticks, _ = _LIMITS.unpack_from(parms, 24)
        # The kernel tells the burst as the time it takes, in ticks of 64 ns (linux/pkt_sched.h).
        return Bucket(rate, ticks * 64 * rate // 1_000_000_000, limit)
    return None


def redirected(netlink: Netlink, index: int) -> bool:
    """Whether a link has filters on its way in. CniError 999."""
    body = _qdisc(index, 0, _INGRESS_HANDLE)
    return bool(netlink.dump("list filters", RTM_GETTFILTER, body))
