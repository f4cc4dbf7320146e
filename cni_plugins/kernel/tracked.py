"""Flows that connection tracking knows, as the forward hook saw their first packet (ctnetlink).

Where addresses are translated that is the sender as it came and the receiver as it answers. Source:
linux/netfilter/nfnetlink_conntrack.h, nf_conntrack_tcp.h.
"""

import re
import struct
from collections.abc import Callable, Collection, Iterator
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
_TCP, _UDP = 6, 17
_CLIENTS = 32768  # from there on the kernel gives ports to those who ask for none
#: CTA_PROTOINFO_TCP_FLAGS_ORIGINAL with IP_CT_TCP_FLAG_BE_LIBERAL: its beginning was not seen.
_LIBERAL = re.compile(
    struct.pack("=HH", 6, 4) + b"[" + b"".join(b"\\x%02x" % each for each in range(256) if each & 8) + b"]"
)
_OF_UDP = struct.pack("=HHB3x", 5, _NUMBER, _UDP)


@dataclass(frozen=True, slots=True)
class Flow:
    """`port` is the receiver's, or the ICMP type of the first packet; 0 for what has neither. `own_port` is
    the sender's, 0 for what has none.
    """

    source: Ip
    target: Ip
    protocol: int
    port: int
    own_port: int = 0


def flows(socket: Nfnetlink) -> Iterator[Flow]:
    """Every flow of the namespace. CniError 999."""
    return _meant(socket, lambda _: True)


def unsure(socket: Nfnetlink) -> Iterator[Flow]:
    """Flows that the other end may have opened, before they were tracked: of TCP those whose beginning was
    not seen, of UDP those from a port such as servers have to one such as clients are given. CniError 999.
    """
    found = _meant(socket, lambda body: bool(_LIBERAL.search(body)) or _goes_to_a_client(body))
    return (flow for flow in found if _may_be_turned(flow))


def of(socket: Nfnetlink, addresses: Collection[Ip]) -> Iterator[Flow]:
    """The flows of which one of these is an end. CniError 999."""
    packed = re.compile(b"|".join(re.escape(each.packed) for each in addresses), re.DOTALL)
    found = _meant(socket, lambda body: bool(packed.search(body)))
    return (flow for flow in found if flow.source in addresses or flow.target in addresses)


def _meant(socket: Nfnetlink, is_meant: Callable[[bytes], bool]) -> Iterator[Flow]:
    """There may be many, and hardly any is meant: the bytes tell, before they are taken apart."""
    for family in (nfnetlink.NFPROTO_IPV4, nfnetlink.NFPROTO_IPV6):
        for body in socket.dump(Message(nfnetlink.SUBSYS_CTNETLINK, _GET, 0, family, b"")):
            flow = _flow(attributes(body)) if is_meant(body) else None
            if flow is not None:
                yield flow


def _goes_to_a_client(body: bytes) -> bool:
    """Of UDP, by the first byte of each port of the first packet's."""
    at = body.find(_OF_UDP)
    return at >= 0 and body[at + 12 : at + 13] < b"\x80" <= body[at + 20 : at + 21]


def _may_be_turned(flow: Flow) -> bool:
    if flow.protocol == _TCP:
        return flow.own_port < _CLIENTS or flow.port >= _CLIENTS
    return flow.protocol == _UDP and flow.own_port < _CLIENTS <= flow.port


def _flow(fields: dict[int, bytes]) -> Flow | None:
    sent, answer = (attributes(fields.get(side, b"")) for side in (_ORIGINAL, _REPLY))
    source, target = (_source(attributes(side.get(_IP, b""))) for side in (sent, answer))
    if source is None or target is None:
        return None
    first, back = (attributes(side.get(_PROTO, b"")) for side in (sent, answer))
    kind = first.get(_ICMP_TYPE, first.get(_ICMP6_TYPE))
    port = kind if kind is not None else back.get(_SOURCE_PORT, b"")
    own = first.get(_SOURCE_PORT, b"")
    return Flow(
        source, target, *(int.from_bytes(each, "big") for each in (first.get(_NUMBER, b""), port, own))
    )


def _source(fields: dict[int, bytes]) -> Ip | None:
    found = next((fields[number] for number in _SOURCES if number in fields), None)
    return None if found is None else ip_address(found)
