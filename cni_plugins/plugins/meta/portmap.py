"""portmap: ports of the host that lead to the container.

The mappings come from `runtimeConfig.portMappings` (capability `portMappings`, or a Mesos task's
`port_mappings`): `hostPort`, `containerPort`, `protocol` (tcp, udp, sctp; tcp when absent) and `hostIP`,
which confines the port to one of the host's addresses. The container's first address of each family is mapped
to.

    {"cniVersion": "1.0.0", "name": "web-net", "type": "portmap",
     "delegate": {"type": "bridge", "isDefaultGateway": true,
                  "ipam": {"type": "host-local", "subnet": "10.60.0.0/24"}}}

In the kernel: an element per port and family in the maps of the nf_tables table `inet mesokit`, whose few
rules serve all containers; an element that lets the container and its neighbours reach the port too (`snat`);
`route_localnet` on the host's interface towards the container, so that 127.0.0.1 works, with that interface's
neighbours kept out of 127.0.0.0/8. [::1] cannot work (IPv6 has no route_localnet) and is left alone. Where
bridged packets pass through the firewall (br_netfilter), a container reaches its own port only if its bridge
port has `hairpinMode`.

A port that another container has is refused when the two mappings' addresses overlap, whatever their
families. So is one that a program of the host listens on, which would get no packets any more, unless
`overrideListeners` is set. A container that is on several networks may have the same port on each: it leads
to the network that came first, and to another one when that is left. UDP flows from before are forgotten, on
ADD and on DEL.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cni_plugins.attach import host_ports, publishing
from cni_plugins.attach.host_ports import HostPorts, Span
from cni_plugins.attach.plugin import Kind, Plugin
from cni_plugins.attach.transaction import Transaction
from cni_plugins.kernel import iptables
from cni_plugins.kernel.nft.ports import PROTOCOLS, Forward, Hide, Publication
from cni_plugins.spec.call import Call
from cni_plugins.spec.config import BOOL, TEXT, integer, list_of, one_of, option, shown
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Result
from cni_plugins.spec.values import Ip, IpInterface, fold, parse_ip
from cni_plugins.steps import ports, registry
from cni_plugins.steps.context import Context
from cni_plugins.steps.ports import IptablesKeys, Ports

_RUNTIME = "runtimeConfig."


@dataclass(frozen=True, slots=True)
class PortmapConfig:
    backend: str = option(
        "backend",
        one_of("nftables", "iptables", "auto"),
        "auto",
        "where the rules live; auto: iptables if a key needs it, else nftables",
    )
    snat: bool = option(
        "snat", BOOL, True, "let the container itself, its subnet and the host's loopback reach the port too"
    )
    masq_all: bool = option("masqAll", BOOL, False, "hide every client's address from the container")
    conditions_v4: tuple[str, ...] = option(
        "conditionsV4", list_of(TEXT), (), "further matches of IPv4 packets, as the backend writes them"
    )
    conditions_v6: tuple[str, ...] = option(
        "conditionsV6", list_of(TEXT), (), "further matches of IPv6 packets, as the backend writes them"
    )
    mark_masq_bit: int | None = option(
        "markMasqBit",
        integer(0, 31),
        None,
        "the packet mark's bit for packets to masquerade, 13 (iptables only)",
    )
    external_set_mark_chain: str = option(
        "externalSetMarkChain", TEXT, "", "a chain of yours that sets that mark instead (iptables only)"
    )
    allowed_host_ports: tuple[Span, ...] = host_ports.allowed()
    reserved_host_ports: tuple[Span, ...] = host_ports.reserved()
    override_listeners: bool = host_ports.override()

    @property
    def ports(self) -> HostPorts:
        return HostPorts(self.allowed_host_ports, self.reserved_host_ports, self.override_listeners)


def _is_iptables(words: tuple[str, ...]) -> bool:
    return words[:1] != () and words[0].startswith(("-", "!"))


def _uses_iptables(config: PortmapConfig) -> bool:
    if config.backend != "auto":
        return config.backend == "iptables"
    return (
        config.mark_masq_bit is not None
        or bool(config.external_set_mark_chain)
        or _is_iptables(config.conditions_v4)
        or _is_iptables(config.conditions_v6)
    )


def _others(config: PortmapConfig, backend: str) -> str:
    """What names the keys that are the other backend's, in the reference's words."""
    other = "nftables" if backend == "iptables" else "iptables"
    named = ["externalSetMarkChain"] if config.external_set_mark_chain and other == "iptables" else []
    named += ["markMasqBit"] if config.mark_masq_bit is not None and other == "iptables" else []
    for key, words in (("conditionsV4", config.conditions_v4), ("conditionsV6", config.conditions_v6)):
        if words and _is_iptables(words) is (other == "iptables"):
            named.append(key)
    return (
        f"{backend} backend was requested but configuration contains {other}-specific options "
        f"[{' '.join(named)}]"
    )


def _check_conditions(key: str, words: tuple[str, ...], config: PortmapConfig, backend: str) -> None:
    """CniError 7 when a match is not written as `backend` writes it."""
    for word in words:
        if not word or any(char.isspace() or char in '";#' for char in word):
            raise CniError(
                Code.INVALID_CONFIG, f"{key} has {word!r}: each word of the match is an item of its own"
            )
    if words and _is_iptables(words) is not (backend == "iptables"):
        example = '["!", "-d", "192.0.2.0/24"]' if backend == "iptables" else '["ip", "daddr", "192.0.2.1"]'
        raise CniError(
            Code.INVALID_CONFIG,
            _others(config, backend),
            f"{key} is {shown(list(words))}, which is not how {backend} writes a match: it would be like "
            f"{example}; or choose the other backend",
        )


def _keys(config: PortmapConfig) -> IptablesKeys | None:
    """None for nf_tables. CniError 2 or 7 when the keys contradict one another."""
    backend = "iptables" if _uses_iptables(config) else "nftables"
    _check_conditions("conditionsV4", config.conditions_v4, config, backend)
    _check_conditions("conditionsV6", config.conditions_v6, config, backend)
    bit, chain = config.mark_masq_bit, config.external_set_mark_chain
    if backend == "nftables":
        if bit is None and not chain:
            return None
        named = f"markMasqBit is {bit}" if bit is not None else f"externalSetMarkChain is {chain!r}"
        raise CniError(
            Code.UNSUPPORTED_FIELD,
            _others(config, backend),
            f"{named}, which has no meaning for backend nftables: its maps translate without marking "
            "packets; leave the key out, or set backend to iptables",
        )
    if bit is not None and chain:
        raise CniError(
            Code.INVALID_CONFIG,
            "Cannot specify externalSetMarkChain and markMasqBit",
            f"markMasqBit is {bit} and externalSetMarkChain is {chain!r}, and only one of them can say how "
            "packets are marked",
        )
    if len(chain) > 28 or any(char.isspace() for char in chain):
        raise CniError(
            Code.INVALID_CONFIG, f"externalSetMarkChain is {chain!r}, which cannot be a chain's name"
        )
    return IptablesKeys(13 if bit is None else bit, chain, config.conditions_v4, config.conditions_v6)


@dataclass(frozen=True, slots=True)
class Mapping:
    """One entry of portMappings; `host_ip` None is every address of the host, `family` 0 is both."""

    where: str
    protocol: str
    host_ip: Ip | None
    family: int
    host_port: int
    container_port: int


def _port(entry: dict[str, Any], key: str, where: str) -> int:
    value = fold(entry, key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 65536:
        end = "host" if key == "hostPort" else "container"
        raise CniError(
            Code.INVALID_CONFIG,
            f"Invalid {end} port number: {shown(value)}",
            f"{where}.{key} is {shown(value)}, which is not a port from 1 to 65535",
        )
    return value


def _mapping(entry: object, where: str) -> Mapping:
    if not isinstance(entry, dict):
        raise CniError(Code.INVALID_CONFIG, f"{where} is {shown(entry)}, which is not an object")
    protocol = fold(entry, "protocol")
    if protocol is None or protocol == "":
        protocol = "tcp"
    if not isinstance(protocol, str) or protocol.lower() not in PROTOCOLS:
        raise CniError(
            Code.INVALID_CONFIG,
            f"{where}.protocol is {shown(protocol)}, which is not one of {', '.join(PROTOCOLS)}",
        )
    text = fold(entry, "hostIP")
    host_ip: Ip | None = None
    if text is not None and text != "":
        try:
            host_ip = parse_ip(text if isinstance(text, str) else repr(text))
        except ValueError as error:
            raise CniError(
                Code.INVALID_CONFIG, f"{where}.hostIP is {text!r}, which is not an IP address", str(error)
            ) from error
        if host_ip.is_loopback and host_ip.version == 6:
            raise CniError(
                Code.UNSUPPORTED_FIELD,
                f"{where}.hostIP is {text!r}, which the kernel cannot lead to a container",
                "IPv6 has no route_localnet; use 127.0.0.1, or leave hostIP out",
            )
        if host_ip.is_multicast:
            raise CniError(Code.INVALID_CONFIG, f"{where}.hostIP is {text!r}, a multicast address")
    family = 0 if host_ip is None else host_ip.version
    if host_ip is not None and host_ip.is_unspecified:
        host_ip = None
    return Mapping(
        where,
        protocol.lower(),
        host_ip,
        family,
        _port(entry, "hostPort", where),
        _port(entry, "containerPort", where),
    )


def parse_mappings(listed: object) -> list[Mapping]:
    """`runtimeConfig.portMappings`. CniError 7 naming the entry, the key and the value."""
    if listed is None:
        return []
    if not isinstance(listed, list):
        raise CniError(
            Code.INVALID_CONFIG, f"runtimeConfig.portMappings is {shown(listed)}, which is not a list"
        )
    mappings = [_mapping(entry, f"{_RUNTIME}portMappings[{number}]") for number, entry in enumerate(listed)]
    seen: dict[tuple[str, Ip | None, int, int], Mapping] = {}
    for item in mappings:
        for family in (4, 6) if item.family == 0 else (item.family,):
            first = seen.setdefault((item.protocol, item.host_ip, family, item.host_port), item)
            if first.container_port != item.container_port:
                other = first.where.removeprefix(_RUNTIME)
                raise CniError(
                    Code.INVALID_CONFIG,
                    f"{item.where}.hostPort is {item.host_port}, which {other} maps already",
                )
    return mappings


def targets(call: Call, result: Result) -> dict[int, IpInterface]:
    """The first address of each family on the attachment's own interface."""
    found: dict[int, IpInterface] = {}
    for entry in result.ips:
        if entry.interface is not None and entry.interface < len(result.interfaces):
            interface = result.interfaces[entry.interface]
            if not interface.sandbox or interface.name != call.ifname:
                continue
        found.setdefault(entry.address.version, entry.address)
    return found


