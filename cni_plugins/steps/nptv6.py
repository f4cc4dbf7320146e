"""Prefix translation of IPv6 (`nptv6`): the world knows a container by an address of another prefix."""

from collections.abc import Iterator, Sequence

from cni_plugins.kernel import routes
from cni_plugins.kernel.netlink.netfilter import NFPROTO_INET
from cni_plugins.kernel.nft import nptv6, orphans, owner
from cni_plugins.kernel.nft.nptv6 import Mapped
from cni_plugins.kernel.nft.tables import Unused
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.nptv6 import PrefixPair, external_of
from cni_plugins.spec.values import IpInterface, parse_cidr
from cni_plugins.steps.context import Context
from cni_plugins.steps.step import Step, step
from cni_plugins.store import claims


@step
class Nptv6(Step):
    """`addresses` of the internal prefixes are translated to the external ones and back, except within their
    own subnets.

    What of an external prefix no container has is unreachable, so that it does not go to and fro between the
    host and the router that leads the prefix here. That route is every attachment's of the prefix: each
    claims it, and the last one takes it away.
    """

    pairs: tuple[PrefixPair, ...]
    addresses: tuple[IpInterface, ...]

    @property
    def mapped(self) -> list[Mapped]:
        """The addresses that have an external one."""
        return [
            Mapped(address, external)
            for address in self.addresses
            if (external := external_of(self.pairs, address.ip)) is not None
        ]

    def those(self, addresses: Sequence[IpInterface]) -> tuple[IpInterface, ...]:
        """Of some addresses those of the internal prefixes."""
        return tuple(item for item in addresses if self._external(item) is not None)

    def maps(self, address: IpInterface) -> bool:
        """Whether an address has an external one."""
        return external_of(self.pairs, address.ip) is not None

    def _external(self, address: IpInterface) -> IpInterface | None:
        return next((pair.external for pair in self.pairs if address.ip in pair.internal.network), None)

    def _claims(self, context: Context) -> Iterator[tuple[IpInterface, str, str]]:
        """The external prefix of each address, and the claim on it: its subject, and the member. A member
        for each address, because an update takes them away one by one.
        """
        tag = owner.tag(context.call.identity)
        for address in self.addresses:
            prefix = self._external(address)
            if prefix is not None:
                yield prefix, _subject(context, prefix), f"{tag}-{address.ip}"

    def apply(self, context: Context) -> None:
        """CniError 5, 7, 11 or 999."""
        call = context.call
        with claims.guarded(call.roots, call.deadline):
            for _, subject, member in self._claims(context):
                claims.claim(call.roots, subject, member, claims.owner(call.identity))
            self._route(context)
        nptv6.add(call.host, call.identity, self.mapped)

    def _route(self, context: Context) -> None:
        prefixes = dict.fromkeys(prefix for prefix, _, _ in self._claims(context))
        if prefixes:
            context.host.request(*(routes.unreachable(item, last=True) for item in prefixes))

    def restore(self, context: Context) -> None:
        call = context.call
        self._route(context)
        if not nptv6.present(call.host, call.identity, self.mapped):
            nptv6.repair(call.host, call.identity, self.mapped)

    def undo(self, context: Context) -> None:
        """The claim goes last, as it says what is still to be done."""
        call = context.call
        nptv6.remove(call.host, call.identity, self.mapped)
        call.idle.append(Unused(call.host, NFPROTO_INET))
        with claims.guarded(call.roots, call.deadline, undoing=True):
            for prefix, subject, member in self._claims(context):
                if list(claims.members(call.roots, subject)) == [member]:
                    context.host.request(routes.reachable(prefix, last=True))
                claims.release(call.roots, subject, member, call.identity)

    def check(self, context: Context) -> None:
        """CniError 999 when addresses are not translated, or the rest of a prefix would go in circles."""
        call = context.call
        if not nptv6.present(call.host, call.identity, self.mapped, context.counts):
            listed = ", ".join(f"{item.internal.ip} to {item.external}" for item in self.mapped)
            raise CniError(
                Code.INTERNAL,
                f"nptv6 is set, but {call.ifname} of container {call.container_id} is not translated",
                f"{listed}; mesokit reload makes the rules again",
            )
        for prefix in dict.fromkeys(item[0] for item in self._claims(context)):
            if not routes.is_routed(context.host, prefix):
                raise CniError(
                    Code.INTERNAL,
                    f"the host has no route for the external prefix {prefix.network}: packets to addresses "
                    "of it that no container has go back to where they came from",
                    "mesokit reload makes it again",
                )

    @classmethod
    def collect(cls, context: Context) -> None:
        call = context.call
        orphans.remove(call.host, call.network, context.keep, nptv6.SETS)
        call.idle.append(Unused(call.host, NFPROTO_INET))
        keep = {Identity(call.network, container, ifname) for container, ifname in call.valid or ()}
        with claims.guarded(call.roots, call.deadline):
            for subject in claims.subjects(call.roots, _beginning(context)):
                owners = claims.members(call.roots, subject).values()
                if all(
                    claims.owner_of(item) not in keep and not claims.alive(call.roots, item)
                    for item in owners
                ):
                    context.host.request(routes.reachable(_prefix_of(context, subject), last=True))
            claims.sweep(call.roots, call.network, keep)


def _beginning(context: Context) -> str:
    return f"nptv6-{context.call.host.inode}-"


def _subject(context: Context, prefix: IpInterface) -> str:
    return f"{_beginning(context)}{prefix}".replace("/", "_")


def _prefix_of(context: Context, subject: str) -> IpInterface:
    return parse_cidr(subject.removeprefix(_beginning(context)).replace("_", "/"))
