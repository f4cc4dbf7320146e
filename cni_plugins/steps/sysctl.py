"""Network sysctls of a container, put back by undo."""

from contextlib import suppress

from cni_plugins.kernel import sysctl
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.steps.context import Context
from cni_plugins.steps.step import Step, step


@step
class Sysctl(Step):
    """`net/<name>` of the container. Undo leaves a value alone that is not `after` any more, and one that the
    kernel does not take back as the container is by now: no task may keep its own DEL from coming through.
    """

    name: str
    before: str
    after: str

    def apply(self, context: Context) -> None:
        try:
            sysctl.write(context.inside, {self.name: self.after})
        except CniError:
            # Of several numbers where one is expected the kernel takes the first, and then refuses.
            with suppress(CniError):
                sysctl.write(context.inside, {self.name: self.before})
            raise

    def undo(self, context: Context) -> None:
        if context.sandbox_namespace is None:
            return
        found = sysctl.read(context.sandbox_namespace, self.name)
        # Of several numbers the kernel prints tabs where a configuration has spaces.
        if found is not None and found.split() == self.after.split():
            with suppress(CniError):
                sysctl.write(context.sandbox_namespace, {self.name: self.before})

    def check(self, context: Context) -> None:
        found = sysctl.read(context.inside, self.name)
        if found is None or found.split() != self.after.split():
            raise CniError(
                Code.INTERNAL,
                f"sysctl net/{self.name} is {found!r}, {context.call.plugin} set {self.after!r}",
            )
