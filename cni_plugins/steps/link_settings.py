"""Settings of a link that is there: MAC address, MTU, queue length and flags."""

from dataclasses import dataclass

from cni_plugins.kernel import links
from cni_plugins.kernel.links import Link
from cni_plugins.kernel.netlink.route import Netlink
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.steps.context import Context
from cni_plugins.steps.step import Step, step

_FLAGS = (
    ("up", links.IFF_UP),
    ("promisc", links.IFF_PROMISC),
    ("allmulti", links.IFF_ALLMULTI),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a link gets; None leaves alone. `flags` are set, `clear` are cleared (IFF_*)."""

    mac: str | None = None
    mtu: int | None = None
    queue: int | None = None
    flags: int = 0
    clear: int = 0

    def values(self) -> dict[str, object]:
        """As links.change() takes them."""
        named = {"address": self.mac, "mtu": self.mtu, "txqlen": self.queue}
        return {key: value for key, value in named.items() if value is not None}


@step
class LinkSettings(Step):
    """Settings of the link `name`: of the container's namespace, or, when `host_mac` is given, of the host's
    with that MAC address. `before` is what undo puts back.
    """

    name: str
    wanted: Settings
    before: Settings
    host_mac: str = ""

    def _found(self, context: Context) -> tuple[Netlink, Link] | None:
        if not self.host_mac and context.sandbox_namespace is None:
            return None
        netlink = context.host if self.host_mac else context.sandbox
        link = links.find(netlink, self.name)
        if link is None or (self.host_mac and link.mac != self.host_mac):
            return None
        return netlink, link

    def _change(self, context: Context, settings: Settings, *, undoing: bool = False) -> bool:
        found = self._found(context)
        if found is None:
            return False
        netlink, link = found
        message = links.change(
            link.name,
            link.index,
            set_flags=settings.flags,
            clear_flags=settings.clear,
            **settings.values(),
        )
        netlink.request(message.unless_gone() if undoing else message)
        return True

    def apply(self, context: Context) -> None:
        if not self._change(context, self.wanted):
            raise CniError(Code.INTERNAL, f"link {self.name} vanished before it was changed")

    def undo(self, context: Context) -> None:
        self._change(context, self.before, undoing=True)

    def check(self, context: Context) -> None:
        found = self._found(context)
        if found is None:
            raise CniError(Code.INTERNAL, f"there is no interface {self.name} any more")
        link, plugin = found[1], context.call.plugin
        there: dict[str, object] = {"mac": link.mac, "mtu": link.mtu, "txQLen": link.queue}
        asked: dict[str, object] = {
            "mac": self.wanted.mac,
            "mtu": self.wanted.mtu,
            "txQLen": self.wanted.queue,
        }
        for name, bit in _FLAGS:
            there[name] = bool(link.flags & bit)
            asked[name] = True if self.wanted.flags & bit else False if self.wanted.clear & bit else None
        for name, value in asked.items():
            if value is not None and value != there[name]:
                raise CniError(Code.INTERNAL, f"{name} of {self.name} is {there[name]}, {plugin} set {value}")
