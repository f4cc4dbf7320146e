"""Forgetting tracked UDP flows (ctnetlink, in the process).

A flow keeps the translation it started with for as long as packets come. A client that goes on sending to
a UDP port would therefore never meet the container that has just published it, and would keep sending to
one that is gone. TCP needs none of this: its connections end.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from cni_plugins.kernel import sysctl
from cni_plugins.kernel.netlink import netfilter as nfnetlink
from cni_plugins.kernel.netlink.codec import attribute, attributes, encode, nested
from cni_plugins.kernel.netlink.layouts import CONNECTION
from cni_plugins.kernel.netlink.netfilter import Message, Nfnetlink
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.values import Ip

_GET, _DELETE = 1, 2
_TUPLE_ORIG, _TUPLE_REPLY, _ID, _ZONE = 1, 2, 12, 18
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_SOURCES, _TARGETS = (1, 3), (2, 4)  # CTA_IP_V4_SRC, CTA_IP_V6_SRC; CTA_IP_V4_DST, CTA_IP_V6_DST
_PROTO_NUM, _PROTO_SOURCE, _PROTO_TARGET = 1, 2, 3
_FILTER_PROTO_NUM, _FILTER_PROTO_DST_PORT = 1 << 3, 1 << 5
_FEW_PORTS = 8
_UDP = 17
_FAMILIES = {4: nfnetlink.NFPROTO_IPV4, 16: nfnetlink.NFPROTO_IPV6}  # by an address's bytes


@dataclass(frozen=True, slots=True)
class UdpPort:
    """A published UDP port: `host_ip` None is any of the host's addresses of the target's family."""

    host_ip: Ip | None
    host_port: int
    target: Ip
    target_port: int


@dataclass(frozen=True, slots=True)
class _Tuple:
    source: bytes
    target: bytes
    source_port: int
    target_port: int


@dataclass(frozen=True, slots=True)
class _Flow:
    """What the first packet was (`sent`) and what its answer must be (`answer`); they mirror each other
    unless addresses were translated. `name` is how to ask for its deletion.
    """

    family: int
    sent: _Tuple
    answer: _Tuple
    name: bytes


def is_elsewhere(flow: _Flow, port: UdpPort) -> bool:
    """Whether a flow to a published port does not lead to its target.

    A flow whose source is translated and whose target is not is somebody's on the way through this host.
    """
    hidden = (flow.answer.target, flow.answer.target_port) != (flow.sent.source, flow.sent.source_port)
    translated = flow.answer.source != flow.sent.target
    return _is_to(flow, port) and flow.answer.source != port.target.packed and (translated or not hidden)


def is_led_to(flow: _Flow, port: UdpPort) -> bool:
    """Whether a flow to a published port leads to its target."""
    answer = (flow.answer.source, flow.answer.source_port)
    return _is_to(flow, port) and answer == (port.target.packed, port.target_port)


def forget_untranslated(host: Namespace, ports: Sequence[UdpPort]) -> None:
    """Forget flows to newly published ports that do not lead to their target. CniError 999."""
    _forget(host, ports, is_elsewhere)


def forget_translated(host: Namespace, ports: Sequence[UdpPort]) -> None:
    """Forget flows that were led to a target which no longer publishes its ports. CniError 999."""
    _forget(host, ports, is_led_to)


def _forget(host: Namespace, ports: Sequence[UdpPort], stale: Callable[[_Flow, UdpPort], bool]) -> None:
    if not ports or sysctl.read(host, "netfilter/nf_conntrack_count") in {None, "0"}:
        return
    with Nfnetlink(host) as socket:
        listed: dict[int, list[int]] = {}
        for port in ports:
            listed.setdefault(len(port.target.packed), []).append(port.host_port)
        for size in sorted(listed):
            doomed = [
                Message(nfnetlink.SUBSYS_CTNETLINK, _DELETE, 0, flow.family, flow.name)
                for flow in _flows(socket, _FAMILIES[size], listed[size])
                if any(stale(flow, port) for port in ports)
            ]
            socket.request(doomed)


def _is_to(flow: _Flow, port: UdpPort) -> bool:
    return (
        flow.sent.target_port == port.host_port
        and len(flow.sent.target) == len(port.target.packed)
        and (port.host_ip is None or flow.sent.target == port.host_ip.packed)
    )


def _flows(socket: Nfnetlink, family: int, ports: Iterable[int]) -> list[_Flow]:
    """The UDP flows of a family to one of `ports`.

    The kernel picks them, so that a node with 60,000 flows copies and parses a few: by port for a few ports,
    because it goes through the whole table for each. Kernels before 5.8 ignore the filter, so it is applied
    here again.
    """
    wanted = sorted(set(ports))
    found = []
    for port in wanted if len(wanted) <= _FEW_PORTS else (None,):
        question = Message(nfnetlink.SUBSYS_CTNETLINK, _GET, 0, family, selection(port))
        flows = (parse(entry) for entry in socket.dump(question))
        found += [flow for flow in flows if flow is not None and flow.sent.target_port in wanted]
    return found


def selection(port: int | None) -> bytes:
    """What selects UDP flows, to one port or any, for a dump."""
    proto, flags = [("CTA_PROTO_NUM", _UDP)], _FILTER_PROTO_NUM
    if port is not None:
        proto.append(("CTA_PROTO_DST_PORT", port))
        flags |= _FILTER_PROTO_DST_PORT
    original = {"attrs": [("CTA_TUPLE_PROTO", {"attrs": proto})]}
    selected = {"attrs": [("CTA_FILTER_ORIG_FLAGS", flags)]}
    return encode(CONNECTION, {}, [("CTA_TUPLE_ORIG", original), ("CTA_FILTER", selected)])


def parse(entry: bytes) -> _Flow | None:
    """A flow as the kernel lists it; None for anything but UDP."""
    fields = attributes(entry)
    sent, answer = _tuple(fields.get(_TUPLE_ORIG, b"")), _tuple(fields.get(_TUPLE_REPLY, b""))
    if sent is None or answer is None:
        return None
    name = nested(_TUPLE_ORIG, fields[_TUPLE_ORIG])
    name += b"".join(attribute(kind, fields[kind]) for kind in (_ID, _ZONE) if kind in fields)
    return _Flow(_FAMILIES[len(sent.target)], sent, answer, name)


def _tuple(data: bytes) -> _Tuple | None:
    """None for anything but UDP."""
    fields = attributes(data)
    addresses = attributes(fields.get(_TUPLE_IP, b""))
    proto = attributes(fields.get(_TUPLE_PROTO, b""))
    if proto.get(_PROTO_NUM) != bytes((_UDP,)):
        return None
    return _Tuple(
        next((addresses[kind] for kind in _SOURCES if kind in addresses), b""),
        next((addresses[kind] for kind in _TARGETS if kind in addresses), b""),
        int.from_bytes(proto.get(_PROTO_SOURCE, b""), "big"),
        int.from_bytes(proto.get(_PROTO_TARGET, b""), "big"),
    )