def forwards(mappings: Sequence[Mapping], found: dict[int, IpInterface]) -> tuple[Forward, ...]:
    """What to publish. CniError 7 for a mapping that no address of the container can serve."""
    made: dict[Forward, None] = {}
    for item in mappings:
        versions = [version for version in sorted(found) if item.family in {0, version}]
        if not versions:
            missing = f"IPv{item.family} address" if item.family else "address"
            raise CniError(
                Code.INVALID_CONFIG,
                f"{item.where} maps port {item.host_port}, but the container has no {missing}",
                "leave hostIP out, or give the network a range of that family" if item.family else "",
            )
        for version in versions:
            target = found[version]
            made[Forward(item.protocol, item.host_ip, item.host_port, target, item.container_port)] = None
    return tuple(made)


def _wanted(call: Call, config: PortmapConfig) -> Publication | None:
    mappings = parse_mappings(call.runtime("portMappings"))
    if not mappings or call.previous is None:
        return None
    hide = Hide.NOBODY if not config.snat else Hide.ALL if config.masq_all else Hide.LOCAL
    conditions = ("", "")
    if not _uses_iptables(config):
        conditions = (" ".join(config.conditions_v4), " ".join(config.conditions_v6))
    return Publication(forwards(mappings, targets(call, call.previous)), hide, conditions=conditions)


