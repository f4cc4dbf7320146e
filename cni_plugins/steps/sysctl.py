"""Network sysctls of a container, put back by undo."""

from cni_plugins.kernel import sysctl
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.steps.context import Context
from cni_plugins.steps.step import Step, step


@step
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
