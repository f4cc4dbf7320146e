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

from cni_plugins.kernel.netlink.codec import attributes, encode, text
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

_TC = TRAFFIC.header
_BODY = 16 + _TC.size
_ROOT, _INGRESS, _INGRESS_HANDLE, _FIRST_HANDLE = 0xFFFFFFFF, 0xFFFFFFF1, 0xFFFF0000, 0x00010000
_KIND, _OPTIONS = 1, 2
_TBF_PARMS, _TBF_RATE64, _TBF_BURST = 1, 4, 6
_RATESPEC = struct.Struct("=BBHhHI")  # cell_log, linklayer, overhead, cell_align, mpu, rate
_LIMITS = struct.Struct("=III")  # limit, buffer, mtu
_ETHERNET = 1
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


def _bucket_body(index: int, shape: Bucket) -> bytes:
    rate = {"rate": min(shape.rate, _MAX_32), "rate___reserved": _ETHERNET}
    # What tc(8) says of its rate table, though the kernel needs none for Ethernet.
    rate |= {"rate_cell_log": 3, "rate_cell_align": -1}
    parms = rate | {"limit": shape.limit}
    options: list[tuple[str, Any]] = [("TCA_TBF_PARMS", parms), ("TCA_TBF_BURST", shape.burst)]
    if shape.rate > _MAX_32:
        options.append(("TCA_TBF_RATE64", shape.rate))
    listed = [("TCA_KIND", "tbf"), ("TCA_OPTIONS", {"attrs": options})]
    return _qdisc(index, _FIRST_HANDLE, _ROOT, listed)


def limit_egress(index: int, shape: Bucket) -> Message:
    """Give a link a token bucket at its root. CniError EEXIST when it has a qdisc of somebody's there."""
    body = _bucket_body(index, shape)
    return Message("add a token bucket", RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, body)


def change_egress(index: int, shape: Bucket) -> Message:
    """Change the token bucket at a link's root in place: what waits in it is not lost. ENOENT is no answer:
    there must be one.
    """
    return Message("change a token bucket", RTM_NEWQDISC, 0, _bucket_body(index, shape))


def redirect_ingress(index: int, target: int) -> tuple[Message, Message]:
    """Make everything that comes in on a link leave by the link `target`: the qdisc, and its filter."""
    body = _qdisc(index, _INGRESS_HANDLE, _INGRESS, [("TCA_KIND", "ingress")])
    qdisc = Message("add an ingress qdisc", RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, body)
    mirred = {"action": _STOLEN, "eaction": _EGRESS_REDIRECT, "ifindex": target}
    action = [("TCA_ACT_KIND", "mirred"), ("TCA_ACT_OPTIONS", {"attrs": [("TCA_MIRRED_PARMS", mirred)]})]
    options = [
        ("TCA_U32_SEL", {"flags": _TERMINAL, "keys": [EVERY_PACKET]}),
        ("TCA_U32_ACT", {"attrs": [("TCA_ACT_PRIO_1", {"attrs": action})]}),
    ]
    info = 1 << 16 | htons(0x0003)  # priority 1, ETH_P_ALL
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


def egress(netlink: Netlink, index: int) -> Bucket | None:
    """The token bucket at a link's root, None if there is none. CniError 999."""
    for packet in netlink.dump("list qdiscs", RTM_GETQDISC, _qdisc(index, 0, 0)):
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
    body = _qdisc(index, 0, _INGRESS_HANDLE)
    return bool(netlink.dump("list filters", RTM_GETTFILTER, body))
