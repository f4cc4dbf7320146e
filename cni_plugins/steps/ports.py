"""Published ports: claimed, made, checked, and what the reference portmap left.

A port of the host belongs to one container: claims (store.claims) are compared across addresses and
families, because 10.0.0.1:80 is part of what a mapping of port 80 without hostIP asks for.

A container may be on several networks, and its runtime asks for the same ports on each (podman). Then the
port leads to the attachment that came first; the others claim it as well, and one of them takes it over when
that one goes.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from cni_plugins.kernel import conntrack, iptables
from cni_plugins.kernel.conntrack import UdpPort
from cni_plugins.kernel.iptables import Tool
from cni_plugins.kernel.netlink.netfilter import NFPROTO_INET, Nfnetlink
from cni_plugins.kernel.nft import orphans, owner, ports, reference
from cni_plugins.kernel.nft.placing import Taken
from cni_plugins.kernel.nft.ports import Forward, Hide, Publication
from cni_plugins.kernel.nft.tables import Counts, Unused
from cni_plugins.spec.call import Call
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.values import IpInterface
from cni_plugins.steps import registry
from cni_plugins.steps.context import Context
from cni_plugins.steps.step import Step, step
from cni_plugins.store import claims, records
from cni_plugins.store.records import Contents

PORT_TAKEN = 103  # what mesos-cni-port-mapper answers when a port cannot be mapped

_ANY = "any"
_HEIR_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class IptablesKeys:
    """What only the iptables backend knows: see the reference portmap's keys."""

    mark_bit: int = 13
    external_chain: str = ""
    conditions_v4: tuple[str, ...] = ()
    conditions_v6: tuple[str, ...] = ()


@step
class Ports(Step):
    """The rules that publish: by nf_tables, or by iptables when there are `keys`. Elements carry the
    attachment's tag, iptables' chain its names. UDP flows that the change concerns are forgotten.
    """

    wanted: Publication
    keys: IptablesKeys | None = None

    def apply(self, context: Context) -> None:
        """CniError 103 naming the container that has one of the ports, 11 or 999."""
        call = context.call
        if self.keys is None:
            _place(call, self.wanted, ports.add)
        else:
            with context.iptables_lock():
                for target in self.wanted.targets:
                    tool = Tool(call.host, target.version, call.deadline)
                    iptables.add_ports(tool, call.identity, _for_iptables(self.wanted, target, self.keys))
        conntrack.forget_untranslated(call.host, _udp_ports(self.wanted.forwards))

    def restore(self, context: Context) -> None:
        call = context.call
        if self.keys is not None:
            self.apply(context)
        elif _missing(call, self.wanted):
            _place(call, self.wanted, ports.repair)
            conntrack.forget_untranslated(call.host, _udp_ports(self.wanted.forwards))

    def undo(self, context: Context) -> None:
        call = context.call
        if self.keys is None:
            if ports.remove(call.host, call.identity, self.wanted):
                call.idle.append(Unused(call.host, NFPROTO_INET))
        else:
            with context.iptables_lock(undoing=True):
                for target in self.wanted.targets:
                    tool = Tool(call.host, target.version, call.deadline)
                    call.warn(iptables.remove_ports(tool, call.identity))
        conntrack.forget_translated(call.host, _udp_ports(self.wanted.forwards))

    def check(self, context: Context) -> None:
        """CniError 999 naming the ports that are not published, neither by us nor by a reference plugin."""
        call, wanted = context.call, self.wanted
        missing = _missing(call, wanted, context.counts) if self.keys is None else list(wanted.forwards)
        if not missing or reference.has_ports(call.host, call.container_id):
            return
        there = iptables.versions_with(call.host, [iptables.chain_name("DN-", call.identity)])
        named = IptablesKeys() if self.keys is None else self.keys
        tools = {target: Tool(call.host, target.version, call.deadline) for target in wanted.targets}
        if there and all(
            target.version in there
            and iptables.has_ports(tool, call.identity, _for_iptables(wanted, target, named))
            for target, tool in tools.items()
        ):
            return
        listed = ", ".join(sorted({f"{item.host_port}/{item.protocol}" for item in missing}))
        raise CniError(
            Code.INTERNAL,
            f"ports of container {call.container_id} are not published: {listed}",
            "mesokit reload makes the rules again",
        )

    @classmethod
    def collect(cls, context: Context) -> None:
        call = context.call
        orphans.remove(call.host, call.network, context.keep, ports.sets(call.host))

    @classmethod
    def remove_legacy(cls, context: Context) -> None:
        """Cheap when the reference portmap made nothing. What it makes is named after the container, and so
        is the chain of our iptables backend: while a record knows the container that is not touched.
        """
        call = context.call
        reference.remove_ports(call.host, call.container_id)
        versions = iptables.versions_with(call.host, [iptables.chain_name("DN-", call.identity)])
        if versions and not context.container_is_recorded():
            with context.iptables_lock(undoing=True):
                for version in versions:
                    tool = Tool(call.host, version, call.deadline)
                    call.warn(iptables.remove_ports(tool, call.identity))


