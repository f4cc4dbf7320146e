"""Filters of traffic control that drop, or lead elsewhere, all that passes a link (tc(8)).

One that asks more of packets than their protocol is somebody's wish, and so is a program (bpf): they are
passed over. Sources: linux/pkt_cls.h, linux/pkt_sched.h, linux/tc_act/tc_gact.h, linux/tc_act/tc_mirred.h.
"""

from __future__ import annotations

import struct
from _socket import ntohs
from collections.abc import Mapping
from dataclasses import dataclass

from cni_plugins.kernel.netlink.codec import attributes, encode, text
from cni_plugins.kernel.netlink.layouts import TRAFFIC
from cni_plugins.kernel.netlink.route import RTM_GETQDISC, RTM_GETTFILTER, Netlink

_TC = TRAFFIC.header
_BODY = 16 + _TC.size
_KIND, _OPTIONS = 1, 2
_CLSACT, _INGRESS, _WAY_IN, _WAY_OUT = 0xFFFFFFF1, 0xFFFF0000, 0xFFFFFFF2, 0xFFFFFFF3
#: Where each kind of filter has its actions.
_ACTIONS: Mapping[str, int] = {"matchall": 2, "flower": 3, "u32": 7}
_FLOWER_ANY = frozenset((1, 3, 8, 22, 86))  # class, actions, protocol, flags, counters of hardware
_U32_SELECTOR, _U32_KEYS = 5, 16
_GACT_PARMS = _MIRRED_PARMS = 2
_DROPPED, _REDIRECTED = 2, frozenset((1, 3))  # TC_ACT_SHOT; to a link's way out, and way in
_PROTOCOLS: Mapping[int, str] = {0x0003: "all", 0x0800: "ip", 0x86DD: "ipv6"}


@dataclass(frozen=True, slots=True)
class Ending:
    """A filter on a link's way `in` or `out` that ends what it gets; `target` is the link that it leads
    packets to, 0 where it drops them. `protocol` is all, ip or ipv6.
    """

    index: int
    way: str
    kind: str
    priority: int
    protocol: str
    target: int


def endings(netlink: Netlink, indices: frozenset[int]) -> list[Ending]:
    """Those of these links. CniError 999."""
    found = []
    body = encode(TRAFFIC, {}, [])
    for packet in netlink.dump("list qdiscs", RTM_GETQDISC, body):
        _, index, _, parent, _ = _TC.unpack_from(packet, 16)
        if parent != _CLSACT or index not in indices:
            continue
        clsact = text(attributes(packet, _BODY), _KIND) == "clsact"
        ways = {_WAY_IN: "in", _WAY_OUT: "out"} if clsact else {_INGRESS: "in"}
        for place, way in ways.items():
            question = encode(TRAFFIC, {"index": index, "parent": place}, [])
            filters = netlink.dump("list filters", RTM_GETTFILTER, question)
            found += [end for each in filters if (end := _ending(each, index, way)) is not None]
    return found


def _ending(packet: bytes, index: int, way: str) -> Ending | None:
    info = _TC.unpack_from(packet, 16)[4]
    found = attributes(packet, _BODY)
    kind, protocol = text(found, _KIND), _PROTOCOLS.get(ntohs(info & 0xFFFF))
    options = attributes(found.get(_OPTIONS, b""))
    if kind not in _ACTIONS or protocol is None or not _takes_all(kind, options):
        return None
    for action in attributes(options.get(_ACTIONS[kind], b"")).values():
        target = _target(attributes(action))
        if target is not None:
            return Ending(index, way, kind, info >> 16, protocol, target)
    return None


def _takes_all(kind: str, options: Mapping[int, bytes]) -> bool:
    """Whether it asks nothing of a packet but its protocol."""
    if kind == "flower":
        return options.keys() <= _FLOWER_ANY
    if kind == "u32":
        selector = options.get(_U32_SELECTOR, b"")
        masks = [selector[at : at + 4] for at in range(_U32_KEYS, len(selector), 16)]
        return len(selector) >= _U32_KEYS and not any(map(any, masks))
    return True


def _target(action: Mapping[int, bytes]) -> int | None:
    """Where an action leads packets, 0 for nowhere; None for one that lets them go on."""
    kind, options = text(action, _KIND), attributes(action.get(_OPTIONS, b""))
    if kind == "gact":
        parms = options.get(_GACT_PARMS, b"")
        return 0 if len(parms) >= 12 and struct.unpack_from("=i", parms, 8)[0] == _DROPPED else None
    if kind == "mirred":
        parms = options.get(_MIRRED_PARMS, b"")
        if len(parms) >= 28:
            does, target = struct.unpack_from("=iI", parms, 20)
            return int(target) if does in _REDIRECTED else None
    return None
