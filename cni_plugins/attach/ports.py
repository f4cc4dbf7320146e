"""Published ports for meta plugins: claimed, announced, made, checked, and taken over from the reference
portmap.

A port of the host belongs to one attachment: claims (store.claims) are compared across addresses and
families, because 10.0.0.1:80 is part of what a mapping of port 80 without hostIP asks for. A process that
listens on the port does not matter: packets are translated before they could reach it, as with the
reference plugin, and it may be the runtime's own, which some runtimes keep to hold the port.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from cni_plugins.attach.masquerade import iptables_lock
from cni_plugins.attach.transaction import Transaction
from cni_plugins.kernel import conntrack, iptables, links, routes, sysctl
from cni_plugins.kernel.conntrack import UdpPort
from cni_plugins.kernel.iptables import Tool
from cni_plugins.kernel.netlink.netfilter import Nfnetlink
from cni_plugins.kernel.nft import orphans, owner, ports, reference
from cni_plugins.kernel.nft.placing import Taken
from cni_plugins.kernel.nft.ports import Forward, Hide, Publication
from cni_plugins.spec.call import Call
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.values import IpInterface, JsonObject, parse_cidr
from cni_plugins.store import claims

PORT_TAKEN = 103  # what mesos-cni-port-mapper answers when a port cannot be mapped

_ANY = "any"


@dataclass(frozen=True, slots=True)
class IptablesKeys:
    """What only the iptables backend knows: see the reference portmap's keys."""

    mark_bit: int = 13
    external_chain: str = ""
    conditions_v4: tuple[str, ...] = ()
    conditions_v6: tuple[str, ...] = ()


def publish(tx: Transaction, wanted: Publication, keys: IptablesKeys | None) -> None:
    """Publish ports by nf_tables, or by iptables when `keys` are given.

    CniError 103 naming the container that has one of the ports, 11 or 999.
    """
    call = tx.context.call
    _claim(tx, wanted.forwards)
    if wanted.hide is not Hide.NOBODY:
        _open_loopback(tx, [item for item in wanted.targets if item.version == 4])
    backend = "nftables" if keys is None else "iptables"
    tx.intend(
        "ports.delete",
        backend=backend,
        forwards=encode(wanted.forwards),
        hide=wanted.hide.value,
        excluded=list(wanted.excluded),
        conditions=list(wanted.conditions),
    )
    if keys is None:
        try:
            ports.add(call.host, call.identity, wanted)
        except Taken as taken:
            number = int.from_bytes(taken.element.key[-4:-2], "big")
            raise _taken(f"{number}", owner.holder(taken.comment)) from None
    else:
        with iptables_lock(call):
            for target in wanted.targets:
                tool = Tool(call.host, target.version, call.deadline)
                iptables.add_ports(tool, call.identity, for_iptables(wanted, target, keys))
    conntrack.forget_untranslated(call.host, udp_ports(wanted.forwards))


def check(call: Call, wanted: Publication, keys: IptablesKeys | None) -> None:
    """CniError 999 naming the ports that are not published, neither by us nor by a reference plugin."""
    missing = ports.missing(call.host, call.identity, wanted) if keys is None else list(wanted.forwards)
    if not missing or reference.has_ports(call.host, call.container_id):
        return
    there = iptables.versions_with(call.host, [iptables.chain_name("DN-", call.identity)])
    named = IptablesKeys() if keys is None else keys
    tools = {target: Tool(call.host, target.version, call.deadline) for target in wanted.targets}
    if there and all(
        target.version in there
        and iptables.has_ports(tool, call.identity, for_iptables(wanted, target, named))
        for target, tool in tools.items()
    ):
        return
    listed = ", ".join(sorted({f"{item.host_port}/{item.protocol}" for item in missing}))
    raise CniError(
        Code.INTERNAL,
        f"ports of container {call.container_id} are not published: {listed}",
        "detach the container and attach it again",
    )


def remove_legacy(call: Call) -> None:
    """Remove what the reference portmap made for this attachment; cheap when it made nothing. CniError 11 or
    999."""
    reference.remove_ports(call.host, call.container_id)
    versions = iptables.versions_with(call.host, [iptables.chain_name("DN-", call.identity)])
    if versions:
        with iptables_lock(call):
            for version in versions:
                iptables.remove_ports(Tool(call.host, version, call.deadline), call.identity)


def adopt_commented(call: Call, chain: str, comment: str) -> None:
    """Remove the rules of an iptables chain that carry `comment`. CniError 11 or 999."""
    versions = iptables.versions_with(call.host, [chain])
    if versions:
        with iptables_lock(call):
            for version in versions:
                iptables.remove_commented(Tool(call.host, version, call.deadline), chain, comment)


def require_nftables(call: Call) -> None:
    """CniError 50 on a kernel without nf_tables."""
    with Nfnetlink(call.host) as socket:
        if not socket.supported:
            raise CniError(Code.NOT_AVAILABLE, "ports cannot be published: this kernel has no nf_tables")


