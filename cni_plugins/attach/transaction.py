"""A transaction: everything an ADD changes is announced in the record first, and taken back if the ADD fails.

`intend(undo)` writes the undo to the record and returns; only then is the change made. Rolling back is the
same replay that DEL runs later, so that there is one way to take things down. A delegate or a chain member of
ours shares its caller's transaction.
"""

from dataclasses import replace
from typing import Any

from cni_plugins.attach.context import Context
from cni_plugins.attach.undo import Undo, replay
from cni_plugins.spec.deadline import after
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.result import Result, encode
from cni_plugins.spec.values import JsonObject
from cni_plugins.spec.versions import NEWEST
from cni_plugins.store.records import Record, undo_line

_SECONDS = 10.0


class Transaction:
    """`record` is None for an IPAM plugin that is called by itself: its reservations are its record."""

    __slots__ = ("_record", "_undos", "context")

    def __init__(self, context: Context, record: Record | None) -> None:
        self.context = context
        self._record = record
        self._undos: list[JsonObject] = []

    def intend(self, op: str, **args: Any) -> None:
        """Record how to take back the change that comes next. CniError 5."""
        undo = Undo(op, args)
        line = undo_line(undo.op, undo.args)
        if self._record is not None:
            self._record.append(line)
        self._undos.append(line)

    def cancel(self) -> None:
        """The change of the last `intend` was not made, and what it would undo is not ours. CniError 5."""
        if self._record is not None:
            self._record.append({"cancel": True})
        self._undos.pop()

    @property
    def changed(self) -> bool:
        """Whether there is anything to take back."""
        return bool(self._undos)

    def rollback(self) -> list[CniError]:
        """Take back what was announced, newest first, and return what went wrong. It has time of its own,
        since ADD may have used up what it had.
        """
        call = replace(self.context.call, deadline=after(_SECONDS))
        with Context(call, self.context.plugins, self.context.sandbox_namespace) as context:
            return replay(context, self._undos)

    def commit(self, result: Result) -> None:
        """Write the result to the record. CniError 5."""
        if self._record is not None:
            self._record.append({"result": encode(result, NEWEST)})
