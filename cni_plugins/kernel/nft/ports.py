"""Published ports: elements of the maps that `nat` looks packets up in."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from cni_plugins.kernel.nfnetlink import NFPROTO_INET, Nfnetlink
from cni_plugins.kernel.nft import elements, nat, owner
from cni_plugins.kernel.nft.elements import Element
from cni_plugins.kernel.nft.placing import place
from cni_plugins.spec.call import Identity
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.values import Ip, IpInterface

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


def _port_element(forward: Forward, comment: str) -> Element:
    family = forward.target.version
    fields = [PROTOCOLS[forward.protocol].to_bytes(1, "big"), elements.port(forward.host_port)]
    name = f"port{family}"
    if forward.host_ip is not None:
        fields.insert(0, elements.address(forward.host_ip))
        name = f"address_port{family}"
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


def _targets(forwards: Sequence[Forward]) -> list[IpInterface]:
    return list(dict.fromkeys(item.target for item in forwards))


def add(host: Namespace, identity: Identity, forwards: Sequence[Forward], hide: Hide) -> None:
    """Publish. placing.Taken when a port is another attachment's, CniError 999; then nothing was changed."""
    comment = owner.comment(identity)
    targets = _targets(forwards)
    chains = [nat.answer(item) for item in targets] if hide is Hide.LOCAL else []
    with Nfnetlink(host) as socket:
        place(
            socket,
            nat.SECTION,
            _answers(targets, hide, comment),
            chains=chains,
            exclusive=[_port_element(item, comment) for item in forwards],
        )


def remove(host: Namespace, identity: Identity, forwards: Sequence[Forward], hide: Hide) -> None:
    """Undo `add`; what is gone, or another attachment's, is left alone. CniError 999."""
    comment = owner.comment(identity)
    targets = _targets(forwards)
    with Nfnetlink(host) as socket:
        elements.remove_own(
            socket, [_port_element(item, comment) for item in forwards] + _answers(targets, hide, comment)
        )
        if hide is Hide.LOCAL:
            chains = map(nat.answer, targets)
            elements.prune(socket, NFPROTO_INET, {chain.name: len(chain.rules) for chain in chains})


def missing(host: Namespace, identity: Identity, forwards: Sequence[Forward], hide: Hide) -> list[Forward]:
    """The ports that are not published for this attachment, or all of them when its answers are not
    hidden.
    """
    comment = owner.comment(identity)
    wanted = [_port_element(item, comment) for item in forwards]
    answers = _answers(_targets(forwards), hide, comment)
    with Nfnetlink(host) as socket:
        held = elements.comments(socket, wanted + answers)
    if any(text != comment for text in held[len(wanted) :]):
        return list(forwards)
    return [item for item, text in zip(forwards, held, strict=False) if text != comment]


def guard_loopback(host: Namespace, interface: str) -> None:
    """Refuse the host's 127.0.0.0/8 to neighbours on `interface`, which route_localnet opens to them.
    CniError 999.
    """
    with Nfnetlink(host) as socket:
        place(socket, nat.SECTION, [_guard(interface)])


def unguard_loopback(host: Namespace, interface: str) -> None:
    """Undo `guard_loopback`; idempotent. CniError 999."""
    with Nfnetlink(host) as socket:
        elements.remove_own(socket, [_guard(interface)])


def _guard(interface: str) -> Element:
    return Element(
        NFPROTO_INET, "localnet", elements.key(elements.interface(interface)), comment="route_localnet"
    )
