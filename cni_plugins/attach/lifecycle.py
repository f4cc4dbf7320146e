"""The life of an attachment: how each verb runs a plugin, around its record.

ADD    opens and locks the record, takes down what a crashed ADD left in it, runs the plugin in a transaction,
       and takes everything back when that fails.
DEL    undoes the record's steps and removes it, also under another network name, if prevResult proves that
       the attachment is meant. Without one the kinds of steps that the plugin knows remove what a reference
       plugin left, if anything.
CHECK  checks the record's steps; without one, those that the configuration and prevResult speak of.
GC     takes down the records of this plugin on this network that the runtime does not list, unless they are
       younger than the call, then lets the kinds of steps do the same for what has no record.
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cni_plugins.attach import added, delegation, renamed
from cni_plugins.attach.plugin import Kind, Plugin
from cni_plugins.attach.replay import joined, steps_of, undo_all
from cni_plugins.attach.transaction import Transaction
from cni_plugins.attach.wishes import require_granted
from cni_plugins.kernel.interface import index_of
from cni_plugins.kernel.namespace import fingerprint
from cni_plugins.spec.call import Call, Verb
from cni_plugins.spec.deadline import after
from cni_plugins.spec.dispatch import Handler
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.namespace import Namespace, open_namespace, own_mounts
from cni_plugins.spec.result import Result, decode
from cni_plugins.spec.versions import NEWEST
from cni_plugins.steps.context import Context, Shared, collection_lock
from cni_plugins.steps.step import Step
from cni_plugins.store import boot, records
from cni_plugins.store.records import Contents, Record, number_of

Plugins = Mapping[str, Plugin[Any]]

# Set by the launcher: one number for a call, and a mark on the repetition of a call whose service died in it.
CALL_ID = "MESOKIT_CALL"
REPEATS = "MESOKIT_REPEATS"
_HELD_SECONDS = 1.0


def handler(plugin: Plugin[Any], plugins: Plugins) -> Handler:
    """The plugin as the dispatcher serves it."""
    return Handler(
        plugin.name,
        plugin.about,
        plugin.versions,
        partial(serve, plugin, plugins),
        sandboxed=plugin.kind is not Kind.IPAM,
    )


def serve(plugin: Plugin[Any], plugins: Plugins, call: Call) -> Result | None:
    """Serve any verb but VERSION. CniError."""
    if call.verb is Verb.ADD:
        return (
            _add_unrecorded(plugin, plugins, call)
            if plugin.kind is Kind.IPAM
            else _add(plugin, plugins, call)
        )
    if call.verb is Verb.DEL:
        _delete(plugin, plugins, call)
    elif call.verb is Verb.GC:
        _collect(plugin, plugins, call)
    else:
        if call.verb is Verb.CHECK and call.previous is None and plugin.kind is not Kind.IPAM:
            raise CniError(
                Code.INVALID_CONFIG,
                "Required prevResult missing",
                "CHECK needs the result of ADD: key 'prevResult' is missing",
            )
        if call.verb is Verb.STATUS:
            records.require_writable(call.roots)
        recorded, seen = (
            _recorded_steps(plugin, plugins, call) if call.verb is Verb.CHECK else (None, call.previous)
        )
        with Context(replace(call, previous=seen), plugins, call.sandbox, recorded) as context:
            delegation.run_verb(call.verb, plugin, call, context)
    return None


def _recorded_steps(
    plugin: Plugin[Any], plugins: Plugins, call: Call
) -> tuple[list[Step] | None, Result | None]:
    """What the attachment's record says that is there, and the result that the steps are compared with; None
    without a record that says it: of version 1, of another namespace, of an ADD that did not come through.
    After an update the result is the record's: what the runtime remembers of the ADD is history.
    """
    if plugin.kind is Kind.IPAM or call.sandbox is None:
        return None, call.previous
    added.settle(call, partial(take_down, plugins=plugins))
    record = records.find(call.roots, call.identity, plugin.name, call.deadline)
    if record is None:
        return None, call.previous
    with record:
        contents = record.contents
        if contents is None or contents.version < records.VERSION or contents.result is None:
            return None, call.previous
        if contents.head.get("netnsID") != fingerprint(call.sandbox):
            return None, call.previous
        settle(record, call, plugins)
        contents = record.contents or contents
        seen = decode(contents.result, NEWEST) if contents.updated else call.previous
        return steps_of(contents), seen


def settle(record: Record, call: Call, plugins: Plugins) -> None:
    """End what an update that died left: one that is not complete is taken back, of one that is the steps
    that it replaced. CniError.
    """
    contents = record.contents
    if contents is None or (contents.begun is None and not contents.going):
        return
    first = contents.begun
    doomed = [
        line
        for line in contents.steps
        if number_of(line) in contents.going or (first is not None and number_of(line) > first)
    ]
    steps = steps_of(replace(contents, steps=tuple(doomed), going=frozenset()))
    with recorded_context(contents, call, plugins) as context:
        errors = undo_all(context, steps)
    if errors:
        raise joined("an update that was interrupted cannot be ended", errors)
    for line in doomed:
        record.append(records.undone_line(number_of(line)))
    if first is not None:
        record.append(records.update_line((), 0))
    record.reread()


def _add_unrecorded(plugin: Plugin[Any], plugins: Plugins, call: Call) -> Result:
    with Context(call, plugins, call.sandbox) as context:
        if call.env.get(REPEATS):
            delegation.run_verb(Verb.DEL, plugin, call, context)
        tx = Transaction(context, None)
        try:
            return delegation.run_add(plugin, call, tx)
        except BaseException:
            tx.rollback()
            raise


def _add(plugin: Plugin[Any], plugins: Plugins, call: Call) -> Result:
    with (
        _created(plugin, call) as record,
        Context(call, plugins, call.sandbox) as context,
    ):
        done = _done_before(call, record.contents)
        if done is not None:
            return done
        if record.contents is not None and not _continues(plugin, call, record.contents):
            _clear(record, record.contents, call, plugins)
        _begin(record, plugin, call)
        with collection_lock(call, shared=True):
            pass
        tx = Transaction(context, record)
        try:
            result = delegation.run_add(plugin, call, tx)
            require_granted(call, result)
            tx.commit(result)
        except BaseException as error:
            _take_back(tx, record, error)
            raise
        if not tx.changed and record.contents is None:
            record.remove()
        return result


def _created(plugin: Plugin[Any], call: Call) -> Record:
    """The attachment's record, opened, made if need be. CniError 5 or 11."""
    while True:
        record = records.create(call.roots, call.identity, plugin.name, call.deadline)
        if not record.unreadable:
            return record
        with record:
            _retire(record, call)


