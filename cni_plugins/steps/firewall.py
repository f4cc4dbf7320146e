"""What the firewall plugin makes: an attachment's addresses may forward (`Admit`), and its interface on the
host is kept from those of other guarded networks (`Fence`).

Rules of iptables and sources of firewalld are told by address alone, as the reference plugin writes them, and
an interface may serve many containers: so both are claimed (store.claims), and the last claimant takes them
away. Elements of nf_tables carry their attachment's tag.
"""

from enum import StrEnum

from cni_plugins.kernel import firewalld, iptables, iptables_filter
from cni_plugins.kernel.netlink.netfilter import NFPROTO_BRIDGE, NFPROTO_INET
from cni_plugins.kernel.nft import firewall, orphans, owner
from cni_plugins.kernel.nft.tables import Unused
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.values import Ip
from cni_plugins.steps.context import Context
from cni_plugins.steps.step import Step, step
from cni_plugins.store import claims

BUS = "DBUS_SYSTEM_BUS_ADDRESS"


class Backend(StrEnum):
    """Who keeps the rules."""

    NFTABLES = "nftables"
    IPTABLES = "iptables"
    FIREWALLD = "firewalld"


def by_family(addresses: tuple[Ip, ...]) -> dict[int, list[Ip]]:
    families: dict[int, list[Ip]] = {}
    for ip in addresses:
        families.setdefault(ip.version, []).append(ip)
    return families


def _tool(context: Context, version: int) -> iptables.Tool:
    return iptables_filter.tool(context.call.host, version, context.call.deadline)


def _admitted(context: Context, ip: Ip) -> str:
    return f"admitted-{context.call.host.inode}-{ip}"


@step
class Admit(Step):
    """`addresses` may forward, and get answers. `admin_chain` is iptables', `zone` firewalld's."""

    backend: Backend
    addresses: tuple[Ip, ...]
    admin_chain: str = ""
    zone: str = ""

    def apply(self, context: Context) -> None:
        """CniError 5, 11 or 999."""
        call = context.call
        if self.backend is not Backend.NFTABLES:
            with claims.guarded(call.roots, call.deadline):
                for ip in self.addresses:
                    subject, member = _admitted(context, ip), owner.tag(call.identity)
                    claims.claim(call.roots, subject, member, claims.owner(call.identity))
        self._make(context)

    def _make(self, context: Context) -> None:
        call = context.call
        if self.backend is Backend.NFTABLES:
            firewall.admit(call.host, call.identity, self.addresses)
        elif self.backend is Backend.FIREWALLD:
            bus = call.env.get(BUS, "")
            firewalld.add_sources(call.deadline, bus, self.zone, list(self.addresses))
        else:
            with context.iptables_lock():
                for version, listed in by_family(self.addresses).items():
                    iptables_filter.admit(_tool(context, version), listed, self.admin_chain)

    def restore(self, context: Context) -> None:
        if self.backend is Backend.NFTABLES:
            firewall.repair(context.call.host)
        self._make(context)

    def undo(self, context: Context) -> None:
        call = context.call
        if self.backend is Backend.NFTABLES:
            firewall.withdraw(call.host, call.identity, self.addresses)
            call.idle.append(Unused(call.host, NFPROTO_INET))
            return
        with claims.guarded(call.roots, call.deadline, undoing=True):
            member = owner.tag(call.identity)
            last = tuple(
                ip
                for ip in self.addresses
                if not claims.members(call.roots, _admitted(context, ip)).keys() - {member}
            )
            _take_back(context, self.backend, last, self.zone)
            for ip in self.addresses:
                claims.release(call.roots, _admitted(context, ip), member, call.identity)

    def check(self, context: Context) -> None:
        """CniError 999 when the addresses are not accepted, by us or by the reference plugin."""
        call = context.call
        if self.backend is Backend.NFTABLES and firewall.admitted(call.host, call.identity, self.addresses):
            return
        if self.backend is Backend.FIREWALLD and firewalld.has_sources(
            call.deadline, call.env.get(BUS, ""), self.zone, list(self.addresses)
        ):
            return
        if self.backend is Backend.IPTABLES and all(
            iptables_filter.admitted(_tool(context, version), listed)
            for version, listed in by_family(self.addresses).items()
        ):
            return
        raise CniError(
            Code.INTERNAL,
            f"the firewall does not let {', '.join(map(str, self.addresses))} of container "
            f"{call.container_id} forward (backend {self.backend.value})",
            "mesokit reload makes the rules again",
        )

    @classmethod
    def collect(cls, context: Context) -> None:
        call = context.call
        orphans.remove(call.host, call.network, context.keep, firewall.ADMITTED)
        keep = {Identity(call.network, container, ifname) for container, ifname in call.valid or ()}
        with claims.guarded(call.roots, call.deadline):
            claims.sweep(call.roots, call.network, keep)

    @classmethod
    def remove_legacy(cls, context: Context) -> None:
        """The reference plugin's rules are known by the addresses of prevResult alone, and stay where an
        attachment of ours has such an address.
        """
        call = context.call
        addresses = tuple(entry.address.ip for entry in call.previous.ips) if call.previous else ()
        versions = iptables.versions_with(call.host, [iptables_filter.FORWARD], iptables_filter.TABLE)
        with claims.guarded(call.roots, call.deadline, undoing=True):
            free = tuple(
                ip
                for ip in addresses
                if ip.version in versions and not claims.members(call.roots, _admitted(context, ip))
            )
            if free:
                _take_back(context, Backend.IPTABLES, free, "")


