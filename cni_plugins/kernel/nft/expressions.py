"""The expressions that rules are made of, as the kernel takes them: what nft's compiler makes of its
language, without the compiler, for rules whose shape is known beforehand.

Only what nft itself would write belongs here, so that `nft list ruleset` reads it back as text that nft takes
(kernel/tests/test_profile_rules.py compares the bytes with the compiler's). Sources:
linux/netfilter/nf_tables.h, `nft --debug=netlink`.
"""

import sys
from functools import lru_cache

from cni_plugins.kernel.netlink.codec import attribute, nested, string

ACCEPT, RETURN = 1, -5  # linux/netfilter.h, linux/netfilter/nf_tables.h: verdict codes
_GOTO = -4
_NETWORK, _TRANSPORT = 1, 2  # where a payload is counted from
_META_PROTOCOL, _META_NFPROTO, _META_L4PROTO = 1, 15, 16
_CT_STATE, _CT_DIRECTION = 0, 1
_CT_SOURCE = {4: 19, 6: 21}
_FAMILIES, _ICMP = {4: 2, 6: 10}, {4: 1, 6: 58}
_ETHER_TYPES = {4: b"\x08\x00", 6: b"\x86\xdd"}
_ADDRESSES = {4: (4, {"saddr": 12, "daddr": 16}), 6: (16, {"saddr": 8, "daddr": 24})}
_PORTS = {"sport": 0, "dport": 2}
_UNTRACKED = (1 << 6).to_bytes(4, sys.byteorder)  # NF_CT_STATE_UNTRACKED_BIT

#: Registers as nft numbers them: 1 is the first, 16 bytes long or 4; 9 is the second group of four bytes, …
_FIRST, _SECOND, _THIRD = 1, 9, 10
_AFTER_IPV6, _LAST_IPV6 = 2, 13


def _word(kind: int, value: int) -> bytes:
    return attribute(kind, (value & 0xFFFFFFFF).to_bytes(4, "big"))


def _long(kind: int, value: int) -> bytes:
    return attribute(kind, value.to_bytes(8, "big"))


def _expression(name: str, *data: bytes) -> bytes:
    return nested(1, string(1, name), nested(2, *data))


def _compare(value: bytes, *, inverted: bool = False) -> bytes:
    return _expression("cmp", _word(1, _FIRST), _word(2, int(inverted)), nested(3, attribute(1, value)))


def _meta(key: int, register: int = _FIRST) -> bytes:
    return _expression("meta", _word(2, key), _word(1, register))


def _payload(base: int, offset: int, size: int, register: int) -> bytes:
    return _expression("payload", _word(1, register), _word(2, base), _word(3, offset), _word(4, size))


def _address(version: int, side: str) -> bytes:
    size, offsets = _ADDRESSES[version]
    return _payload(_NETWORK, offsets[side], size, _FIRST)


@lru_cache(4)
def direction(way: str) -> bytes:
    """`ct direction WAY`"""
    load = _expression("ct", _word(1, _FIRST), _word(2, _CT_DIRECTION))
    return load + _compare(b"\0" if way == "original" else b"\1")


def untracked() -> bytes:
    """`ct state untracked`"""
    load = _expression("ct", _word(1, _FIRST), _word(2, _CT_STATE))
    mask = (nested(4, attribute(1, _UNTRACKED)), nested(5, attribute(1, bytes(4))))
    return (
        load
        + _expression("bitwise", _word(1, _FIRST), _word(2, _FIRST), _word(3, 4), _word(6, 0), *mask)
        + _compare(bytes(4), inverted=True)
    )


@lru_cache(4)
def family(version: int, *, bridged: bool = False) -> bytes:
    """What nft puts before whatever is of one family, in a table of both; `bridged`: of the bridge family."""
    if bridged:
        return _meta(_META_PROTOCOL) + _compare(_ETHER_TYPES[version])
    return _meta(_META_NFPROTO) + _compare(bytes((_FAMILIES[version],)))


@lru_cache(8)
def end(version: int, way: str, *, protocol: bool = False) -> bytes:
    """`ct WAY ip saddr`, with the protocol after it if so: who opened the flow (original), or its other end
    after all translation (reply), whichever of them the packet is from.
    """
    direction_of = attribute(3, b"\0" if way == "original" else b"\1")
    made = _expression("ct", _word(1, _FIRST), _word(2, _CT_SOURCE[version]), direction_of)
    return made + _meta(_META_L4PROTO, _SECOND if version == 4 else _AFTER_IPV6) if protocol else made


@lru_cache(2)
def _is_icmp(version: int) -> bytes:
    return _meta(_META_L4PROTO) + _compare(bytes((_ICMP[version],)))


@lru_cache(32)
def peer(version: int, side: str, then: str = "", *, port: str = "") -> bytes:
    """`ip SIDE`, concatenated with `then`: "", "protocol", "ports" (protocol and `port`) or "icmp" (type)."""
    second, third = (_SECOND, _THIRD) if version == 4 else (_AFTER_IPV6, _LAST_IPV6)
    made = _is_icmp(version) if then == "icmp" else b""
    made += _address(version, side)
    if then == "icmp":
        return made + _payload(_TRANSPORT, 0, 1, second)
    if then == "protocol":
        made += _meta(_META_L4PROTO, second)
    if then == "ports":
        made += _meta(_META_L4PROTO, second) + _payload(_TRANSPORT, _PORTS[port], 2, third)
    return made


def ports(port: str = "dport") -> bytes:
    """`meta l4proto . th PORT`"""
    return _meta(_META_L4PROTO) + _payload(_TRANSPORT, _PORTS[port], 2, _SECOND)


def icmp_type(version: int) -> bytes:
    """`icmp type`, `icmpv6 type`"""
    return family(version) + _is_icmp(version) + _payload(_TRANSPORT, 0, 1, _FIRST)


def look_up(set_name: str, *, inverted: bool = False) -> bytes:
    """`@SET`, or `!= @SET`"""
    return _expression("lookup", string(1, set_name), _word(2, _FIRST), _word(5, int(inverted)))


def verdict(code: int) -> bytes:
    return _verdict(_word(1, code))


def goto(chain: str) -> bytes:
    return _verdict(_word(1, _GOTO) + string(2, chain))


def _verdict(data: bytes) -> bytes:
    return _expression("immediate", _word(1, 0), nested(2, nested(2, data)))


def limited_log(prefix: str, group: int, rate: int, burst: int) -> bytes:
    """`limit rate RATE/second burst BURST packets log prefix PREFIX group GROUP`"""
    limit = (_long(1, rate), _long(2, 1), _word(3, burst), _word(4, 0), _word(5, 0))
    log = (string(2, prefix), attribute(1, group.to_bytes(2, "big")))
    return _expression("limit", *limit) + _expression("log", *log)


def counter() -> bytes:
    return _expression("counter", _long(1, 0), _long(2, 0))
