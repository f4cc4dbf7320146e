"""The host's forwarding, which stays, and what IPv6 forwarding would cost a host that lives on router
advertisements (see kernel/forwarding.py), which is put back.
"""

from cni_plugins.kernel import forwarding
from cni_plugins.kernel.forwarding import Uplink
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.steps.context import Context
from cni_plugins.steps.step import Step, step
from cni_plugins.store import claims


@step
class Forwarding(Step):
    """The host forwards packets of these families (4, 6). It is not turned off again: nobody can know who
    else counts on it.
    """

    versions: tuple[int, ...]

    def apply(self, context: Context) -> None:
        forwarding.turn_on(context.call.host, self.versions)

    def restore(self, context: Context) -> None:
        self.apply(context)

    def check(self, context: Context) -> None:
        known = context.forwards
        for version in self.versions:
            if version not in known:
                known[version] = forwarding.is_on(context.call.host, version)
            if not known[version]:
                name = forwarding.SYSCTLS[version]
                raise CniError(
                    Code.INTERNAL,
                    f"the host does not forward IPv{version} packets: net/{name} is not 1",
                    f"sysctl -w net.{name.replace('/', '.')}=1",
                )


@step
class AdvertisedRouters(Step):
    """The host goes on to believe the routers that advertise themselves by these links though it forwards.
    All that count on the forwarding claim it (`subject`, `member`); the last one puts the links back, unless
    the host still forwards.
    """

    subject: str
    member: str
    links: tuple[Uplink, ...]

    def apply(self, context: Context) -> None:
        """The claims' lock is held."""
        call = context.call
        listed = [[item.name, item.index] for item in self.links]
        claims.claim(call.roots, self.subject, self.member, claims.owner(call.identity, links=listed))
        self.restore(context)

    def restore(self, context: Context) -> None:
        forwarding.keep_routers(context.call.host, self.links)

    def undo(self, context: Context) -> None:
        """The claim goes last, as it says what is still to be done."""
        call = context.call
        with claims.guarded(call.roots, call.deadline, undoing=True):
            if list(claims.members(call.roots, self.subject)) == [self.member]:
                forwarding.release_routers(call.host, self.links)
            claims.release(call.roots, self.subject, self.member, call.identity)


def _subject(context: Context) -> str:
    return f"routers-{context.call.host.inode}"


def costs_nothing(context: Context) -> bool:
    """Whether the host forwards IPv6 already, and nobody holds links for that."""
    call = context.call
    return forwarding.is_on(call.host, 6) and not claims.members(call.roots, _subject(context))


def advertised_routers(context: Context) -> AdvertisedRouters | None:
    """What has to be done before the host forwards IPv6, None for nothing. The claims' lock is held."""
    from cni_plugins.kernel.nft import owner  # noqa: PLC0415 - most hosts have no such router

    call, subject = context.call, _subject(context)
    found = set() if forwarding.is_on(call.host, 6) else set(forwarding.uplinks(context.host))
    for entry in claims.members(call.roots, subject).values():
        found.update(Uplink(str(name), int(index)) for name, index in entry.get("links", ()))
    if not found:
        return None
    links = tuple(sorted(found, key=lambda item: item.index))
    return AdvertisedRouters(subject, owner.tag(call.identity), links)
