"""Network sysctls: of a container, put back by undo, and the host's forwarding, which stays."""

from dataclasses import dataclass

from cni_plugins.kernel import sysctl
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.steps.context import Context
from cni_plugins.steps.step import Step


@dataclass(frozen=True, slots=True)
class Sysctl(Step):
    """`net/<name>` of the container. Undo leaves a value alone that is not `after` any more."""

    name: str
    before: str
    after: str

    def apply(self, context: Context) -> None:
        sysctl.write(context.inside, {self.name: self.after})

    def undo(self, context: Context) -> None:
        if context.sandbox_namespace is None:
            return
        found = sysctl.read(context.sandbox_namespace, self.name)
        # Of several numbers the kernel prints tabs where a configuration has spaces.
        if found is not None and found.split() == self.after.split():
            sysctl.write(context.sandbox_namespace, {self.name: self.before})

    def check(self, context: Context) -> None:
        found = sysctl.read(context.inside, self.name)
        if found is None or found.split() != self.after.split():
            raise CniError(
                Code.INTERNAL,
                f"sysctl net/{self.name} is {found!r}, {context.call.plugin} set {self.after!r}",
            )


_FORWARD = {4: "ipv4/ip_forward", 6: "ipv6/conf/all/forwarding"}


@dataclass(frozen=True, slots=True)
class Forwarding(Step):
    """The host forwards packets of these families (4, 6). It is not turned off again: nobody can know who
    else counts on it.
    """

    versions: tuple[int, ...]

    def apply(self, context: Context) -> None:
        sysctl.ensure(context.call.host, {_FORWARD[version]: "1" for version in self.versions})

    def restore(self, context: Context) -> None:
        self.apply(context)

    def check(self, context: Context) -> None:
        for version in self.versions:
            name = _FORWARD[version]
            if sysctl.read(context.call.host, name) != "1":
                raise CniError(
                    Code.INTERNAL,
                    f"the host does not forward IPv{version} packets: net/{name} is not 1",
                    f"sysctl -w net.{name.replace('/', '.')}=1",
                )
