"""Update: attachments that are there get what an operator wants, without being made anew.

Of each attachment one transaction over its record. The operations of the plan (attach/planning.py) are
written to the record before they are made, like those of an ADD; then one line makes the new list of steps,
configuration and result the record's, as if an ADD had made them; then what the new list has no more is taken
away. A failure before that line takes back all that was done, and a process that dies leaves it to the next
CHECK, reload or update, or to DEL and GC, which take all of it. After the line they finish what is left. The
record's lock keeps DEL out meanwhile, and a DEL that was first wins: there is no record then.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cni_plugins.attach.changes import Changes
from cni_plugins.attach.lifecycle import recorded_context, settle
from cni_plugins.attach.planning import plan
from cni_plugins.attach.plans.plan import Operation, Plan
from cni_plugins.attach.plugin import Plugin
from cni_plugins.attach.reload import call_of
from cni_plugins.attach.replay import steps_of, undo_all
from cni_plugins.spec.call import Call
from cni_plugins.spec.deadline import after
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.result import decode, encode
from cni_plugins.spec.roots import Roots
from cni_plugins.spec.values import JsonObject, parse_ip
from cni_plugins.spec.versions import NEWEST
from cni_plugins.steps import registry
from cni_plugins.steps.context import Context
from cni_plugins.steps.ports import PortClaims
from cni_plugins.steps.reservation import Reservation
from cni_plugins.steps.step import Step
from cni_plugins.store import claims, records
from cni_plugins.store.records import Contents, Record
from cni_plugins.store.reservations import opened

Plugins = Mapping[str, Plugin[Any]]

_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Wish:
    """`apply` False only plans. `disrupt` allows what costs packets or flows, `force` what others know the
    attachment by (the first address of a family, on Mesos).
    """

    apply: bool = True
    disrupt: bool = False
    force: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one attachment. `problems` say why nothing was changed, `leftovers` what could not be
    taken away yet. `action` is "update", or "add" and "remove" of a whole network (membership.py); `result`
    is what its ADD answered, `notes` are what its plugins had to say.
    """

    identity: Identity
    plugin: str
    operations: tuple[Operation, ...] = ()
    problems: tuple[str, ...] = ()
    disruptions: tuple[str, ...] = ()
    leftovers: tuple[str, ...] = ()
    changed: bool = False
    revision: int = 0
    action: str = "update"
    result: JsonObject | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Where:
    """The host's namespace, its files and the plugins that work there."""

    roots: Roots
    host: Namespace
    plugins: Plugins = field(repr=False)


def update(
    where: Where,
    wanted: Callable[[Contents], Changes | Sequence[str]],
    wish: Wish,
    *,
    network: str | None = None,
    container: str | None = None,
) -> Iterator[Outcome]:
    """Update the attachments of a network, of a container, or of both, one after the other. `wanted` says
    what of each, or why it cannot be told. Nothing raises; what went wrong is in the outcomes.
    """
    for path, listed in records.every(where.roots, network):
        if container is not None and listed.identity.container_id != container:
            continue
        host = [where.host.device, where.host.inode]
        if listed.head.get("hostID", host) != host:
            continue
        plugin = str(listed.head["plugin"])
        try:
            record = records.open_path(path, after(_SECONDS))
            if record is None:
                yield Outcome(listed.identity, plugin, problems=("it has been detached meanwhile",))
                continue
            with record:
                yield _one(record, Outcome(listed.identity, plugin), where, wanted, wish)
        except CniError as error:
            yield Outcome(listed.identity, plugin, problems=(str(error),))


def _one(
    record: Record,
    outcome: Outcome,
    where: Where,
    wanted: Callable[[Contents], Changes | Sequence[str]],
    wish: Wish,
) -> Outcome:
    contents = record.contents
    changes = _asked(contents, wanted)
    if contents is None or contents.result is None or not isinstance(changes, Changes):
        return replace(outcome, problems=() if isinstance(changes, Changes) else tuple(changes))
    call = replace(call_of(contents, where.roots, where.host), deadline=after(_SECONDS))
    if wish.apply:
        settle(record, call, where.plugins)
        contents = record.contents or contents
    with recorded_context(contents, call, where.plugins) as context:
        made = plan(changes, steps_of(contents), decode(contents.result, NEWEST), context, force=wish.force)
        outcome = replace(
            outcome,
            operations=tuple(made.operations),
            problems=tuple(made.problems),
            disruptions=tuple(made.disruptions),
            revision=contents.revision,
        )
        if not made.problems and wish.apply and made.disruptions and not wish.disrupt:
            outcome = replace(outcome, problems=(f"{'; '.join(made.disruptions)}: --disrupt allows it",))
        if outcome.problems or not wish.apply:
            return outcome
        if not made.operations and made.config == context.call.config:
            return outcome
        transaction = _Work(record, contents, made, context)
        return _carry_out(transaction, changes, outcome)