def validate(call: Call, config: PortmapConfig) -> None:
    _keys(config)
    config.ports.require(item.host_port for item in parse_mappings(call.runtime("portMappings")))


def add(call: Call, config: PortmapConfig, tx: Transaction) -> Result:
    assert call.previous is not None
    call.served.add("portMappings")
    keys = _keys(config)
    wanted = _wanted(call, config)
    if wanted is not None:
        config.ports.require_unused(call.host, wanted.forwards)
        publishing.publish(tx, Ports(wanted, keys))
    return call.previous


def steps(call: Call, config: PortmapConfig, context: Context, result: Result) -> list[Ports]:
    wanted = _wanted(call, config)
    return [] if wanted is None else [Ports(wanted, _keys(config))]


def status(call: Call, config: PortmapConfig, context: Context) -> None:
    if _keys(config) is None:
        ports.require_nftables(call)
    elif iptables.find("iptables-restore") is None:
        raise CniError(Code.NOT_AVAILABLE, "ports cannot be published: iptables is not installed")


PLUGIN = Plugin(
    name="portmap",
    kind=Kind.META,
    about="publishes ports of the container on the host",
    config=PortmapConfig,
    add=add,
    kinds=(registry.Kind.PORTS, registry.Kind.PORT_CLAIMS),
    steps=steps,
    status=status,
    validate=validate,
)
