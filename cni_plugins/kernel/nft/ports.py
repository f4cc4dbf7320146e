"""Published ports: elements of the maps that `nat` looks packets up in."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from cni_plugins.kernel.netlink.netfilter import NFPROTO_INET, Nfnetlink
from cni_plugins.kernel.nft import elements, nat, owner, sections, tables
from cni_plugins.kernel.nft.elements import Element
from cni_plugins.kernel.nft.placing import place
from cni_plugins.kernel.nft.sections import Chain
from cni_plugins.kernel.nft.tables import Counts
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.values import Ip, IpInterface

SETS = ("port4", "port6", "address_port4", "address_port6", "answer4", "answer6", "excluded")
PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}


class Hide(Enum):
    """Whose source address the container does not see: nobody's, only where answers would not come back, or
    everybody's."""

    NOBODY = "nobody"
    LOCAL = "local"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Forward:
    """One port of the host, on `host_ip` or (None) on all addresses of the target's family, to one of the
    container's at `target` (whose prefix is the container's subnet). `protocol` is a key of PROTOCOLS."""

    protocol: str
    host_ip: Ip | None
    host_port: int
    target: IpInterface
    container_port: int


def _port_element(forward: Forward, suffix: str, comment: str) -> Element:
    family = forward.target.version
    fields = [bytes((PROTOCOLS[forward.protocol],)), elements.port(forward.host_port)]
    name = f"port{family}{suffix}"
    if forward.host_ip is not None:
        fields.insert(0, elements.address(forward.host_ip))
        name = f"address_port{family}{suffix}"
    data = elements.value(elements.address(forward.target.ip), elements.port(forward.container_port))
    return Element(NFPROTO_INET, name, elements.key(*fields), data, comment)


def _answers(targets: Sequence[IpInterface], hide: Hide, comment: str) -> list[Element]:
    if hide is Hide.NOBODY:
        return []
    return [
        Element(
            NFPROTO_INET,
            f"answer{item.version}",
            elements.key(elements.address(item.ip)),
            elements.jump(nat.ANSWER_ALL if hide is Hide.ALL else nat.answer(item).name),
            comment,
        )
        for item in targets
    ]


def _excluded(publication: "Publication", comment: str) -> list[Element]:
    ports = {(item.protocol, item.host_port) for item in publication.forwards}
    return [
        Element(
            NFPROTO_INET,
            "excluded",
            elements.key(elements.interface(device), bytes((PROTOCOLS[protocol],)), elements.port(number)),
            comment=comment,
        )
        for device in publication.excluded
        for protocol, number in sorted(ports)
    ]


@dataclass(frozen=True, slots=True)
class Publication:
    """All that one attachment publishes. Packets that come in by a device of `excluded` are left alone,
    and so are those that do not match `conditions`, further matches of IPv4 and of IPv6 packets in nft's
    language.
    """

    forwards: tuple[Forward, ...]
    hide: Hide = Hide.LOCAL
    excluded: tuple[str, ...] = ()
    conditions: tuple[str, str] = ("", "")

    @property
    def targets(self) -> list[IpInterface]:
        return list(dict.fromkeys(item.target for item in self.forwards))

    @property
    def chains(self) -> list[Chain]:
        return [nat.answer(item) for item in self.targets] if self.hide is Hide.LOCAL else []


def _elements(identity: Identity, wanted: Publication) -> tuple[list[Element], list[Element]]:
    """Those that nobody else may hold, and the rest."""
    comment = owner.comment(identity)
    suffix = nat.suffix_of(wanted.conditions)
    exclusive = [_port_element(item, suffix, comment) for item in wanted.forwards]
    return exclusive, _answers(wanted.targets, wanted.hide, comment) + _excluded(wanted, comment)


def add(host: Namespace, identity: Identity, wanted: Publication) -> None:
    """Publish. placing.Taken when a port is another attachment's, CniError 999; then nothing was changed."""
    exclusive, others = _elements(identity, wanted)
    with Nfnetlink(host) as socket:
        also = [nat.conditional(wanted.conditions)] if any(wanted.conditions) else []
        place(socket, nat.SECTION, others, also=also, chains=wanted.chains, exclusive=exclusive)


def repair(host: Namespace, identity: Identity, wanted: Publication) -> None:
    """`add` again, after somebody flushed what it made, or part of it. placing.Taken, CniError 999."""
    with Nfnetlink(host) as socket:
        sections.repair(socket, nat.SECTION, wanted.chains)
        if any(wanted.conditions):
            sections.repair(socket, nat.conditional(wanted.conditions))
    add(host, identity, wanted)


def remove(host: Namespace, identity: Identity, wanted: Publication) -> bool:
    """Undo `add`; what is gone, or another attachment's, is left alone. Whether the table may have no element
    left. CniError 999.
    """
    exclusive, others = _elements(identity, wanted)
    with Nfnetlink(host) as socket:
        elements.remove_own(socket, exclusive + others)
        pruned = tables.prune(socket, NFPROTO_INET, {chain.name: len(chain.rules) for chain in wanted.chains})
        return pruned or not wanted.chains


def missing(
    host: Namespace, identity: Identity, wanted: Publication, counts: Counts | None = None
) -> list[Forward]:
    """The ports that are not published for this attachment; all of them when what they need beside is not."""
    exclusive, others = _elements(identity, wanted)
    with Nfnetlink(host) as socket:
        held = (elements if counts is None else counts).comments(socket, [*exclusive, *others])
        if sections.broken(socket, nat.SECTION, wanted.chains, counts) or (
            any(wanted.conditions)
            and sections.broken(socket, nat.conditional(wanted.conditions), counts=counts)
        ):
            return list(wanted.forwards)
    absent = [text != item.comment for text, item in zip(held, [*exclusive, *others], strict=True)]
    if any(absent[len(exclusive) :]):
        return list(wanted.forwards)
    return [item for item, gone in zip(wanted.forwards, absent, strict=False) if gone]


def held(host: Namespace, identity: Identity, wanted: Publication) -> list[Forward]:
    """The ports that lead somewhere already, for another attachment."""
    exclusive, _ = _elements(identity, wanted)
    with Nfnetlink(host) as socket:
        found = elements.comments(socket, exclusive)
    comment = owner.comment(identity)
    return [
        item
        for item, text in zip(wanted.forwards, found, strict=True)
        if text is not None and text != comment
    ]


def sets(host: Namespace) -> list[str]:
    """The names of all sets and maps that hold what attachments publish."""
    with Nfnetlink(host) as socket:
        return [name for name in elements.sets(socket, NFPROTO_INET) if name.startswith(SETS)]


def guard_loopback(host: Namespace, interface: str) -> None:
    """Refuse the host's 127.0.0.0/8 to neighbours on `interface`, which route_localnet opens to them.
    CniError 999.
    """
    guard = _guard(interface)
    with Nfnetlink(host) as socket:
        if elements.comments(socket, [guard]) != [guard.comment]:
            place(socket, nat.SECTION, [guard])


def unguard_loopback(host: Namespace, interface: str) -> None:
    """Undo `guard_loopback`; idempotent. CniError 999."""
    with Nfnetlink(host) as socket:
        elements.remove_own(socket, [_guard(interface)])


def _guard(interface: str) -> Element:
    return Element(
        NFPROTO_INET, "localnet", elements.key(elements.interface(interface)), comment="route_localnet"
    )
