"""Flows that connection tracking knows, as the forward hook saw their first packet (ctnetlink).

Where addresses are translated that is the sender as it came and the receiver as it answers. Source:
linux/netfilter/nfnetlink_conntrack.h.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from cni_plugins.kernel.netlink import netfilter as nfnetlink
from cni_plugins.kernel.netlink.codec import attributes
from cni_plugins.kernel.netlink.netfilter import Message, Nfnetlink
from cni_plugins.spec.values import Ip

_GET = 1
_ORIGINAL, _REPLY, _IP, _PROTO = 1, 2, 1, 2
_SOURCES = (1, 3)
_NUMBER, _SOURCE_PORT, _ICMP_TYPE, _ICMP6_TYPE = 1, 2, 5, 8


@dataclass(frozen=True, slots=True)
class Flow:
    """`port` is the receiver's, or the ICMP type of the first packet; 0 for what has neither."""

    source: Ip
    target: Ip
    protocol: int
    port: int


def flows(socket: Nfnetlink) -> Iterator[Flow]:
    """Every flow of the namespace. CniError 999."""
    for family in (nfnetlink.NFPROTO_IPV4, nfnetlink.NFPROTO_IPV6):
        for body in socket.dump(Message(nfnetlink.SUBSYS_CTNETLINK, _GET, 0, family, b"")):
            flow = _flow(attributes(body))
            if flow is not None:
                yield flow


def _flow(fields: dict[int, bytes]) -> Flow | None:
    sent, answer = (attributes(fields.get(side, b"")) for side in (_ORIGINAL, _REPLY))
    source, target = (_source(attributes(side.get(_IP, b""))) for side in (sent, answer))
    if source is None or target is None:
        return None
    first, back = (attributes(side.get(_PROTO, b"")) for side in (sent, answer))
    kind = first.get(_ICMP_TYPE, first.get(_ICMP6_TYPE))
    port = kind if kind is not None else back.get(_SOURCE_PORT, b"")
    return Flow(source, target, int.from_bytes(first.get(_NUMBER, b""), "big"), int.from_bytes(port, "big"))


def _source(fields: dict[int, bytes]) -> Ip | None:
    found = next((fields[number] for number in _SOURCES if number in fields), None)
    return None if found is None else ip_address(found)