def _place(call: Call, wanted: Publication, add: Callable[[Namespace, Identity, Publication], None]) -> None:
    """Publish by nf_tables what does not lead to another attachment of the same container. CniError 103
    naming the container that has one of the ports, 11 or 999.
    """
    while wanted.forwards:
        try:
            add(call.host, call.identity, wanted)
            return
        except Taken as taken:
            elsewhere = [
                item for item in ports.held(call.host, call.identity, wanted) if _is_shared(call, item)
            ]
            if not elsewhere:
                number = int.from_bytes(taken.element.key[-4:-2], "big")
                raise _taken(f"{number}", owner.holder(taken.comment)) from None
            named = ", ".join(sorted({f"{item.host_port}/{item.protocol}" for item in elsewhere}))
            call.warn(f"{named} leads to the container by another of its networks already, and stays so")
            wanted = replace(
                wanted, forwards=tuple(item for item in wanted.forwards if item not in elsewhere)
            )


def _missing(call: Call, wanted: Publication, counts: Counts | None = None) -> list[Forward]:
    """What is not published, neither for this attachment nor for another one of the same container."""
    missing = ports.missing(call.host, call.identity, wanted, counts)
    elsewhere = ports.held(call.host, call.identity, wanted) if missing else []
    return [item for item in missing if not (item in elsewhere and _is_shared(call, item))]


def _is_shared(call: Call, forward: Forward) -> bool:
    """Whether another attachment of the same container claims a port."""
    subject, scope = _subject(call, forward.protocol, forward.host_port), _scope(forward)
    listed = claims.members(call.roots, subject).items()
    owners = [claims.owner_of(entry) for member, entry in listed if _overlaps(scope)(member)]
    return any(item.container_id == call.container_id and item != call.identity for item in owners)


@step
class PortsChange(Step):
    """Other published ports in the place of `before`, in one transaction of nf_tables, so that no new
    connection is refused meanwhile. What only `before` had stays until it is taken back for itself. In a
    record only while an update is at work.
    """

    before: Publication
    after: Publication

    def apply(self, context: Context) -> None:
        """CniError 103 naming the container that has one of the ports, 11 or 999."""
        Ports(self.after).apply(context)

    def undo(self, context: Context) -> None:
        call = context.call
        ports.remove(call.host, call.identity, without(self.after, self.before))
        if self.before.forwards:
            ports.add(call.host, call.identity, self.before)
        conntrack.forget_translated(call.host, _udp_ports(self.after.forwards))


def without(some: Publication, others: Publication) -> Publication:
    """What `some` publishes and `others` does not; targets that both have are left alone."""
    held = {(item.protocol, item.host_ip, item.host_port, item.target.version) for item in others.forwards}
    forwards = tuple(
        item
        for item in some.forwards
        if (item.protocol, item.host_ip, item.host_port, item.target.version) not in held
    )
    shared = bool(set(some.targets) & set(others.targets))
    return Publication(
        forwards, Hide.NOBODY if shared else some.hide, some.excluded, conditions=some.conditions
    )


@step
class PortClaims(Step):
    """Claims of the attachment: (subject, member) each."""

    claims: tuple[tuple[str, str], ...]

    def apply(self, context: Context) -> None:
        """Write them; the claims' lock is held."""
        call = context.call
        for subject, member in self.claims:
            claims.claim(call.roots, subject, member, claims.owner(call.identity))

    def undo(self, context: Context) -> None:
        call = context.call
        heirs = set()
        with claims.guarded(call.roots, call.deadline, undoing=True):
            for subject, member in self.claims:
                claims.release(call.roots, subject, member, call.identity)
                for entry in claims.members(call.roots, subject).values():
                    heirs.add(claims.owner_of(entry))
        for heir in heirs - {call.identity}:
            if heir.container_id == call.container_id:
                _take_over(call, heir)

    @classmethod
    def collect(cls, context: Context) -> None:
        call = context.call
        keep = {Identity(call.network, container, ifname) for container, ifname in call.valid or ()}
        with claims.guarded(call.roots, call.deadline):
            claims.sweep(call.roots, call.network, keep)


