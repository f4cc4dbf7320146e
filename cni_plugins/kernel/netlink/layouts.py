"""The tables of the messages that the plugins make: headers, attributes by name, how values are packed.

Names are the kernel's. Numbers are those of linux/if_link.h, if_addr.h, rtnetlink.h, fib_rules.h,
neighbour.h, pkt_sched.h, pkt_cls.h, if_bridge.h and netfilter/nfnetlink_conntrack.h.
"""

import struct
from _socket import AF_INET, AF_INET6, inet_pton
from collections.abc import Callable, Mapping
from typing import Any

from cni_plugins.kernel.netlink.codec import Layout, Table, Unknown, load, pack

_NESTED = 0x8000
_8, _16, _32, _64 = (struct.Struct(f"={letter}").pack for letter in "BHIQ")
_BE16 = struct.Struct(">H").pack


def _text(value: str) -> bytes:
    return value.encode() + b"\0"


def _mac(value: str) -> bytes:
    return bytes.fromhex(value.replace(":", ""))


def _ip(value: str) -> bytes:
    return inet_pton(AF_INET6 if ":" in value else AF_INET, value)


def _raw(value: bytes) -> bytes:
    return value


def _attrs(table: Table) -> Callable[[Mapping[str, Any]], bytes]:
    return lambda value: pack(table, value["attrs"])


def _fields(layout: str, *names: str) -> Callable[[Mapping[str, Any]], bytes]:
    """A structure; what is not given is 0."""
    packing = struct.Struct(layout).pack
    return lambda value: packing(*(value.get(name, 0) for name in names))


def _word(words: Mapping[str, int], packing: Callable[[int], bytes]) -> Callable[[str | int], bytes]:
    """A number, or the word for it."""
    return lambda value: packing(words[value] if isinstance(value, str) else value)


def _info(value: Mapping[str, Any]) -> bytes:
    """IFLA_LINKINFO: what its data means depends on the kind."""
    listed = list(value["attrs"])
    named = dict(listed)
    kind, slave = named.get("IFLA_INFO_KIND", ""), named.get("IFLA_INFO_SLAVE_KIND", "")
    table: Table = {
        "IFLA_INFO_KIND": (1, _text),
        "IFLA_INFO_DATA": (2, _attrs(_KINDS.get(kind, {}))),
        "IFLA_INFO_SLAVE_KIND": (4, _text),
        "IFLA_INFO_SLAVE_DATA": (5, _attrs(_SLAVES.get(slave, {}))),
    }
    return pack(table, listed)


def _peer(value: Mapping[str, Any]) -> bytes:
    return LINK.header.pack(0, 0, 0, 0, 0) + pack(LINK.table, value["attrs"])


_MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8, "source": 16}
_KINDS: Mapping[str, Table] = {
    "bridge": {
        "IFLA_BR_FORWARD_DELAY": (1, _32),
        "IFLA_BR_AGEING_TIME": (4, _32),
        "IFLA_BR_STP_STATE": (5, _32),
        "IFLA_BR_VLAN_FILTERING": (7, _8),
        "IFLA_BR_VLAN_PROTOCOL": (8, _BE16),
        "IFLA_BR_MCAST_SNOOPING": (23, _8),
        "IFLA_BR_NF_CALL_IPTABLES": (36, _8),
        "IFLA_BR_NF_CALL_IP6TABLES": (37, _8),
        "IFLA_BR_VLAN_DEFAULT_PVID": (39, _16),
    },
    "ipvlan": {"IFLA_IPVLAN_MODE": (1, _16), "IFLA_IPVLAN_FLAGS": (2, _16)},
    "macvlan": {
        "IFLA_MACVLAN_MODE": (1, _word(_MACVLAN_MODES, _32)),
        "IFLA_MACVLAN_BC_QUEUE_LEN": (7, _32),
    },
    "veth": {"VETH_INFO_PEER": (1, _peer)},
    "vlan": {
        "IFLA_VLAN_ID": (1, _16),
        "IFLA_VLAN_FLAGS": (2, _fields("=II", "flags", "mask")),
        "IFLA_VLAN_PROTOCOL": (5, _BE16),
    },
    "vrf": {"IFLA_VRF_TABLE": (1, _32)},
}
_SLAVES: Mapping[str, Table] = {
    "bridge": {
        "IFLA_BRPORT_MODE": (4, _8),
        "IFLA_BRPORT_GUARD": (5, _8),
        "IFLA_BRPORT_PROTECT": (6, _8),
        "IFLA_BRPORT_FAST_LEAVE": (7, _8),
        "IFLA_BRPORT_LEARNING": (8, _8),
        "IFLA_BRPORT_UNICAST_FLOOD": (9, _8),
        "IFLA_BRPORT_MCAST_FLOOD": (27, _8),
        "IFLA_BRPORT_BCAST_FLOOD": (30, _8),
        "IFLA_BRPORT_NEIGH_SUPPRESS": (32, _8),
        "IFLA_BRPORT_ISOLATED": (33, _8),
        "IFLA_BRPORT_LOCKED": (39, _8),
    }
}
_AF_SPEC: Table = {
    "IFLA_BRIDGE_FLAGS": (0, _16),
    "IFLA_BRIDGE_MODE": (1, _16),
    "IFLA_BRIDGE_VLAN_INFO": (2, _fields("=HH", "flags", "vid")),
}