def _asked(
    contents: Contents | None, wanted: Callable[[Contents], Changes | Sequence[str]]
) -> Changes | Sequence[str]:
    """The changes, or why there are none."""
    if contents is None or contents.result is None:
        return ("its ADD has not come through: DEL is all that is left for it",)
    if contents.version < records.VERSION:
        return ("an older release attached it, and its record does not tell enough: attach it anew",)
    return wanted(contents)


@dataclass(frozen=True, slots=True)
class _Work:
    """One attachment while it is updated."""

    record: Record
    contents: Contents
    made: Plan
    context: Context


def _carry_out(work: _Work, changes: Changes, outcome: Outcome) -> Outcome:
    record, contents, made, context = work.record, work.contents, work.made, work.context
    record.append(records.update_line(changes.keys or ("configuration",), contents.last_id))
    number = contents.last_id
    done: list[tuple[int, Step]] = []
    try:
        for operation in (*made.additions, *made.switches):
            number += 1
            line = records.step_line(
                registry.kind_of(operation.step), number, registry.encode(operation.step)
            )
            record.append(line)
            done.append((number, operation.step))
            _make(operation.step, context)
        going, revision = _complete(record, contents, made, number)
    except BaseException as error:
        errors = _take_back(record, done, context)
        if not isinstance(error, CniError):
            raise
        left = f"; not all could be taken back: {'; '.join(map(str, errors))}" if errors else ""
        return replace(outcome, problems=(f"{error}{left}",))
    leftovers = []
    for number, step in going:
        leftovers += [str(item) for item in _undo(record, number, step, context)]
    return replace(outcome, changed=True, leftovers=tuple(leftovers), revision=revision)


def _complete(
    record: Record, contents: Contents, made: Plan, number: int
) -> tuple[list[tuple[int, Step]], int]:
    """Write the line that makes the new form the record's; what is to be taken away, with its numbers."""
    lines = []
    for step in made.steps:
        number += 1
        lines.append(records.step_line(registry.kind_of(step), number, registry.encode(step)))
    going = []
    for operation in made.removals:
        number += 1
        lines.append(
            records.step_line(registry.kind_of(operation.step), number, registry.encode(operation.step))
        )
        going.append((number, operation.step))
    revision = contents.revision + 1
    record.append(
        records.updated_line(
            encode(made.result, NEWEST), revision, made.config, lines, [item for item, _ in going]
        )
    )
    return going, revision


def _make(step: Step, context: Context) -> None:
    """Make a step; of what others may have taken meanwhile only what is free."""
    call = context.call
    if isinstance(step, Reservation):
        with opened(step.directory, call.roots, context.deadline) as reservations:
            if not reservations.free(parse_ip(step.address)):
                holder = (reservations.content(step.address) or "").partition("\r\n")[0]
                raise CniError(Code.INVALID_CONFIG, f"address {step.address} is in use by container {holder}")
            reservations.reserve(parse_ip(step.address), step.owner)
        return
    if isinstance(step, PortClaims):
        with claims.guarded(call.roots, context.deadline):
            step.apply(context)
        return
    step.apply(context)


def _take_back(record: Record, done: list[tuple[int, Step]], context: Context) -> list[CniError]:
    """Undo what an update did, newest first; it has time of its own."""
    call: Call = replace(context.call, deadline=after(_SECONDS))
    errors: list[CniError] = []
    with Context(call, context.plugins, context.sandbox_namespace, complete=True) as fresh:
        for number, step in reversed(done):
            errors += _undo(record, number, step, fresh)
    if not errors:
        try:
            record.append(records.update_line((), 0))
        except CniError as error:
            errors.append(error)
    return errors


def _undo(record: Record, number: int, step: Step, context: Context) -> list[CniError]:
    """Undo one step and note it. What cannot be noted (a full disk) is undone once more later."""
    problems = undo_all(context, [step])
    if not problems:
        try:
            record.append(records.undone_line(number))
        except CniError as error:
            problems.append(error)
    return problems
