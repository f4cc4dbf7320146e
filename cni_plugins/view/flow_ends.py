"""What an end of a flow is that somebody asks about: a container under policy, an address, the host, the
world, or a network. Pure, but for the addresses of the node, which are given.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address, ip_network

from cni_plugins.policy.model import Endpoint, IpNetwork, Policy
from cni_plugins.spec.values import Ip

HOST, WORLD = "host", "world"
_PARTS = 64
#: Of documentation and benchmarks: hardly any policy names them.
_STRANGERS = ("203.0.113.1", "198.51.100.1", "192.0.2.1", "198.18.0.1", "2001:db8:ffff::1", "2001:2::1")


class ExplainError(ValueError):
    """What was asked cannot be answered; the text is a sentence."""


class Kind(StrEnum):
    ADDRESS = "address"  # of whoever has it
    HOST = "host"
    WORLD = "world"
    NETWORK = "network"


@dataclass(frozen=True, slots=True)
class End:
    """`addresses` are those to be judged: all of a container's; of a network one of each part that policies
    may treat differently; of the world one that no policy names, for each family. `said` is what was asked
    for, where that is not the address itself.
    """

    kind: Kind
    addresses: tuple[Ip, ...]
    said: str = ""

    def shown(self, address: Ip) -> str:
        if self.kind is Kind.HOST:
            return HOST
        return f"{self.said} (such as {address})" if self.said else str(address)


@dataclass(frozen=True, slots=True)
class Known:
    """What ends are told by."""

    endpoints: Sequence[Endpoint]
    policies: Sequence[Policy]
    node: Collection[Ip]

    def end(self, text: str) -> End:
        """ExplainError for what is none."""
        if text in (HOST, WORLD):
            return self._host() if text == HOST else self._world()
        address = _address(text)
        if address is not None:
            return self._host() if address in self.node else End(Kind.ADDRESS, (address,))
        network = network_of(text)
        if network is not None:
            return End(Kind.NETWORK, self._parts(network), str(network))
        return End(Kind.ADDRESS, self._container(text))

    def _host(self) -> End:
        """Which of its addresses does not matter: policy knows the host as one."""
        return End(Kind.HOST, (ip_address("0.0.0.0"), ip_address("::")))

    def _world(self) -> End:
        return End(Kind.WORLD, (self._stranger(4), self._stranger(6)), WORLD)

    def _container(self, text: str) -> tuple[Ip, ...]:
        exact = [item for item in self.endpoints if item.container == text]
        found = exact or [item for item in self.endpoints if text and item.container.startswith(text)]
        if len({item.container for item in found}) > 1:
            names = ", ".join(sorted({item.container for item in found}))
            raise ExplainError(f"{text!r} may be each of {names}")
        if not found:
            raise ExplainError(
                f"{text!r} is no container under policy: give the beginning of its id, an address, a network "
                "like 10.0.0.0/8, host or world"
            )
        return tuple(address for item in found for address in item.addresses)

    def _named(self, version: int) -> Iterator[IpNetwork]:
        """The networks that policies tell apart, but for those that hold everything."""
        for policy in self.policies:
            for rule in (*(policy.ingress or ()), *(policy.egress or ())):
                for peer in rule.peers:
                    for network in (peer.cidr, *peer.excepted):
                        if network is not None and network.version == version and network.prefixlen:
                            yield network
        for endpoint in self.endpoints:
            yield from (item for item in endpoint.subnets if item.version == version)
            yield from (ip_network(item) for item in endpoint.of_family(version))

    def _stranger(self, version: int) -> Ip:
        named = set(self._named(version))
        tried = [item for text in _STRANGERS if (item := ip_address(text)).version == version]
        beyond = (item.broadcast_address for item in named)
        tried += [item + 1 for item in beyond if int(item) + 1 < 1 << item.max_prefixlen]
        return next((item for item in tried if not any(item in network for network in named)), tried[0])

    def _parts(self, network: IpNetwork) -> tuple[Ip, ...]:
        first, size = int(network.network_address), network.num_addresses
        bounds = {first}
        for item in self._named(network.version):
            start = int(item.network_address)
            bounds.update(at for at in (start, start + item.num_addresses) if first <= at < first + size)
        if len(bounds) > _PARTS:
            raise ExplainError(
                f"{network} has {len(bounds)} parts that policies and containers tell apart: name a smaller "
                "network"
            )
        return tuple(network.network_address + (at - first) for at in sorted(bounds))


def _address(text: str) -> Ip | None:
    try:
        found = ip_address(text)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if found.version == 6 else None
    return mapped or found


def network_of(text: str) -> IpNetwork | None:
    """A network like 10.0.0.0/8, None for what is not meant to be one. ExplainError for one that is wrong."""
    head, slash, length = text.rpartition("/")
    if not slash or _address(head) is None:
        return None
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ExplainError(f"{text!r} is no network: {length!r} is no prefix length of {head}") from None
    if network.network_address != ip_address(head):
        raise ExplainError(f"{text!r} has bits beyond its length: write {network}, or {head} for the address")
    return network
