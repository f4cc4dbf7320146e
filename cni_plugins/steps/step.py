"""What every step is: the interface, with nothing to do as the default of each function."""

from cni_plugins.steps.context import Context


class Step:
    """The base of steps; see the package for what the functions mean. All raise CniError."""

    __slots__ = ()

    def apply(self, context: Context) -> None:
        """Make the change."""

    def undo(self, context: Context) -> None:
        """Take the change back, if it is there and ours."""

    def check(self, context: Context) -> None:
        """CniError 999 when the change is not in the kernel as it was made."""

    def restore(self, context: Context) -> None:
        """Make again what can be flushed by somebody else without the attachment going with it."""

    @classmethod
    def collect(cls, context: Context) -> None:
        """Remove what no record covers, of the network of a GC. Called under the network's lock."""

    @classmethod
    def remove_legacy(cls, context: Context) -> None:
        """Remove what a reference plugin left for the attachment of a DEL without a record."""
