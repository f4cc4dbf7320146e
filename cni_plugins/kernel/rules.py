"""Rules of policy routing: which table decides for which packets (ip-rule(8), linux/fib_rules.h)."""

import errno
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface

from cni_plugins.kernel.netlink.codec import attributes, encode, number, text
from cni_plugins.kernel.netlink.layouts import RULE
from cni_plugins.kernel.netlink.route import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    RTM_DELRULE,
    RTM_GETRULE,
    RTM_NEWRULE,
    Message,
    Netlink,
)
from cni_plugins.kernel.routes import REFUSALS
from cni_plugins.spec.values import IpInterface

_AF_INET, _AF_INET6 = 2, 10
_TO_TABLE = 1
_DST, _SRC, _IIFNAME, _PRIORITY, _MARK, _TABLE, _MASK, _OIFNAME = 1, 2, 3, 6, 10, 15, 16, 17


@dataclass(frozen=True, slots=True)
class Rule:
    """Packets of a family (4, 6) that match everything given here are looked up in `table`. `priority` None
    lets the kernel choose: before all others but the first. `mask` counts with `mark` only. One that
    `refuses` (blackhole, unreachable, prohibit) leads to no table: its packets end there.
    """

    version: int
    table: int
    priority: int | None = None
    source: IpInterface | None = None
    destination: IpInterface | None = None
    incoming: str = ""
    outgoing: str = ""
    mark: int = 0
    mask: int = 0xFFFFFFFF
    refuses: str = ""


def _body(rule: Rule) -> bytes:
    fields = {
        "family": _AF_INET if rule.version == 4 else _AF_INET6,
        "dst_len": rule.destination.network.prefixlen if rule.destination is not None else 0,
        "src_len": rule.source.network.prefixlen if rule.source is not None else 0,
        "table": rule.table if rule.table < 256 else 0,
        "action": _TO_TABLE,
    }
    listed: list[tuple[str, object]] = []
    if rule.destination is not None:
        listed.append(("FRA_DST", str(rule.destination.network.network_address)))
    if rule.source is not None:
        listed.append(("FRA_SRC", str(rule.source.network.network_address)))
    if rule.incoming:
        listed.append(("FRA_IIFNAME", rule.incoming))
    if rule.outgoing:
        listed.append(("FRA_OIFNAME", rule.outgoing))
    if rule.priority is not None:
        listed.append(("FRA_PRIORITY", rule.priority))
    if rule.mark:
        listed += [("FRA_FWMARK", rule.mark), ("FRA_FWMASK", rule.mask)]
    if rule.table >= 256:
        listed.append(("FRA_TABLE", rule.table))
    return encode(RULE, fields, listed)


def add(rule: Rule) -> Message:
    """Add a rule; that the very same is there is an answer."""
    flags = NLM_F_CREATE | NLM_F_EXCL
    return Message(_doing("add", rule), RTM_NEWRULE, flags, _body(rule), frozenset((errno.EEXIST,)))


def delete(rule: Rule) -> Message:
    """Take away the first rule that has all of what is given here; that there is none is an answer."""
    gone = frozenset((errno.ENOENT, errno.ESRCH))
    return Message(_doing("delete", rule), RTM_DELRULE, 0, _body(rule), gone)


def _doing(what: str, rule: Rule) -> str:
    return f"{what} the IPv{rule.version} rule that leads to table {rule.table}"


def every(netlink: Netlink, version: int) -> list[Rule]:
    """The rules of a family that lead to a table, in their order. CniError 999."""
    body = encode(RULE, {"family": _AF_INET if version == 4 else _AF_INET6}, [])
    found = (_parse(packet) for packet in netlink.dump("list rules", RTM_GETRULE, body))
    return [rule for rule in found if rule is not None and not rule.refuses]


def of_all(netlink: Netlink) -> list[Rule]:
    """The rules of both families, those that lead to no table as well. CniError 999."""
    found = []
    for family in (_AF_INET, _AF_INET6):
        packets = netlink.dump("list rules", RTM_GETRULE, encode(RULE, {"family": family}, []))
        found += [rule for rule in map(_parse, packets) if rule is not None]
    return found


def _parse(packet: bytes) -> Rule | None:
    family, dst, src, _, table, action, _ = RULE.header.unpack_from(packet, 16)
    if action not in {_TO_TABLE, *REFUSALS} or family not in {_AF_INET, _AF_INET6}:
        return None
    found = attributes(packet, 16 + RULE.header.size)
    mark = number(found, _MARK)
    return Rule(
        version=4 if family == _AF_INET else 6,
        table=number(found, _TABLE) or table,
        priority=number(found, _PRIORITY),
        source=_network(found.get(_SRC), src),
        destination=_network(found.get(_DST), dst),
        incoming=text(found, _IIFNAME),
        outgoing=text(found, _OIFNAME),
        mark=mark,
        mask=number(found, _MASK) if mark else 0xFFFFFFFF,
        refuses=REFUSALS.get(action, ""),
    )


def _network(raw: bytes | None, length: int) -> IpInterface | None:
    if raw is None:
        return None
    return IPv4Interface((raw, length)) if len(raw) == 4 else IPv6Interface((raw, length))