def _begin(record: Record, plugin: Plugin[Any], call: Call) -> None:
    """Write whose the record is; where there is no room for that, no file either. CniError 5."""
    try:
        record.append(_head(plugin, call))
    except CniError:
        if record.contents is None:
            record.remove()
        raise


def _take_back(tx: Transaction, record: Record, error: BaseException) -> None:
    """Roll back; what cannot be taken back now stays in the record for DEL, and the error says so."""
    problems = tx.rollback()
    if not problems:
        if record.contents is None:
            record.remove()
        return
    if isinstance(error, CniError):
        left = "; ".join(str(problem) for problem in problems)
        error.details = f"{error.details}; not all could be taken back, DEL will try again: {left}".lstrip(
            "; "
        )


def _head(plugin: Plugin[Any], call: Call) -> dict[str, Any]:
    sandbox = call.sandbox
    return {
        "version": records.VERSION,
        "network": call.network,
        "containerID": call.container_id,
        "ifname": call.ifname,
        "plugin": plugin.name,
        "call": call.env.get(CALL_ID, ""),
        "netns": call.netns_path,
        "netnsID": fingerprint(sandbox) if sandbox is not None else None,
        "hostID": [call.host.device, call.host.inode],
        "mountID": own_mounts(),
        "boot": boot.current(),
        "time": time.time(),
        "began": call.began,
        "config": call.config,
    } | ({added.HEAD: True} if call.env.get(added.MARK) else {})


def _done_before(call: Call, contents: Contents | None) -> Result | None:
    """The result of this very call, which a node service finished and died before it could say so."""
    call_id = call.env.get(CALL_ID)
    if not call_id or contents is None or contents.result is None or contents.head.get("call") != call_id:
        return None
    return decode(contents.result, NEWEST)


def _continues(plugin: Plugin[Any], call: Call, contents: Contents) -> bool:
    """Whether an existing record goes on: a meta plugin that stands twice in a list. CniError 7 for a second
    ADD of an interface that exists."""
    sandbox = call.sandbox
    if contents.result is None or sandbox is None:
        return False
    if contents.head.get("netnsID") != fingerprint(sandbox):
        return False
    if plugin.kind is Kind.META and call.previous is not None:
        return True
    if not index_of(sandbox, call.ifname):
        return False
    raise CniError(
        Code.INVALID_CONFIG,
        f"container {call.container_id} already has {call.ifname} on network {call.network}; DEL comes first",
    )


def _clear(record: Record, contents: Contents, call: Call, plugins: Plugins) -> None:
    """Finish what a crashed or forgotten ADD left, then start the record anew. CniError."""
    errors = _replay(contents, call, plugins)
    if errors:
        raise joined("an earlier attachment of the same name cannot be taken down", errors)
    record.clear()


def _replay(contents: Contents, call: Call, plugins: Plugins) -> list[CniError]:
    """Undo the steps of a record and return what went wrong; nothing is touched when one is not known."""
    try:
        steps = steps_of(contents, undoing=True)
    except CniError as error:
        return [error]
    with recorded_context(contents, call, plugins) as context:
        return undo_all(context, steps)


@contextmanager
def recorded_context(
    contents: Contents, call: Call, plugins: Plugins, shared: Shared | None = None
) -> Iterator[Context]:
    """Where the steps of a record work: its attachment's identity and namespace, and the time of `call`."""
    sandbox, opened = _recorded_namespace(contents, call)
    try:
        complete = contents.result is not None
        own = _recorded_call(contents, call)
        with Context(own, plugins, sandbox, complete=complete, shared=shared) as context:
            yield context
    finally:
        if opened and sandbox is not None:
            os.close(sandbox.fd)


