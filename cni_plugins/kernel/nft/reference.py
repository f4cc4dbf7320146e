"""What the reference plugins leave in nf_tables, found and removed, so that a node changes over in place.

Nothing is read unless their table exists, which a look-up by name tells. They keep a rule per attachment,
told by its comment (masquerade, spoof check: hash or names of the attachment; port maps: the container id
alone).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cni_plugins.kernel.netlink.netfilter import (
    NFPROTO_BRIDGE,
    NFPROTO_INET,
    NFPROTO_IPV4,
    NFPROTO_IPV6,
    Nfnetlink,
)
from cni_plugins.kernel.nft import library, owner
from cni_plugins.kernel.nft.elements import chain_message, exist
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.values import parse_json

_FAMILIES = {NFPROTO_INET: "inet", NFPROTO_IPV4: "ip", NFPROTO_IPV6: "ip6", NFPROTO_BRIDGE: "bridge"}
_MASQUERADE = (NFPROTO_INET, "cni_plugins_masquerade", "masq_checks")
_PORT_CHAINS = tuple(
    (family, "cni_hostport", chain)
    for family in (NFPROTO_IPV4, NFPROTO_IPV6)
    for chain in ("hostports", "hostip_hostports", "masquerading")
)


@dataclass(frozen=True, slots=True)
class _Rule:
    family: int
    table: str
    chain: str
    handle: int
    comment: str


def _rules(host: Namespace, family: int, table: str, chain: str) -> list[_Rule]:
    with Nfnetlink(host) as socket:
        if exist(socket, [chain_message(family, table, chain)]) == [False]:
            return []
    try:
        text = library.run(host, f"list chain {_FAMILIES[family]} {table} {chain}", json=True)
    except library.ScriptError:
        return []
    document: Any = parse_json(text.encode())
    return [
        _Rule(family, table, chain, entry["rule"]["handle"], entry["rule"].get("comment", ""))
        for entry in document["nftables"]
        if "rule" in entry
    ]


def _delete(host: Namespace, rules: Sequence[_Rule]) -> None:
    for rule in rules:
        try:
            library.run(
                host, f"delete rule {_FAMILIES[rule.family]} {rule.table} {rule.chain} handle {rule.handle}"
            )
        except library.ScriptError as error:
            if "No such file" not in str(error):
                raise CniError(
                    Code.INTERNAL, f"cannot remove a rule of the nf_tables table {rule.table}", str(error)
                ) from error


def _matching(host: Namespace, place: tuple[int, str, str], match: Callable[[str], bool]) -> list[_Rule]:
    return [rule for rule in _rules(host, *place) if match(rule.comment)]


def _of(identity: Identity) -> Callable[[str], bool]:
    tag = owner.tag(identity)
    return lambda comment: comment == tag or comment.startswith(f"{tag},")


def has_masquerade(host: Namespace, identity: Identity) -> bool:
    return bool(_matching(host, _MASQUERADE, _of(identity)))


def remove_masquerade(host: Namespace, identity: Identity) -> None:
    """Remove the attachment's rules from `inet cni_plugins_masquerade`. CniError 999."""
    _delete(host, _matching(host, _MASQUERADE, _of(identity)))


def has_ports(host: Namespace, container_id: str) -> bool:
    comment = container_id[:128]
    return any(_matching(host, place, comment.__eq__) for place in _PORT_CHAINS)


def remove_ports(host: Namespace, container_id: str) -> None:
    """Remove the container's rules from `ip cni_hostport` and `ip6 cni_hostport`. CniError 999."""
    comment = container_id[:128]
    for place in _PORT_CHAINS:
        _delete(host, _matching(host, place, comment.__eq__))


def _spoof_chain(identity: Identity) -> str:
    return f"cni-br-iface-{identity.container_id}-{identity.ifname}"


def has_spoof_check(host: Namespace, identity: Identity) -> bool:
    with Nfnetlink(host) as socket:
        return exist(socket, [chain_message(NFPROTO_BRIDGE, "nat", _spoof_chain(identity))]) == [True]


def remove_spoof_check(host: Namespace, identity: Identity) -> None:
    """Remove the attachment's jump and its two chains from `bridge nat`. CniError 999."""
    if not has_spoof_check(host, identity):
        return
    chain = _spoof_chain(identity)
    comment = f"macspoofchk-{identity.container_id}-{identity.ifname}"
    place = (NFPROTO_BRIDGE, "nat", "PREROUTING")
    _delete(host, _matching(host, place, comment.__eq__))
    script = "".join(f"flush chain bridge nat {name}\n" for name in (chain, f"{chain}-mac"))
    script += "".join(f"delete chain bridge nat {name}\n" for name in (chain, f"{chain}-mac"))
    try:
        library.run(host, script)
    except library.ScriptError as error:
        raise CniError(Code.INTERNAL, f"cannot remove the spoof check {chain}", str(error)) from error
