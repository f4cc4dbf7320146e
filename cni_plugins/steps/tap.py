"""A TAP device in the container, whose other end is whoever opens it there.

It is made under a name that nobody has and renamed. Its identity is the container's namespace, its kind and
its MAC address; once the ADD came through also its name, because a task may change the address.
"""

from cni_plugins.kernel import links, tap, verify
from cni_plugins.kernel.links import Link
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Result
from cni_plugins.steps import mtu
from cni_plugins.steps.context import Context
from cni_plugins.steps.step import Step, step

_KIND = "tun"  # as the kernel calls both kinds of its driver


@step
class Tap(Step):
    """`owner` and `group` are the ids that may open it, -1: root alone; `label` is the SELinux context that
    it is made in, "" the caller's; `bridge` is a bridge of the container, "" for none; `mtu` 0 the kernel's.
    """

    ifname: str
    temporary: str
    mac: str
    mtu: int = 0
    owner: int = -1
    group: int = -1
    multi_queue: bool = False
    label: str = ""
    bridge: str = ""

    def apply(self, context: Context) -> None:
        """CniError 7 when the container has no such bridge, 50 without the driver, 999; also when the
        container has a link of the name by now.
        """
        master = self._bridge(context)
        owner, group = (None if each < 0 else each for each in (self.owner, self.group))
        if self.label:
            tap.create_labelled(
                context.inside,
                self.temporary,
                self.label,
                context.deadline,
                owner=owner,
                group=group,
                multi_queue=self.multi_queue,
            )
        else:
            tap.create(context.inside, self.temporary, owner=owner, group=group, multi_queue=self.multi_queue)
        link = links.find(context.sandbox, self.temporary)
        if link is None:
            raise CniError(Code.INTERNAL, f"TAP device {self.temporary} vanished as soon as it was made")
        values: dict[str, int] = {"mtu": self.mtu} if self.mtu else {}
        values |= {"master": master.index} if master is not None else {}
        context.sandbox.request(
            links.change(self.temporary, link.index, ifname=self.ifname, address=self.mac, **values)
        )

    def _bridge(self, context: Context) -> Link | None:
        if not self.bridge:
            return None
        link = links.find(context.sandbox, self.bridge)
        if link is None or link.kind != "bridge":
            raise CniError(
                Code.INVALID_CONFIG,
                f"bridge is {self.bridge!r}, and the container has no such bridge",
            )
        return link

    def _ours(self, context: Context, link: Link) -> bool:
        if link.kind != _KIND:
            return False
        named = link.name == self.ifname and context.complete
        return named or link.mac == self.mac or link.name == self.temporary

    def undo(self, context: Context) -> None:
        if context.sandbox_namespace is None:
            return
        for link in links.every(context.sandbox):
            if self._ours(context, link):
                links.remove(context.sandbox, link.name, link.index)

    def check(self, context: Context) -> None:
        link = verify.link(context.sandbox, self.ifname, _KIND, context.call.previous or Result())
        master = self._bridge(context)
        if master is not None and link.master != master.index:
            raise CniError(Code.INTERNAL, f"{self.ifname} is no port of bridge {self.bridge}")
        mtu.require_mtu(context, link, self.mtu)