LINK = Layout(
    "netlink.rtnl.ifinfmsg",
    "ifinfmsg",
    struct.Struct("=BxHiII"),
    ("family", "ifi_type", "index", "flags", "change"),
    {
        "IFLA_ADDRESS": (1, _mac),
        "IFLA_IFNAME": (3, _text),
        "IFLA_MTU": (4, _32),
        "IFLA_LINK": (5, _32),
        "IFLA_MASTER": (10, _32),
        "IFLA_TXQLEN": (13, _32),
        "IFLA_LINKINFO": (18, _info),
        "IFLA_NET_NS_PID": (19, _32),
        "IFLA_IFALIAS": (20, _text),
        "IFLA_AF_SPEC": (26, _attrs(_AF_SPEC)),
        "IFLA_GROUP": (27, _32),
        "IFLA_NET_NS_FD": (28, _32),
        "IFLA_EXT_MASK": (29, _32),
    },
)
ADDRESS = Layout(
    "netlink.rtnl.ifaddrmsg",
    "ifaddrmsg",
    struct.Struct("=BBBBI"),
    ("family", "prefixlen", "flags", "scope", "index"),
    {
        "IFA_ADDRESS": (1, _ip),
        "IFA_LOCAL": (2, _ip),
        "IFA_BROADCAST": (4, _ip),
        "IFA_CACHEINFO": (6, _fields("=IIII", "ifa_preferred", "ifa_valid", "cstamp", "tstamp")),
        "IFA_FLAGS": (8, _32),
    },
)
ROUTE = Layout(
    "netlink.rtnl.rtmsg",
    "rtmsg",
    struct.Struct("=BBBBBBBBI"),
    ("family", "dst_len", "src_len", "tos", "table", "proto", "scope", "type", "flags"),
    {
        "RTA_DST": (1, _ip),
        "RTA_OIF": (4, _32),
        "RTA_GATEWAY": (5, _ip),
        "RTA_PRIORITY": (6, _32),
        "RTA_PREFSRC": (7, _ip),
        "RTA_METRICS": (8, _attrs({"RTAX_MTU": (2, _32), "RTAX_ADVMSS": (8, _32)})),
        "RTA_TABLE": (15, _32),
        "RTA_EXPIRES": (23, _32),
    },
)
RULE = Layout(
    "netlink.rtnl.fibmsg",
    "fibmsg",
    struct.Struct("=BBBBBxxBI"),
    ("family", "dst_len", "src_len", "tos", "table", "action", "flags"),
    {
        "FRA_DST": (1, _ip),
        "FRA_SRC": (2, _ip),
        "FRA_IIFNAME": (3, _text),
        "FRA_PRIORITY": (6, _32),
        "FRA_FWMARK": (10, _32),
        "FRA_TABLE": (15, _32),
        "FRA_FWMASK": (16, _32),
        "FRA_OIFNAME": (17, _text),
        "FRA_PROTOCOL": (21, _8),
    },
)
NEIGHBOUR = Layout(
    "netlink.rtnl.ndmsg",
    "ndmsg",
    struct.Struct("=BxxxiHBB"),
    ("family", "ifindex", "state", "flags", "ndm_type"),
    {
        "NDA_DST": (1, _ip),
        "NDA_LLADDR": (2, _mac),
        "NDA_VLAN": (5, _16),
        "NDA_IFINDEX": (8, _32),
        "NDA_MASTER": (9, _32),
    },
)

