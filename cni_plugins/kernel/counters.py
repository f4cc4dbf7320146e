"""What links have carried since they were made (linux/if_link.h, struct rtnl_link_stats64)."""

import errno
import struct
from dataclasses import dataclass

from cni_plugins.kernel.netlink.codec import attributes, encode
from cni_plugins.kernel.netlink.layouts import LINK
from cni_plugins.kernel.netlink.route import RTM_GETLINK, Message, Netlink

_STATS64 = 23
_FIELDS = struct.Struct("=8Q")


@dataclass(frozen=True, slots=True)
class Counters:
    """Packets, bytes, errors and drops, as the link itself receives and sends."""

    received_packets: int
    sent_packets: int
    received_bytes: int
    sent_bytes: int
    received_errors: int
    sent_errors: int
    received_dropped: int
    sent_dropped: int


def every(netlink: Netlink) -> dict[int, Counters]:
    """The counters of each link, by index. CniError 999."""
    body = encode(LINK, {}, [])
    found = {}
    for packet in netlink.dump("list counters", RTM_GETLINK, body):
        carried = _parse(packet)
        if carried is not None:
            found[struct.unpack_from("=i", packet, 20)[0]] = carried
    return found


def of_link(netlink: Netlink, index: int) -> Counters | None:
    """The counters of one link, None when it is gone. CniError 999."""
    body = encode(LINK, {"index": index}, [])
    (answer,) = netlink.request(Message("read counters", RTM_GETLINK, 0, body, frozenset((errno.ENODEV,))))
    return _parse(answer.packet) if answer.packet else None


def _parse(packet: bytes) -> Counters | None:
    raw = attributes(packet, 16 + LINK.header.size, (_STATS64,)).get(_STATS64, b"")
    return Counters(*_FIELDS.unpack_from(raw)) if len(raw) >= _FIELDS.size else None
