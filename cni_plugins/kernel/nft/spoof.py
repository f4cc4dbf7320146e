"""MAC spoof check: a guarded bridge port may send frames from its own MAC address only."""

from cni_plugins.kernel.netlink.netfilter import NFPROTO_BRIDGE, Nfnetlink
from cni_plugins.kernel.nft import elements, owner, sections
from cni_plugins.kernel.nft.elements import Element
from cni_plugins.kernel.nft.placing import place
from cni_plugins.kernel.nft.sections import Chain, Section
from cni_plugins.kernel.nft.tables import Counts
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.namespace import Namespace

SETS = ("guarded", "allowed")

SECTION = Section(
    family=NFPROTO_BRIDGE,
    version="spoof_1",
    sets=("set guarded { type ifname ; }", "set allowed { type ifname . ether_addr ; }"),
    chains=(
        Chain(
            "prerouting",
            ("iifname @guarded iifname . ether saddr != @allowed drop",),
            "type filter hook prerouting priority -300",
        ),
    ),
)


def _elements(identity: Identity, port: str, mac: str) -> list[Element]:
    comment = owner.comment(identity)
    name = elements.interface(port)
    hardware = bytes.fromhex(mac.replace(":", ""))
    return [
        Element(NFPROTO_BRIDGE, "allowed", elements.key(name, hardware), comment=comment),
        Element(NFPROTO_BRIDGE, "guarded", elements.key(name), comment=comment),
    ]


def add(host: Namespace, identity: Identity, port: str, mac: str) -> None:
    """Drop what comes in by the bridge port `port` from any other address than `mac`. CniError 999."""
    with Nfnetlink(host) as socket:
        place(socket, SECTION, _elements(identity, port, mac))


def remove(host: Namespace, identity: Identity, port: str, mac: str) -> bool:
    """Undo `add`; idempotent. Whether the table has no element left. CniError 999."""
    with Nfnetlink(host) as socket:
        elements.remove_own(socket, _elements(identity, port, mac))
        return not elements.any_listed(socket, NFPROTO_BRIDGE, "guarded")


def present(host: Namespace, identity: Identity, port: str, mac: str, counts: Counts | None = None) -> bool:
    """Whether the port is guarded for this attachment."""
    wanted = _elements(identity, port, mac)
    with Nfnetlink(host) as socket:
        if elements.comments(socket, wanted) != [item.comment for item in wanted]:
            return False
        return not sections.broken(socket, SECTION, counts=counts)


def repair(host: Namespace, identity: Identity, port: str, mac: str) -> None:
    """`add` again, after somebody flushed what it made, or part of it. CniError 999."""
    with Nfnetlink(host) as socket:
        sections.repair(socket, SECTION)
    add(host, identity, port, mac)