_RATE = "_cell_log", "___reserved", "_overhead", "_cell_align", "_mpu", ""
_TBF: Table = {
    "TCA_TBF_PARMS": (
        1,
        _fields(
            "=BBHhHIBBHhHIIII",
            *(f"rate{name}" for name in _RATE),
            *(f"peak{name}" for name in _RATE),
            *("limit", "buffer", "mtu"),
        ),
    ),
    "TCA_TBF_RATE64": (4, _64),
    "TCA_TBF_BURST": (6, _32),
}
_MIRRED = "index", "capab", "action", "refcnt", "bindcnt", "eaction", "ifindex"
_ACTION: Table = {
    "TCA_ACT_KIND": (1, _text),
    "TCA_ACT_OPTIONS": (2 | _NESTED, _attrs({"TCA_MIRRED_PARMS": (2, _fields("=IIiiiiI", *_MIRRED))})),
}


def _selector(value: Mapping[str, Any]) -> bytes:
    """TCA_U32_SEL with the one key whose mask is 0: it matches every packet."""
    if list(value["keys"]) != [EVERY_PACKET]:
        raise Unknown("TCA_U32_SEL")
    return struct.pack("=BBBxHHhhI", value["flags"], 0, 1, 0, 0, 0, 0, 0) + bytes(16)


EVERY_PACKET = "0x0/0x0+0"
_U32: Table = {
    "TCA_U32_SEL": (5, _selector),
    "TCA_U32_ACT": (7, _attrs({"TCA_ACT_PRIO_1": (1, _attrs(_ACTION))})),
}
_TC_OPTIONS: Table = {**_TBF, **_U32}
TRAFFIC = Layout(
    "netlink.rtnl.tcmsg",
    "tcmsg",
    struct.Struct("=BxxxiIII"),
    ("family", "index", "handle", "parent", "info"),
    {"TCA_KIND": (1, _text), "TCA_OPTIONS": (2, _attrs(_TC_OPTIONS))},
)

_TUPLE: Table = {
    "CTA_TUPLE_IP": (
        1,
        _attrs(
            {
                f"CTA_IP_V{v}_{way}": (n, _ip)
                for n, (v, way) in enumerate(((4, "SRC"), (4, "DST"), (6, "SRC"), (6, "DST")), 1)
            }
        ),
    ),
    "CTA_TUPLE_PROTO": (
        2,
        _attrs(
            {"CTA_PROTO_NUM": (1, _8), "CTA_PROTO_SRC_PORT": (2, _BE16), "CTA_PROTO_DST_PORT": (3, _BE16)}
        ),
    ),
}
# nfgenmsg, which is its header, is the business of the socket (netfilter.py).
CONNECTION = Layout(
    "netlink.nfnetlink.nfctsocket",
    "nfct_msg",
    struct.Struct(""),
    (),
    {
        "CTA_TUPLE_ORIG": (1, _attrs(_TUPLE)),
        "CTA_ID": (12, _raw),
        "CTA_ZONE": (18, _raw),
        "CTA_FILTER": (25 | _NESTED, _attrs({"CTA_FILTER_ORIG_FLAGS": (1, _32)})),
    },
)


def load_fallbacks() -> None:
    """Import pyroute2's classes for the messages of links, addresses and routes, which may get an attribute
    that no table holds, in a process that may not find them later.
    """
    load(LINK, ADDRESS, ROUTE)
