"""Base chains of every table of a namespace, whoever made it: which hooks packets pass, with which policy."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from cni_plugins.kernel.netlink import netfilter as nfnetlink
from cni_plugins.kernel.netlink.codec import attributes
from cni_plugins.kernel.netlink.netfilter import (
    NFPROTO_BRIDGE,
    NFPROTO_INET,
    NFPROTO_IPV4,
    NFPROTO_IPV6,
    Message,
    Nfnetlink,
)

FAMILIES: Mapping[int, str] = {
    NFPROTO_INET: "inet",
    NFPROTO_IPV4: "ip",
    NFPROTO_IPV6: "ip6",
    NFPROTO_BRIDGE: "bridge",
}
PREROUTING, INPUT, FORWARD, OUTPUT, POSTROUTING = 0, 1, 2, 3, 4  # NF_INET_*, NF_BR_*
_GETCHAIN = 4
# linux/netfilter/nf_tables.h: NFTA_CHAIN_*, NFTA_HOOK_*
_TABLE, _NAME, _HOOK, _POLICY, _USE, _TYPE = 1, 3, 4, 5, 6, 7
_HOOKNUM, _PRIORITY = 1, 2
_DROP = 0


@dataclass(frozen=True, slots=True)
class BaseChain:
    family: str
    table: str
    name: str
    hook: int
    priority: int
    drops: bool
    type: str
    use: int = 0  # rules, and those that lead there


def every(namespace: Nfnetlink) -> list[BaseChain]:
    """The base chains of a namespace. CniError 999."""
    return [chain for chain in everything(namespace) if chain.hook >= 0]


def regular(namespace: Nfnetlink, family: str, name: str) -> bool:
    """Whether any table of a family has a chain of that name that is no base chain. CniError 999."""
    return any(chain.family == family and chain.name == name for chain in everything(namespace))


def everything(namespace: Nfnetlink) -> list[BaseChain]:
    """All chains of a namespace; the hook of one that is jumped to is -1. CniError 999."""
    found = []
    for number, family in FAMILIES.items():
        for body in namespace.dump(Message(nfnetlink.SUBSYS_NFTABLES, _GETCHAIN, 0, number, b"")):
            fields = attributes(body)
            hook = attributes(fields.get(_HOOK, b""))
            found.append(
                BaseChain(
                    family,
                    _text(fields, _TABLE),
                    _text(fields, _NAME),
                    _number(hook, _HOOKNUM) if _HOOKNUM in hook else -1,
                    struct.unpack(">i", hook.get(_PRIORITY, bytes(4)))[0],
                    _POLICY in fields and _number(fields, _POLICY) == _DROP,
                    _text(fields, _TYPE),
                    _number(fields, _USE),
                )
            )
    return found


def _text(fields: Mapping[int, bytes], number: int) -> str:
    return fields.get(number, b"").rstrip(b"\0").decode("utf-8", "replace")


def _number(fields: Mapping[int, bytes], number: int) -> int:
    return int.from_bytes(fields.get(number, b""), "big")