def _take_back(context: Context, backend: Backend, addresses: tuple[Ip, ...], zone: str) -> None:
    call = context.call
    if not addresses:
        return
    if backend is Backend.FIREWALLD:
        firewalld.remove_sources(call.deadline, call.env.get(BUS, ""), zone, list(addresses))
        return
    with context.iptables_lock(undoing=True):
        for version, listed in by_family(addresses).items():
            call.warn(iptables_filter.withdraw(_tool(context, version), listed))


@step
class Fence(Step):
    """What comes from the host's `interface` towards the container does not get to other fenced interfaces;
    with `closed` not to another container behind the same one either: `port` is then the attachment's own
    bridge port, "" where there is no bridge.
    """

    backend: Backend
    interface: str
    closed: bool
    port: str
    versions: tuple[int, ...]

    def _subject(self, context: Context, *, closed: bool) -> str:
        kind = f"fence-{'closed' if closed else 'open'}-{self.backend.value}"
        return f"{kind}-{context.call.host.inode}-{self.interface}"

    def apply(self, context: Context) -> None:
        """CniError 5, 11 or 999."""
        call = context.call
        with claims.guarded(call.roots, call.deadline):
            subject = self._subject(context, closed=self.closed)
            claims.claim(call.roots, subject, owner.tag(call.identity), claims.owner(call.identity))
            self._make(context)

    def _make(self, context: Context) -> None:
        call = context.call
        if self.port:
            firewall.close(call.host, call.identity, self.port)
        if self.backend is not Backend.IPTABLES:
            firewall.fence(call.host, self.interface, closed=self.closed)
            return
        with context.iptables_lock():
            for version in self.versions:
                iptables_filter.fence(_tool(context, version), self.interface, closed=self.closed)

    def restore(self, context: Context) -> None:
        if self.port:
            firewall.repair_ports(context.call.host)
        if self.backend is not Backend.IPTABLES:
            firewall.repair(context.call.host)
        self._make(context)

    def undo(self, context: Context) -> None:
        call = context.call
        if self.port:
            firewall.reopen(call.host, call.identity, self.port)
            call.idle.append(Unused(call.host, NFPROTO_BRIDGE))
        with claims.guarded(call.roots, call.deadline, undoing=True):
            subject, member = self._subject(context, closed=self.closed), owner.tag(call.identity)
            if not claims.members(call.roots, subject).keys() - {member}:
                self._open(context)
            claims.release(call.roots, subject, member, call.identity)

    def _open(self, context: Context) -> None:
        call = context.call
        others = bool(claims.members(call.roots, self._subject(context, closed=not self.closed)))
        if self.backend is not Backend.IPTABLES:
            firewall.unfence(call.host, self.interface, closed=self.closed, fenced_still=others)
            call.idle.append(Unused(call.host, NFPROTO_INET))
            return
        with context.iptables_lock(undoing=True):
            for version in self.versions:
                tool = _tool(context, version)
                if others and not self.closed:
                    continue  # the closed fence has all the rules of an open one
                call.warn(
                    iptables_filter.unfence(tool, self.interface, closed=self.closed, fenced_still=others)
                )

    def check(self, context: Context) -> None:
        """CniError 999 when the interface is open to others."""
        call = context.call
        if self.port and not firewall.closed(call.host, call.identity, self.port):
            raise self._open_error(context)
        if self.backend is Backend.IPTABLES:
            there = all(
                iptables_filter.fenced(_tool(context, version), self.interface, closed=self.closed)
                for version in self.versions
            )
        else:
            there = firewall.fenced(call.host, self.interface, closed=self.closed)
        if not there:
            raise self._open_error(context)

    def _open_error(self, context: Context) -> CniError:
        policy = "isolated" if self.closed else "same-bridge"
        return CniError(
            Code.INTERNAL,
            f"ingressPolicy is {policy}, but {self.interface} of container {context.call.container_id} is "
            f"open to others (backend {self.backend.value})",
            "mesokit reload makes the rules again",
        )

    @classmethod
    def collect(cls, context: Context) -> None:
        call = context.call
        orphans.remove(call.host, call.network, context.keep, firewall.CLOSED, NFPROTO_BRIDGE)