def _take_over(call: Call, heir: Identity) -> None:
    """Publish for `heir` what an attachment of the same container has given up. Nobody detaches it meanwhile:
    its record is locked, which no call does that waits for this one's, as who gave up first has no heir in
    who does so later. Where somebody keeps it for long, its claims tell afterwards whether it has gone.
    """
    for _, found in records.every(call.roots, heir.network):
        if found.identity != heir or not _published(found):
            continue
        try:
            record = records.find(call.roots, heir, found.head["plugin"], call.deadline.sooner(_HEIR_SECONDS))
        except CniError as error:
            if error.code is not Code.TRY_AGAIN:
                raise
            _publish_for(call, heir, found)
            if not _still_claims(call, heir, found):
                for wanted in _published(found):
                    ports.remove(call.host, heir, wanted)
            continue
        if record is not None:
            with record:
                if record.contents is not None:
                    _publish_for(call, heir, record.contents)


def _publish_for(call: Call, heir: Identity, contents: Contents) -> None:
    own = replace(call, network=heir.network, ifname=heir.ifname)
    for wanted in _published(contents):
        _place(own, wanted, ports.add)


def _published(contents: Contents) -> list[Publication]:
    """What a complete attachment publishes by nf_tables."""
    lines = [line for line in contents.steps if line.get("step") == registry.Kind.PORTS]
    steps = map(registry.decode, lines if contents.result is not None else [])
    return [item.wanted for item in steps if isinstance(item, Ports) and item.keys is None]


def _still_claims(call: Call, heir: Identity, contents: Contents) -> bool:
    forwards = [item for wanted in _published(contents) for item in wanted.forwards]
    subjects = {_subject(call, item.protocol, item.host_port) for item in forwards}
    entries = [entry for each in subjects for entry in claims.members(call.roots, each).values()]
    return heir in map(claims.owner_of, entries)


def remove_commented(context: Context, chain: str, comment: str) -> None:
    """Remove the rules of an iptables chain that carry `comment`. CniError 11 or 999."""
    call = context.call
    versions = iptables.versions_with(call.host, [chain])
    if versions:
        with context.iptables_lock(undoing=True):
            for version in versions:
                tool = Tool(call.host, version, call.deadline)
                call.warn(iptables.remove_commented(tool, chain, comment))


def require_nftables(call: Call) -> None:
    """CniError 50 on a kernel without nf_tables."""
    with Nfnetlink(call.host) as socket:
        if not socket.supported:
            raise CniError(Code.NOT_AVAILABLE, "ports cannot be published: this kernel has no nf_tables")


def _for_iptables(wanted: Publication, target: IpInterface, keys: IptablesKeys) -> iptables.Publication:
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


def _udp_ports(forwards: Iterable[Forward]) -> list[UdpPort]:
    return [
        UdpPort(item.host_ip, item.host_port, item.target.ip, item.container_port)
        for item in forwards
        if item.protocol == "udp"
    ]


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
        found.setdefault((item.protocol, item.host_port), set()).add(_scope(item))
    return found


def _scope(forward: Forward) -> str:
    return _ANY if forward.host_ip is None else str(forward.host_ip)


def _subject(call: Call, protocol: str, port: int) -> str:
    return f"port-{call.host.inode}-{protocol}-{port}"


def _overlaps(scope: str) -> Callable[[str], bool]:
    """Whether a member's claim, `SCOPE` or `SCOPE@TAG` of one that came later, concerns `scope`."""
    return lambda member: member.partition("@")[0] in {scope, _ANY} or scope == _ANY


def claims_of(context: Context, forwards: Iterable[Forward]) -> PortClaims:
    """The claims that publishing makes; the claims' lock is held. CniError 103 naming the container that has
    one of the ports.
    """
    call = context.call
    made = []
    for (protocol, number), scopes in _scopes(forwards).items():
        subject = _subject(call, protocol, number)
        for scope in scopes:
            member = scope
            for other, holder in claims.living(call.roots, subject, call.identity, _overlaps(scope)):
                if holder.container_id != call.container_id:
                    of = "" if other == _ANY else f" of {other.partition('@')[0]}"
                    raise _taken(f"{number}/{protocol}{of}", _named(holder))
                member = f"{scope}@{owner.tag(call.identity)}"
            made.append((subject, member))
    return PortClaims(tuple(made))


def _named(identity: Identity) -> str:
    return f"container {identity.container_id} (network {identity.network}, interface {identity.ifname})"
