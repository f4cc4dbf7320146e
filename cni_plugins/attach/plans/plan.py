"""A plan: the new form of an attachment, and the operations that lead there."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cni_plugins.spec.result import Result
from cni_plugins.spec.values import JsonObject, fold
from cni_plugins.steps.step import Step

S = TypeVar("S", bound=Step)

NOTHING_LOST = "no packet is lost"


@dataclass(frozen=True, slots=True)
class Operation:
    """One step of an update; `effect` is what a user of the container feels."""

    step: Step
    what: str
    effect: str = NOTHING_LOST


@dataclass(slots=True)
class Plan:
    """`steps`, `result` and `config` are those of the new form, `others` the steps of further records of the
    attachment, which stay. `problems` are reasons why it cannot be,
    `disruptions` what is lost on the way.
    """

    steps: list[Step]
    result: Result
    config: JsonObject
    others: tuple[Step, ...] = ()
    additions: list[Operation] = field(default_factory=list)
    switches: list[Operation] = field(default_factory=list)
    removals: list[Operation] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    disruptions: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def operations(self) -> list[Operation]:
        return [*self.additions, *self.switches, *self.removals]

    def first(self, kind: type[S]) -> S | None:
        return next((item for item in self.steps if isinstance(item, kind)), None)

    def swap(self, old: Step, new: Step | None) -> None:
        at = self.steps.index(old)
        self.steps[at : at + 1] = [] if new is None else [new]

    def add(self, new: Step, after: type[Step] | None = None, before: type[Step] | None = None) -> None:
        """Put a step where an ADD makes it: after the last, or before the first, of another kind."""
        behind = [number + 1 for number, item in enumerate(self.steps) if after and isinstance(item, after)]
        ahead = [number for number, item in enumerate(self.steps) if before and isinstance(item, before)]
        self.steps.insert((behind[-1:] or ahead[:1] or [len(self.steps)])[0], new)


def documents(config: JsonObject) -> Iterable[JsonObject]:
    """A configuration, what it delegates to, and the members of its chain."""
    yield config
    inner = fold(config, "delegate")
    if isinstance(inner, dict):
        yield from documents(inner)
    members = fold(config, "plugins")
    for member in members if isinstance(members, list) else ():
        if isinstance(member, dict):
            yield from documents(member)


def copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return [copied(item) for item in value] if isinstance(value, list) else value


def of_type(config: JsonObject, *names: str) -> JsonObject | None:
    return next((item for item in documents(config) if fold(item, "type") in names), None)


def lacking(key: str, what: str, plugin: str) -> str:
    """Why a key cannot be changed: no plugin of ours has a record in which it could."""
    return (
        f"{key}: no plugin of this attachment {what}: its network has no {plugin}, or one that its runtime "
        "gave nothing to do when it attached the container: give it something, or make the list one chain"
    )


def put(document: JsonObject, key: str, value: Any) -> None:
    """Set a key that may be written in other cases."""
    written = next((name for name in document if name.casefold() == key.casefold()), key)
    document[written] = value
