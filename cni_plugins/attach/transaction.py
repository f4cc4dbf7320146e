"""A transaction: everything an ADD changes is a step, in the record before it is made, and taken back if the
ADD fails.

`apply(step)` writes the step to the record, then makes it. Rolling back is the same replay that DEL runs
later, so that there is one way to take things down. A delegate or a chain member of ours shares its caller's
transaction.
"""

from dataclasses import replace
from typing import TypeVar

from cni_plugins.attach.replay import undo_all
from cni_plugins.spec.deadline import after
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.result import Result, encode
from cni_plugins.spec.versions import NEWEST
from cni_plugins.steps import registry
from cni_plugins.steps.context import Context
from cni_plugins.steps.step import Step
from cni_plugins.store import records
from cni_plugins.store.records import Record

_SECONDS = 10.0
S = TypeVar("S", bound=Step)


class Transaction:
    """`record` is None for an IPAM plugin that is called by itself: its reservations are its record."""

    __slots__ = ("_number", "_record", "_steps", "context")

    def __init__(self, context: Context, record: Record | None) -> None:
        self.context = context
        self._record = record
        contents = record.contents if record is not None else None
        self._number = contents.last_id if contents is not None else 0
        self._steps: list[tuple[int, Step]] = []

    @property
    def alone(self) -> bool:
        """Whether an IPAM plugin was called by itself, for a MAIN plugin of somebody else."""
        return self._record is None

    def apply(self, step: Step) -> None:
        """Record a step, then make it. CniError of the step, 5 when the record cannot be written."""
        self.intend(step)
        step.apply(self.context)

    def intend(self, step: Step) -> None:
        """Record a step that the caller makes next. CniError 5."""
        self._number += 1
        if self._record is not None:
            line = records.step_line(registry.kind_of(step), self._number, registry.encode(step))
            self._record.append(line)
        self._steps.append((self._number, step))

    def cancel(self) -> None:
        """The last step was not made, and will not be. CniError 5."""
        number, _ = self._steps[-1]
        if self._record is not None:
            self._record.append(records.undone_line(number))
        self._steps.pop()

    def retire(self, number: int, step: Step) -> None:
        """Take back one step of the record, which others stand without: for an update. CniError."""
        step.undo(self.context)
        if self._record is not None:
            self._record.append(records.undone_line(number))

    def renew(self, old: Step, new: Step) -> None:
        """Make `new`, which does again all that `old` of this ADD did: undone, checked and known is `new`
        alone. CniError of the step, 5.
        """
        self.apply(new)
        number = next(number for number, step in self._steps if step is old)
        if self._record is not None:
            self._record.append(records.undone_line(number))
        self._steps = [item for item in self._steps if item[1] is not old]

    def standing(self, kind: type[S]) -> list[tuple[int, S]]:
        """The steps of a kind that earlier ADDs of the attachment left in the record, with their numbers."""
        contents = self._record.contents if self._record is not None else None
        lines = contents.steps if contents is not None else ()
        found = [
            (records.number_of(line), registry.decode(line))
            for line in lines
            if "undo" not in line and registry.class_of(line) is kind
        ]
        return [(number, item) for number, item in found if isinstance(item, kind)]

    def settle(self, number: int, wanted: Step) -> None:
        """The last step, a change, has made of the step `number` of an earlier ADD what `wanted` says: that
        one stands in the record from now on, instead of both. CniError 5.
        """
        made = self._steps[-1][0]
        self.intend(wanted)
        self._steps.pop()  # a roll-back takes the change back, and the limit stays
        if self._record is not None:
            for done in (made, number):
                self._record.append(records.undone_line(done))

    def supersede(self, number: int) -> None:
        """A step of an earlier ADD is not there any more: another one took its place. CniError 5."""
        if self._record is not None:
            self._record.append(records.undone_line(number))

    @property
    def changed(self) -> bool:
        """Whether there is anything to take back."""
        return bool(self._steps)

    def rollback(self) -> list[CniError]:
        """Take back what was recorded, newest first, and return what went wrong. It has time of its own,
        since ADD may have used up what it had.
        """
        call = replace(self.context.call, deadline=after(_SECONDS))
        with Context(call, self.context.plugins, self.context.sandbox_namespace) as context:
            return undo_all(context, [step for _, step in self._steps])

    def commit(self, result: Result) -> None:
        """Write the result to the record. CniError 5."""
        if self._record is None:
            return
        contents = self._record.contents
        revision = 1 + (contents.revision if contents is not None else 0)
        self._record.append(records.added_line(encode(result, NEWEST), revision))