def _recorded_call(contents: Contents, call: Call) -> Call:
    identity = contents.identity
    return replace(
        call,
        network=identity.network,
        container_id=identity.container_id,
        ifname=identity.ifname,
        netns_path=contents.head.get("netns", ""),
        config=contents.head.get("config", {}),
    )


def _recorded_namespace(contents: Contents, call: Call) -> tuple[Namespace | None, bool]:
    """The namespace that the record is about and whether we opened it; None if it is gone or its path names
    another.
    """
    wanted = contents.head.get("netnsID")
    if call.sandbox is not None and fingerprint(call.sandbox) == wanted:
        return call.sandbox, False
    path = contents.head.get("netns", "")
    try:
        found = open_namespace(path) if path else None
    except CniError:
        return None, False
    if found is None:
        return None, False
    if found.same(call.host) or fingerprint(found) != wanted:
        os.close(found.fd)
        return None, False
    return found, True


def _delete(plugin: Plugin[Any], plugins: Plugins, call: Call) -> None:
    _detach(plugin, plugins, call)
    if plugin.kind is not Kind.IPAM:
        added.follow(call, partial(take_down, plugins=plugins))


def _detach(plugin: Plugin[Any], plugins: Plugins, call: Call) -> None:
    if plugin.kind is not Kind.IPAM:
        record = records.find(call.roots, call.identity, plugin.name, call.deadline)
        if record is not None:
            with record:
                if record.contents is not None:
                    take_down(record, record.contents, call, plugins)
                    return
                _retire(record, call)
        record = renamed.find(call, plugin.name)
        if record is not None:
            with record:
                assert record.contents is not None  # find() has read it
                take_down(record, record.contents, call, plugins)
                return
    with Context(call, plugins, call.sandbox) as context:
        delegation.run_verb(Verb.DEL, plugin, call, context)


def _retire(record: Record, call: Call) -> None:
    """Put a file that is no record out of the way, and say so. CniError 5."""
    place = record.retire()
    if place:
        call.warn(
            f"the attachment record {record.path} is unreadable: what is found without it is removed, and it "
            f"is kept as {place}"
        )


def take_down(record: Record, contents: Contents, call: Call, plugins: Plugins) -> None:
    """Undo a record's steps and remove it, as its DEL does. CniError joining what could not be undone."""
    errors = _replay(contents, call, plugins)
    if errors:
        who = contents.identity
        raise joined(f"cannot remove all of {who.ifname} on network {who.network}", errors)
    record.remove()


def _collect(plugin: Plugin[Any], plugins: Plugins, call: Call) -> None:
    """CniError joining what could not be removed. An absent list is not an empty one: then nothing is
    done.
    """
    if call.valid is None:
        raise CniError(
            Code.INVALID_CONFIG,
            "GC needs the list of attachments to keep: cni.dev/valid-attachments is missing",
        )
    errors: list[CniError] = []
    containers = set()
    for path in records.blank(call.roots, call.network):
        with _unused(path) as record:
            if record is not None and record.contents is None:
                _retire(record, call)
    for path, contents in records.every(call.roots, call.network):
        if contents.head.get("plugin") != plugin.name or _is_kept(contents, call):
            continue
        try:
            # With a result its ADD is over: who holds it may be making rules again, and is waited for.
            with _unused(path, 0 if contents.result is None else _HELD_SECONDS) as record:
                if record is not None:
                    found = record.contents or contents
                    if found.head == contents.head and not _is_kept(found, call):  # else made anew meanwhile
                        take_down(record, found, call, plugins)
                        containers.add(found.identity.container_id)
        except CniError as error:
            errors.append(error)
    rest = [
        partial(added.follow, replace(call, container_id=item), partial(take_down, plugins=plugins))
        for item in sorted(containers)
    ]
    with Context(call, plugins, None) as context:
        for part in (partial(delegation.run_verb, Verb.GC, plugin, call, context), *rest):
            try:
                part()
            except CniError as error:
                errors.append(error)
    if errors:
        raise joined(f"GC of network {call.network} left something", errors)


def _is_kept(contents: Contents, call: Call) -> bool:
    """Whether GC's list has the attachment, or need not have it, because its ADD was not over by then: a
    list of records that was read while the ADD was starting, or libcni's cache, which knows results alone.
    """
    identity = contents.identity
    if (identity.container_id, identity.ifname) in (call.valid or ()) or added.stays(contents):
        return True
    began = contents.head.get("began")
    came = max(began if isinstance(began, float) else 0.0, contents.ended)
    return came > call.began and contents.head.get("boot") == boot.current()


@contextmanager
def _unused(path: Path, seconds: float = 0) -> Iterator[Record | None]:
    """The record, unless it has gone or a call has been working on its attachment for `seconds`: that one is
    newer than GC's list.
    """
    try:
        record = records.open_path(path, after(seconds))
    except CniError as error:
        if error.code != Code.TRY_AGAIN:
            raise
        record = None
    if record is None:
        yield None
        return
    with record:
        yield record
