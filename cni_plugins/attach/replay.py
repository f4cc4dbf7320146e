"""A record's steps, read and taken down."""

from collections.abc import Sequence

from cni_plugins.spec.errors import CniError, Code
from cni_plugins.steps import registry
from cni_plugins.steps.context import Context
from cni_plugins.steps.step import Step
from cni_plugins.store.records import Contents, number_of


def steps_of(contents: Contents, *, undoing: bool = False) -> list[Step]:
    """The steps that stand, oldest first; for `undoing` only those that have something to undo, with what an
    update has replaced. CniError 999 when one is of a kind that this release does not know: then none may be
    touched, because what it does not know may need the others.
    """
    found: list[Step] = []
    for line in contents.steps:
        if not undoing and contents.going and number_of(line) in contents.going:
            continue
        if "undo" in line:
            from cni_plugins.steps import version1  # noqa: PLC0415 - every kind of step; such records get rare

            found.append(version1.decode(line, contents))
        elif not undoing or registry.class_of(line).undo is not Step.undo:
            found.append(registry.decode(line))
    return found


def undo_all(context: Context, steps: Sequence[Step]) -> list[CniError]:
    """Undo steps, newest first; errors are collected and the rest goes on."""
    errors: list[CniError] = []
    groups: list[list[Step]] = []
    for step in reversed(steps):
        if groups and groups[-1][-1].goes_with(step):
            groups[-1].append(step)
        else:
            groups.append([step])
    for group in groups:
        try:
            group[0].undo_together(context, group)
        except CniError as error:
            errors.append(error)
        except Exception as error:  # one broken undo must not keep the others from running
            name = type(group[0]).__name__
            errors.append(CniError(Code.INTERNAL, f"undo {name}: {type(error).__name__}", str(error)))
    return errors


def joined(what: str, errors: list[CniError]) -> CniError:
    """One error out of several: the first one's code, everybody's words."""
    return CniError(errors[0].code, what, "; ".join(str(error) for error in errors))