def collect(call: Call) -> None:
    """GC of what no record covers: elements and claims of this network's attachments that are not to be kept.
    CniError 5, 11 or 999."""
    keep = {Identity(call.network, container, ifname) for container, ifname in call.valid or ()}
    orphans.remove(call.host, call.network, keep, ports.sets(call.host))
    with claims.guarded(call.roots, call.deadline):
        claims.sweep(call.roots, call.network, keep)


def for_iptables(wanted: Publication, target: IpInterface, keys: IptablesKeys) -> iptables.Publication:
    return iptables.Publication(
        target=target,
        forwards=tuple(
            (
                item.protocol,
                "" if item.host_ip is None else str(item.host_ip),
                item.host_port,
                item.container_port,
            )
            for item in wanted.forwards
            if item.target == target
        ),
        snat=wanted.hide is not Hide.NOBODY,
        masquerade_all=wanted.hide is Hide.ALL,
        mark_bit=keys.mark_bit,
        external_chain=keys.external_chain,
        conditions=keys.conditions_v4 if target.version == 4 else keys.conditions_v6,
    )


def udp_ports(forwards: Iterable[Forward]) -> list[UdpPort]:
    return [
        UdpPort(item.host_ip, item.host_port, item.target.ip, item.container_port)
        for item in forwards
        if item.protocol == "udp"
    ]


def encode(forwards: Iterable[Forward]) -> list[JsonObject]:
    """For a record."""
    return [
        {
            "protocol": item.protocol,
            "hostIP": None if item.host_ip is None else str(item.host_ip),
            "hostPort": item.host_port,
            "target": str(item.target),
            "containerPort": item.container_port,
        }
        for item in forwards
    ]


def decode(listed: Iterable[JsonObject]) -> tuple[Forward, ...]:
    """From a record."""
    return tuple(
        Forward(
            item["protocol"],
            None if item["hostIP"] is None else ip_address(item["hostIP"]),
            item["hostPort"],
            parse_cidr(item["target"]),
            item["containerPort"],
        )
        for item in listed
    )


def _taken(port: str, holder: str) -> CniError:
    return CniError(
        PORT_TAKEN,
        f"host port {port} is taken by {holder}",
        "choose another hostPort, or a hostIP that the other mapping leaves free, or detach that one",
    )


def _scopes(forwards: Iterable[Forward]) -> dict[tuple[str, int], set[str]]:
    """What is claimed of each port: an address, or "any" of the host's.

    A mapping without hostIP claims the port of both families even where the container has one of them, as a
    socket bound to the unspecified IPv6 address does: what a port means must not hang on the pool's families.
    """
    found: dict[tuple[str, int], set[str]] = {}
    for item in forwards:
        scope = _ANY if item.host_ip is None else str(item.host_ip)
        found.setdefault((item.protocol, item.host_port), set()).add(scope)
    return found


def _overlaps(scope: str) -> Callable[[str], bool]:
    return lambda other: other == scope or _ANY in {other, scope}


def _claim(tx: Transaction, forwards: Sequence[Forward]) -> None:
    call = tx.context.call
    wanted = {
        (f"port-{call.host.inode}-{protocol}-{number}", scope): f"{number}/{protocol}"
        for (protocol, number), scopes in _scopes(forwards).items()
        for scope in scopes
    }
    with claims.guarded(call.roots, call.deadline):
        for (subject, scope), port in wanted.items():
            held = claims.living(call.roots, subject, call.identity, _overlaps(scope))
            if held is not None:
                raise _taken(port if held[0] == _ANY else f"{port} of {held[0]}", _named(held[1]))
        tx.intend("ports.release", claims=[list(item) for item in wanted])
        for subject, scope in wanted:
            claims.claim(call.roots, subject, scope, claims.owner(call.identity))


def _named(identity: Identity) -> str:
    return f"container {identity.container_id} (network {identity.network}, interface {identity.ifname})"


def _open_loopback(tx: Transaction, targets: Sequence[IpInterface]) -> None:
    """Let 127.0.0.1 reach the container: route_localnet on the host's interface towards it, shared by all
    containers behind that interface, and shut for everybody but the host itself."""
    call = tx.context.call
    for target in targets:
        link = links.find_index(tx.context.host, routes.towards(tx.context.host, target.ip))
        if link is None:
            continue
        subject = f"localnet-{call.host.inode}-{link.name}"
        with claims.guarded(call.roots, call.deadline):
            if not claims.members(call.roots, subject) and sysctl.read(call.host, localnet(link.name)) == "1":
                continue
            member = owner.tag(call.identity)
            tx.intend("localnet.release", subject=subject, member=member, interface=link.name)
            claims.claim(call.roots, subject, member, claims.owner(call.identity))
            ports.guard_loopback(call.host, link.name)
            sysctl.ensure(call.host, {localnet(link.name): "1"})


def localnet(interface: str) -> str:
    return f"ipv4/conf/{interface}/route_localnet"
