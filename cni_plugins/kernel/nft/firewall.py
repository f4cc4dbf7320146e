"""The firewall's part of our tables.

In `inet mesokit`: the addresses that may forward, the interfaces whose containers are kept from those of
others (`fenced`), and which of them talk among themselves (`neighbours`). In `bridge mesokit`: the bridge
ports that exchange no frames with one another (`closed`).
"""

from collections.abc import Sequence

from cni_plugins.kernel.netlink.netfilter import NFPROTO_BRIDGE, NFPROTO_INET, Nfnetlink
from cni_plugins.kernel.nft import elements, owner, sections
from cni_plugins.kernel.nft.elements import Element
from cni_plugins.kernel.nft.placing import place
from cni_plugins.kernel.nft.sections import Chain, Section
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.values import Ip

ADMITTED = ("admitted4", "admitted6")
CLOSED = ("closed",)

FORWARD = Section(
    family=NFPROTO_INET,
    version="firewall_1",
    sets=(
        "set admitted4 { type ipv4_addr ; }",
        "set admitted6 { type ipv6_addr ; }",
        "set fenced { type ifname ; }",
        "set neighbours { type ifname . ifname ; }",
    ),
    chains=(
        Chain(
            "firewall",
            (
                "iifname @fenced oifname @fenced iifname . oifname != @neighbours drop",
                "ip saddr @admitted4 accept",
                "ip6 saddr @admitted6 accept",
                "ct state established,related ip daddr @admitted4 accept",
                "ct state established,related ip6 daddr @admitted6 accept",
            ),
            "type filter hook forward priority filter",
        ),
    ),
)
PORTS = Section(
    family=NFPROTO_BRIDGE,
    version="closed_1",
    sets=("set closed { type ifname ; }",),
    chains=(
        Chain(
            "closed_ports",
            ("iifname @closed oifname @closed drop",),
            "type filter hook forward priority filter",
        ),
    ),
)


def _admitted(identity: Identity, addresses: Sequence[Ip]) -> list[Element]:
    comment = owner.comment(identity)
    return [
        Element(NFPROTO_INET, f"admitted{ip.version}", elements.key(elements.address(ip)), comment=comment)
        for ip in addresses
    ]


def _fence(interface: str, *, closed: bool) -> list[Element]:
    name = elements.interface(interface)
    found = [Element(NFPROTO_INET, "fenced", elements.key(name), comment="ingressPolicy")]
    if not closed:
        found.append(Element(NFPROTO_INET, "neighbours", elements.key(name, name), comment="ingressPolicy"))
    return found


def _closed(identity: Identity, port: str) -> list[Element]:
    return [
        Element(
            NFPROTO_BRIDGE,
            "closed",
            elements.key(elements.interface(port)),
            comment=owner.comment(identity),
        )
    ]


def admit(host: Namespace, identity: Identity, addresses: Sequence[Ip]) -> None:
    """Let `addresses` forward. CniError 999."""
    _add(host, FORWARD, _admitted(identity, addresses))


def withdraw(host: Namespace, identity: Identity, addresses: Sequence[Ip]) -> None:
    """Undo `admit`; what is another attachment's by now is left alone. CniError 999."""
    _remove(host, _admitted(identity, addresses))


def admitted(host: Namespace, identity: Identity, addresses: Sequence[Ip]) -> bool:
    return _present(host, FORWARD, _admitted(identity, addresses))


def fence(host: Namespace, interface: str, *, closed: bool) -> None:
    """Drop what goes from `interface` to another fenced one, with `closed` to itself too. CniError 999."""
    _add(host, FORWARD, _fence(interface, closed=closed))


def unfence(host: Namespace, interface: str, *, closed: bool, fenced_still: bool) -> None:
    """Undo `fence`; `fenced_still`: others count on the interface being fenced. CniError 999."""
    _remove(
        host, [item for item in _fence(interface, closed=closed) if item.set != "fenced" or not fenced_still]
    )


def fenced(host: Namespace, interface: str, *, closed: bool) -> bool:
    return _present(host, FORWARD, _fence(interface, closed=closed))


def close(host: Namespace, identity: Identity, port: str) -> None:
    """Keep a bridge port from other closed ones. CniError 999."""
    _add(host, PORTS, _closed(identity, port))


def reopen(host: Namespace, identity: Identity, port: str) -> None:
    """Undo `close`. CniError 999."""
    _remove(host, _closed(identity, port))


def closed(host: Namespace, identity: Identity, port: str) -> bool:
    return _present(host, PORTS, _closed(identity, port))


def repair(host: Namespace) -> None:
    """Write rules anew that somebody flushed. CniError 999."""
    with Nfnetlink(host) as socket:
        sections.repair(socket, FORWARD)


def repair_ports(host: Namespace) -> None:
    """The same in the bridge's table. CniError 999."""
    with Nfnetlink(host) as socket:
        sections.repair(socket, PORTS)


def _add(host: Namespace, section: Section, wanted: Sequence[Element]) -> None:
    with Nfnetlink(host) as socket:
        place(socket, section, wanted)


def _remove(host: Namespace, wanted: Sequence[Element]) -> None:
    with Nfnetlink(host) as socket:
        elements.remove_own(socket, wanted)


def _present(host: Namespace, section: Section, wanted: Sequence[Element]) -> bool:
    with Nfnetlink(host) as socket:
        return _has(socket, section, wanted)


def _has(socket: Nfnetlink, section: Section, wanted: Sequence[Element]) -> bool:
    if elements.comments(socket, wanted) != [item.comment for item in wanted]:
        return False
    return not sections.broken(socket, section)
