"""An address that is reserved in host-local's files."""

from collections.abc import Sequence
from pathlib import Path

from cni_plugins.spec import files
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.values import parse_ip
from cni_plugins.steps.context import Context
from cni_plugins.steps.step import Step, step
from cni_plugins.store.reservations import Owner, opened


@step
class Reservation(Step):
    """The file of `address` in `directory`, which holds its owner. The plugin that chooses the address writes
    the file under the same lock.
    """

    directory: str
    address: str
    container_id: str
    ifname: str

    @property
    def owner(self) -> Owner:
        return Owner(self.container_id, self.ifname)

    def apply(self, context: Context) -> None:
        with opened(self.directory, context.call.roots, context.deadline) as reservations:
            reservations.reserve(parse_ip(self.address), self.owner)

    def undo(self, context: Context) -> None:
        """Free the address if it is still its owner's."""
        self.undo_together(context, [self])

    def goes_with(self, other: Step) -> bool:
        return (
            isinstance(other, Reservation) and other.directory == self.directory and other.owner == self.owner
        )

    def undo_together(self, context: Context, steps: Sequence[Step]) -> None:
        names = [one.address for one in steps if isinstance(one, Reservation)]
        if Path(self.directory).is_dir():
            roots, deadline = context.call.roots, context.deadline
            with opened(self.directory, roots, deadline, undoing=True) as reservations:
                reservations.release_all(names, self.owner)

    def check(self, context: Context) -> None:
        if not self._stands():
            raise CniError(
                Code.INTERNAL,
                f"address {self.address} is not reserved for {self.ifname} of {self.container_id} in "
                f"{self.directory}",
            )

    def restore(self, context: Context) -> None:
        """Reserve the address again while nobody else has it: CniError 999 then."""
        if self._stands():
            return
        with opened(self.directory, context.call.roots, context.deadline) as reservations:
            content = reservations.content(self.address)
            if content and not self.owner.holds(content):
                raise CniError(
                    Code.INTERNAL,
                    f"address {self.address} of {self.ifname} of {self.container_id} was given to "
                    f"{content.split()[0]} meanwhile ({self.directory}): end one of the two",
                )
            if not content:
                reservations.reserve(parse_ip(self.address), self.owner)

    def _stands(self) -> bool:
        try:
            content = files.read(f"{self.directory}/{self.address}").decode("utf-8", "replace")
        except OSError:
            return False
        return self.owner.holds(content)
