"""What checks look at, and what they find."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from cni_plugins.kernel import addresses, sandboxes
from cni_plugins.kernel.addresses import LinkAddress
from cni_plugins.kernel.links import Link
from cni_plugins.kernel.neighbours import Neighbour
from cni_plugins.kernel.nft.elements import Sets
from cni_plugins.kernel.routes import KernelRoute, Refusal
from cni_plugins.kernel.rules import Rule
from cni_plugins.kernel.sandboxes import Sandbox
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.roots import Roots
from cni_plugins.spec.values import IpNetwork, interface_of, packed_cidr
from cni_plugins.view.attachments import Attachment, State
from cni_plugins.view.node import Node
from cni_plugins.view.pools import Pool

_LIVING = frozenset((State.UP, State.DOWN, State.BROKEN))


class Level(StrEnum):
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """`check` names the check; `about` is one sentence, `evidence` what was seen, `remedy` what to do."""

    check: str
    level: Level
    about: str
    evidence: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Facts:
    """One look. `inside` holds what was seen in the namespace of an attachment, for those that could be
    entered.
    """

    roots: Roots
    host: Namespace
    node: Node
    pools: tuple[Pool, ...]
    addresses: tuple[LinkAddress, ...]
    routes: Mapping[int, tuple[KernelRoute, ...]]
    neighbours: tuple[Neighbour, ...]
    inside: Mapping[Attachment, Inside]
    seconds: float  # that the kernel took to list its links
    sets: Sets
    refusals: tuple[Refusal, ...] = ()
    rules: tuple[Rule, ...] = ()

    def living(self) -> Iterator[Attachment]:
        """The attachments of this host whose namespace is there."""
        return (item for item in self.node.attachments if self.node.state(item) in _LIVING)

    def routed(self) -> list[Attachment]:
        """Those whose packets this host forwards."""
        return [item for item in self.living() if is_routed(item)]

    def name_of(self, index: int) -> str:
        link = self.node.by_index.get(index)
        return link.name if link is not None else str(index)


def is_routed(item: Attachment) -> bool:
    """Whether its packets are forwarded by the host, and not by a bridge or a master alone."""
    return any(line.get("step") == "forwarding" for line in item.steps)


def subnet_of(address: str) -> IpNetwork:
    """The network of an address with a prefix length. A node's containers have few of them, and making one
    costs more than all else that is asked of an address. ValueError if it is none.
    """
    raw, length = packed_cidr(address)
    rest = 8 * len(raw) - length
    return _network(int.from_bytes(raw, "big") >> rest << rest, len(raw), length)


@lru_cache(maxsize=64)
def _network(number: int, size: int, length: int) -> IpNetwork:
    return interface_of(number.to_bytes(size, "big"), length).network


@dataclass(frozen=True, slots=True)
class Inside:
    """The container's side: its interface (None when it is gone), the addresses of that, and the routes.
    Most checks compare them as the kernel's own messages.
    """

    sandbox: Sandbox
    versions: frozenset[int]  # of the addresses that the attachment has

    @property
    def link(self) -> Link | None:
        return self.sandbox.link

    @property
    def addresses(self) -> tuple[LinkAddress, ...]:
        return sandboxes.addresses_of(self.sandbox)

    @property
    def has_ipv6(self) -> bool:
        """Whether any of the addresses is of IPv6."""
        return any(addresses.version_of(packet) == 6 for packet in self.sandbox.addresses)

    @property
    def routes(self) -> tuple[KernelRoute, ...]:
        """Of these versions."""
        return sandboxes.routes_of(self.sandbox, self.versions)
