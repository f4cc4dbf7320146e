"""What the rules of others do with the first packet of a flow: at which of them it ends, and whether one
takes it out of connection tracking.

Their chains are walked as the kernel does it, by what nft says of them as JSON. A rule of which not all can
be told beforehand (a named set, a mark, a rate, a port that is not known) may match: what hangs on it is told
as such. A chain of very many rules is not read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

from cni_plugins.kernel.netlink.netfilter import Nfnetlink
from cni_plugins.kernel.nft import base_chains, library
from cni_plugins.kernel.nft.base_chains import BaseChain
from cni_plugins.kernel.nft.elements import TABLE
from cni_plugins.policy.explain import Packet
from cni_plugins.view.rules import Rules

_MOST = 1_000  # rules of a chain
_DEEPEST = 16  # NFT_JUMP_STACK_SIZE
_TRACKING = -200  # NF_IP_PRI_CONNTRACK: whatever comes before that may say notrack
_FAMILIES = {4: ("inet", "ip"), 6: ("inet", "ip6")}
_PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "ipv6-icmp": 58, "icmpv6": 58, "sctp": 132}
_TYPES = {
    "icmp": {"echo-reply": 0, "echo-request": 8, "timestamp-request": 13, "timestamp-reply": 14},
    "icmpv6": {"echo-request": 128, "echo-reply": 129},
}
_SILENT = ("counter", "log", "comment")
_HOOKS = ("prerouting", "input", "forward", "output", "postrouting")


@dataclass(frozen=True, slots=True)
class Flow:
    """A packet, by what it comes in and goes out, "" where that is not known. Ports of 0 are not known."""

    packet: Packet
    iif: str = ""
    oif: str = ""


@dataclass(frozen=True, slots=True)
class Met:
    """A rule that drops the packet (`does`: drop, reject) or leaves it untracked (notrack), `surely` or
    perhaps. A handle of 0 is the chain's policy; or (`unread`) a chain is not read, and may do anything.
    """

    family: str
    table: str
    chain: str
    hook: str
    handle: int
    rule: str
    does: str
    surely: bool

    def __str__(self) -> str:
        where = f"table {self.family} {self.table}, chain {self.chain} ({self.hook})"
        return f"{where}, handle {self.handle}: {self.rule}" if self.handle else f"{where}: {self.rule}"

    def as_json(self) -> dict[str, object]:
        return {
            "family": self.family,
            "table": self.table,
            "chain": self.chain,
            "handle": self.handle,
            "rule": self.rule,
            "does": self.does,
            "surely": self.surely,
        }


@dataclass(slots=True)
class _Walk:
    socket: Nfnetlink
    flow: Flow
    sizes: Mapping[tuple[str, str, str], int]
    texts: Rules | None
    base: BaseChain
    read: dict[tuple[str, str, str], list[dict[str, Any]]]
    met: list[Met] = field(default_factory=list)
    surely: bool = True

    def found(self, chain: str, handle: int, does: str, rule: str = "") -> None:
        base = self.base
        if handle and not rule:
            text = self.texts.text(base.family, base.table, chain, handle) if self.texts else ""
            rule = text.removeprefix("rule ") or does
        hook = _HOOKS[base.hook]
        self.met.append(Met(base.family, base.table, chain, hook, handle, rule, does, self.surely))


def meets(
    socket: Nfnetlink, flow: Flow, hooks: tuple[int, ...], *, bridged: bool, on_host: bool = True
) -> list[Met]:
    """What a namespace's rules of others do with the packet at these hooks, in the order of both. `bridged`:
    the chains of the bridge family see it, and those of IP do not. CniError 999.
    """
    listed = base_chains.everything(socket)
    families = ("bridge",) if bridged else _FAMILIES[flow.packet.version]
    bases = [
        chain
        for chain in listed
        if chain.hook in hooks
        and chain.table != TABLE
        and chain.family in families
        and chain.type == "filter"
    ]
    if not bases:
        return []
    sizes = {(chain.family, chain.table, chain.name): chain.use for chain in listed}
    texts = Rules() if on_host else None
    read: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    found: list[Met] = []
    for base in sorted(bases, key=lambda item: (hooks.index(item.hook), item.priority)):
        walk = _Walk(socket, flow, sizes, texts, base, read)
        ended = _chain(walk, base.name, 0)
        if not ended and base.drops:
            walk.found(base.name, 0, "drop", "policy drop")
        found += walk.met
        if any(item.surely and item.does in ("drop", "reject") for item in walk.met):
            break
    return found


def untracked(met: list[Met]) -> Met | None:
    """What leaves the packet untracked: the surest."""
    listed = [item for item in met if item.does == "notrack"]
    return next((item for item in listed if item.surely), listed[0] if listed else None)


def dropped(met: list[Met]) -> Met | None:
    listed = [item for item in met if item.does in ("drop", "reject", "unread")]
    return next((item for item in listed if item.surely), listed[0] if listed else None)


def _chain(walk: _Walk, name: str, depth: int) -> bool:
    """Whether the packet surely goes no further in this base chain: it was accepted, or dropped."""
    key = (walk.base.family, walk.base.table, name)
    if walk.sizes.get(key, 0) > _MOST or depth > _DEEPEST:
        walk.surely = False
        walk.found(name, 0, "unread", f"{walk.sizes.get(key, 0)} rules, which are not read")
        return False
    if key not in walk.read:
        walk.read[key] = _listed(walk.socket, key)
    for rule in walk.read[key]:
        matches, verdict = _evaluated(rule.get("expr", []), walk.flow)
        if matches is False or verdict is None:
            continue
        before, walk.surely = walk.surely, walk.surely and matches is True
        sure = walk.surely
        word, target = verdict
        if word in ("drop", "reject", "notrack"):
            early = walk.base.priority < _TRACKING and walk.base.hook in (0, 3)
            if word != "notrack" or early:
                walk.found(name, rule["handle"], word)
        ended = word in ("accept", "drop", "reject")
        if word in ("jump", "goto"):
            ended = _chain(walk, target, depth + 1) and sure
        if sure and (ended or word in ("return", "goto")):
            return ended
        # What may have let it pass leaves the rest in doubt; what may have dropped it does not.
        walk.surely = walk.surely if sure else before and word in ("drop", "reject", "notrack")
    return False


def _listed(socket: Nfnetlink, key: tuple[str, str, str]) -> list[dict[str, Any]]:
    try:
        text = library.run(socket.namespace, "list chain " + " ".join(key), json=True)
    except library.ScriptError:
        return []
    return [item["rule"] for item in json.loads(text)["nftables"] if "rule" in item]


def _evaluated(expressions: list[dict[str, Any]], flow: Flow) -> tuple[bool | None, tuple[str, str] | None]:
    """Whether all of a rule matches (None: it may), and its verdict with the chain that it leads to."""
    sure: bool | None = True
    for each in expressions:
        ((name, what),) = each.items()
        if name == "match":
            matches = _match(what, flow)
            if matches is False:
                return False, None
            sure = None if matches is None else sure
        elif name in ("jump", "goto"):
            return sure, (name, what["target"])
        elif name in ("accept", "drop", "reject", "return", "notrack"):
            return sure, (name, "")
        elif name not in _SILENT:
            sure = None
    return sure, None


def _match(what: dict[str, Any], flow: Flow) -> bool | None:
    values = list(_left(what["left"], flow))
    if not values:
        return None
    if values == [None]:  # of another protocol
        return False
    answers = [_within(what["right"], value, what["left"]) for value in values]
    if None in answers:
        return None
    return bool(any(answers) != (what["op"] == "!="))


def _left(left: Any, flow: Flow) -> Iterator[Any]:
    """The values of a field, none where they are not known, None where the packet has no such field."""
    packet = flow.packet
    if not isinstance(left, dict):
        return
    kind, what = next(iter(left.items()))
    if kind == "payload" and "field" in what:
        yield from _payload(what["protocol"], what["field"], packet)
    elif kind == "meta":
        known = {
            "l4proto": packet.protocol,
            "nfproto": f"ipv{packet.version}",
            "protocol": "ip" if packet.version == 4 else "ip6",
            "iifname": flow.iif,
            "oifname": flow.oif,
        }
        value = known.get(what["key"], "")
        if value != "":
            yield value
    elif kind == "ct" and what.get("key") == "state":
        yield "new"


def _payload(protocol: str, name: str, packet: Packet) -> Iterator[Any]:
    if protocol in ("ip", "ip6"):
        if packet.version != (4 if protocol == "ip" else 6):
            yield None
        elif name in ("saddr", "daddr"):
            yield packet.source if name == "saddr" else packet.target
        elif name in ("protocol", "nexthdr"):
            yield packet.protocol
    elif protocol in ("icmp", "icmpv6"):
        if packet.protocol != _PROTOCOLS[protocol]:
            yield None
        elif name == "type":
            yield packet.port
    elif protocol in ("tcp", "udp", "sctp", "th"):
        if protocol != "th" and packet.protocol != _PROTOCOLS[protocol]:
            yield None
        elif name in ("sport", "dport"):
            port = packet.port if name == "dport" else packet.from_port
            if port:
                yield port


def _within(right: Any, value: Any, left: dict[str, Any]) -> bool | None:
    """Whether a value is what a rule compares with; None where that says nothing."""
    if isinstance(right, dict):
        return _among(*next(iter(right.items())), value, left)
    if isinstance(right, list):
        return _among("set", right, value, left)
    plain = _plain(right, value, left)
    if isinstance(plain, str) and plain.endswith("*"):
        return bool(str(value).startswith(plain[:-1]))
    return None if plain is None else bool(plain == value)


def _among(kind: str, what: Any, value: Any, left: dict[str, Any]) -> bool | None:
    if kind == "set":
        answers = [_within(item, value, left) for item in what]
        return True if True in answers else None if None in answers else False
    if kind == "elem":
        return _within(what["val"], value, left)
    if kind == "prefix":
        network = ip_network(f"{what['addr']}/{what['len']}", strict=False)
        return network.version == value.version and value in network
    if kind == "range":
        low, high = (_plain(item, value, left) for item in what)
        return None if low is None or high is None else bool(low <= value <= high)
    return None


def _plain(item: Any, value: Any, left: dict[str, Any]) -> Any:
    """A constant as what it is compared with; None when it says nothing."""
    if isinstance(value, int) and isinstance(item, str):
        protocol = left.get("payload", {}).get("protocol", "")
        return _TYPES.get(protocol, {}).get(item, _PROTOCOLS.get(item))
    if isinstance(item, str) and not isinstance(value, str):
        try:
            return ip_address(item)
        except ValueError:
            return None
    return None if isinstance(item, str) and item.startswith("@") else item
