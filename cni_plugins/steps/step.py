"""What every step is: the interface, with nothing to do as the default of each function."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, dataclass_transform

from cni_plugins.steps.context import Context

S = TypeVar("S", bound="Step")


@dataclass_transform(frozen_default=True)
def step(cls: type[S]) -> type[S]:
    """The decorator of a step: a frozen dataclass with slots. Comparison and text come from the base, because
    what dataclass() writes anew for each class costs a call without service 0.13 ms at import.
    """
    return dataclass(frozen=True, slots=True, eq=False, repr=False)(cls)


class Step:
    """The base of steps; see the package for what the functions mean. All raise CniError."""

    __slots__ = ()

    def _values(self) -> dict[str, Any]:
        fields: dict[str, Any] = getattr(type(self), "__dataclass_fields__", {})
        return {name: getattr(self, name) for name in fields}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Step) and type(self) is type(other) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self), tuple(self._values().values())))

    def __repr__(self) -> str:
        fields = ", ".join(f"{key}={value!r}" for key, value in self._values().items())
        return f"{type(self).__name__}({fields})"

    def apply(self, context: Context) -> None:
        """Make the change."""

    def undo(self, context: Context) -> None:
        """Take the change back, if it is there and ours."""

    def goes_with(self, other: "Step") -> bool:
        """Whether `undo_together` takes back this step and `other` at once: one of thousands has no lock of
        its own then.
        """
        return False

    def undo_together(self, context: Context, steps: Sequence["Step"]) -> None:
        """`undo` of several, of which each goes with the one before; this one is the first."""
        for step in steps:
            step.undo(context)

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
