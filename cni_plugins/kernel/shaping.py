"""Traffic shaping: a token bucket on a link's way out, and a link's way in turned into another's way out.

The kernel shapes only what leaves. What comes in on a link is therefore redirected (ingress qdisc, a filter
that matches everything, the mirred action) to an ifb link, which it leaves through a bucket of its own.
Sources: tc-tbf(8), tc-u32(8), linux/pkt_sched.h, linux/pkt_cls.h.
"""

import errno
import struct
from _socket import htons
from dataclasses import dataclass

from cni_plugins.kernel.netlink.codec import attributes, text
from cni_plugins.kernel.netlink.route import NLM_F_CREATE, NLM_F_EXCL, Message, Netlink

_RTM_NEWQDISC, _RTM_DELQDISC, _RTM_GETQDISC, _RTM_NEWTFILTER, _RTM_GETTFILTER = 36, 37, 38, 44, 46
_TC = struct.Struct("=BxxxiIII")  # family, link, handle, parent, info
_BODY = 16 + _TC.size
_ROOT, _INGRESS, _INGRESS_HANDLE, _FIRST_HANDLE = 0xFFFFFFFF, 0xFFFFFFF1, 0xFFFF0000, 0x00010000
_KIND, _OPTIONS = 1, 2
_TBF_PARMS, _TBF_RATE64, _TBF_BURST = 1, 4, 6
_RATESPEC = struct.Struct("=BBHhHI")  # cell_log, linklayer, overhead, cell_align, mpu, rate
_LIMITS = struct.Struct("=III")  # limit, buffer, mtu
_ETHERNET = 1
_U32_SEL, _U32_ACT = 5, 7
_ACT_KIND, _ACT_OPTIONS, _MIRRED_PARMS = 1, 2, 2
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


def _attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def _name(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def limit_egress(index: int, shape: Bucket) -> Message:
    """Give a link a token bucket at its root. CniError EEXIST when it has a qdisc of somebody's there."""
    rate = _RATESPEC.pack(0, _ETHERNET, 0, 0, 0, min(shape.rate, _MAX_32))
    parms = rate + bytes(_RATESPEC.size) + _LIMITS.pack(shape.limit, 0, 0)
    options = _attribute(_TBF_PARMS, parms) + _attribute(_TBF_BURST, struct.pack("=I", shape.burst))
    if shape.rate > _MAX_32:
        options += _attribute(_TBF_RATE64, struct.pack("=Q", shape.rate))
    body = _TC.pack(0, index, _FIRST_HANDLE, _ROOT, 0) + _name(_KIND, "tbf") + _attribute(_OPTIONS, options)
    return Message("add a token bucket", _RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, body)


def redirect_ingress(index: int, target: int) -> tuple[Message, Message]:
    """Make everything that comes in on a link leave by the link `target`: the qdisc, and its filter."""
    head = _TC.pack(0, index, _INGRESS_HANDLE, _INGRESS, 0)
    qdisc = Message(
        "add an ingress qdisc", _RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, head + _name(_KIND, "ingress")
    )
    mirred = struct.pack("=IIiiiiI", 0, 0, _STOLEN, 0, 0, _EGRESS_REDIRECT, target)
    action = _name(_ACT_KIND, "mirred") + _attribute(_ACT_OPTIONS, _attribute(_MIRRED_PARMS, mirred))
    # One key whose mask is 0: it matches every packet.
    selector = struct.pack("=BBBxHHhhI", _TERMINAL, 0, 1, 0, 0, 0, 0, 0) + bytes(16)
    options = _attribute(_U32_SEL, selector) + _attribute(_U32_ACT, _attribute(1, action))
    info = 1 << 16 | htons(0x0003)  # priority 1, ETH_P_ALL
    body = _TC.pack(0, index, 0, _INGRESS_HANDLE, info) + _name(_KIND, "u32") + _attribute(_OPTIONS, options)
    return qdisc, Message("redirect what comes in", _RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, body)


def remove_egress(index: int) -> Message:
    """Take the root qdisc from a link; that it is gone already is an answer."""
    body = _TC.pack(0, index, _FIRST_HANDLE, _ROOT, 0)
    return Message("remove a token bucket", _RTM_DELQDISC, 0, body, _GONE)


def remove_ingress(index: int) -> Message:
    """Take the ingress qdisc and its filters from a link; that they are gone already is an answer."""
    body = _TC.pack(0, index, _INGRESS_HANDLE, _INGRESS, 0)
    return Message("remove an ingress qdisc", _RTM_DELQDISC, 0, body, _GONE)


def egress(netlink: Netlink, index: int) -> Bucket | None:
    """The token bucket at a link's root, None if there is none. CniError 999."""
    for packet in netlink.dump("list qdiscs", _RTM_GETQDISC, _TC.pack(0, index, 0, 0, 0)):
        _, link, _, parent, _ = _TC.unpack_from(packet, 16)
        found = attributes(packet, _BODY)
        if link != index or parent != _ROOT or text(found, _KIND) != "tbf":
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
    body = _TC.pack(0, index, 0, _INGRESS_HANDLE, 0)
    return bool(netlink.dump("list filters", _RTM_GETTFILTER, body))
