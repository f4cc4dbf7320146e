"""Update: attachments that are there get what an operator wants, without being made anew.

Of each attachment one transaction over its record (of a list whose plugins a runtime calls one by one, over
each of theirs: sharing.py). The operations of the plan (attach/planning.py) are
written to the record before they are made, like those of an ADD; then one line makes the new list of steps,
configuration and result the record's, as if an ADD had made them; then what the new list has no more is taken
away. A failure before that line takes back all that was done, and a process that dies leaves it to the next
CHECK, reload or update, or to DEL and GC, which take all of it. After the line they finish what is left. The
record's lock keeps DEL out meanwhile, and a DEL that was first wins: there is no record then.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cni_plugins.attach.changes import Changes
from cni_plugins.attach.lifecycle import recorded_context, settle
from cni_plugins.attach.planning import plan
from cni_plugins.attach.plans.plan import Operation, Plan
from cni_plugins.attach.plugin import Plugin
from cni_plugins.attach.reload import call_of
from cni_plugins.attach.replay import steps_of, undo_all
from cni_plugins.attach.sharing import gives_addresses, share, shared
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
Wanted = Callable[[Contents], Changes | Sequence[str]]

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
    wanted: Wanted,
    wish: Wish,
    *,
    network: str | None = None,
    container: str | None = None,
) -> Iterator[Outcome]:
    """Update the attachments of a network, of a container, or of both, one after the other. `wanted` says
    what of each, or why it cannot be told. Nothing raises; what went wrong is in the outcomes.
    """
    found: dict[Identity, list[Path]] = {}
    made: set[Identity] = set()  # those that have more than `lo`, which a runtime may attach each pod's of
    host = [where.host.device, where.host.inode]
    for path, listed in sorted(records.every(where.roots, network), key=lambda item: _moment(item[1])):
        if container is not None and listed.identity.container_id != container:
            continue
        if listed.head.get("hostID", host) == host:
            found.setdefault(listed.identity, []).append(path)
            if listed.head.get("plugin") != "loopback":
                made.add(listed.identity)
    for identity, paths in found.items():
        if made and identity not in made and network is None:
            continue
        yield from _attachment(where, _Target(identity, tuple(paths), wanted), wish)


@dataclass(frozen=True, slots=True)
class _Target:
    """An attachment, its records, oldest first, and what is wanted of each."""

    identity: Identity
    paths: tuple[Path, ...]
    wanted: Wanted


def _moment(contents: Contents) -> float:
    moment = contents.head.get("time")
    return float(moment) if isinstance(moment, int | float) else 0.0


def _attachment(where: Where, target: _Target, wish: Wish) -> Iterator[Outcome]:
    """The outcomes of an attachment's records; of several nothing is changed where one refuses."""
    if len(target.paths) > 1 and wish.apply:
        plans = replace(wish, apply=False)
        planned = [_record(where, target, path, plans) for path in target.paths]
        refused = [item for item in planned if item is not None and _refused(item, wish)]
        if refused:
            yield from (_with_disruptions(item, wish) for item in refused)
            return
    for path in target.paths:
        outcome = _record(where, target, path, wish)
        if outcome is not None:
            yield outcome


def _refused(outcome: Outcome, wish: Wish) -> bool:
    return bool(outcome.problems or (outcome.disruptions and not wish.disrupt))


def _with_disruptions(outcome: Outcome, wish: Wish) -> Outcome:
    if outcome.problems or not outcome.disruptions or wish.disrupt:
        return outcome
    return replace(outcome, problems=(f"{'; '.join(outcome.disruptions)}: --disrupt allows it",))


def _record(where: Where, target: _Target, path: Path, wish: Wish) -> Outcome | None:
    """What became of one record; None where nothing of what is wanted is for it."""
    plugin, identity = "", target.identity
    try:
        record = records.open_path(path, after(_SECONDS))
        if record is None:
            return Outcome(identity, plugin, problems=("it has been detached meanwhile",))
        with record:
            if record.contents is not None:
                plugin = str(record.contents.head["plugin"])
            return _one(record, Outcome(identity, plugin), where, target, wish)
    except CniError as error:
        return Outcome(identity, plugin, problems=(str(error),))


def _one(
    record: Record,
    outcome: Outcome,
    where: Where,
    target: _Target,
    wish: Wish,
) -> Outcome | None:
    contents = record.contents
    changes = _asked(contents, target.wanted)
    looks = {path: contents if path == record.path else records.look(path) for path in target.paths}
    every = [item for item in looks.values() if item is not None]
    others = [item for item in every if item is not contents]
    if contents is not None and isinstance(changes, Changes):
        part = share(changes, contents, every)
        if part is None:
            return None
        changes = part
    if contents is None or contents.result is None or not isinstance(changes, Changes):
        return replace(outcome, problems=() if isinstance(changes, Changes) else tuple(changes))
    call = replace(call_of(contents, where.roots, where.host), deadline=after(_SECONDS))
    if wish.apply:
        settle(record, call, where.plugins)
        contents = record.contents or contents
    with recorded_context(contents, call, where.plugins) as context:
        known = shared(others)
        result = decode(contents.result, NEWEST)
        if known.result is not None and not gives_addresses(contents):
            result = replace(result, ips=known.result.ips, routes=known.result.routes)
        made = plan(changes, steps_of(contents), result, context, others=known.steps, force=wish.force)
        outcome = replace(
            outcome,
            operations=tuple(made.operations),
            problems=tuple(made.problems),
            disruptions=tuple(made.disruptions),
            revision=contents.revision,
        )
        if wish.apply:
            outcome = _with_disruptions(outcome, wish)
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
