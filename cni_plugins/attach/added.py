"""Attachments that a runtime knows nothing of, because an operator added them to a running container: how
they end.

They go with the container. The runtime's DEL (or GC) of the last attachment that it made itself takes down
the added ones too, whatever network they are on; a GC of their own network spares them until then, since no
runtime lists them. What an operator's call that died left is ended by the next CHECK, DEL, GC, reload or
update: an attachment that is not complete is taken back, one that was being taken away goes.

Their routes stand behind those that the container has, and their subnets are others.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cni_plugins.attach.replay import joined
from cni_plugins.kernel import addresses, links, routes
from cni_plugins.kernel.namespace import fingerprint
from cni_plugins.spec.call import Call
from cni_plugins.spec.deadline import after
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.namespace import open_namespace
from cni_plugins.spec.result import Address, Route
from cni_plugins.spec.roots import Roots
from cni_plugins.steps.context import Context
from cni_plugins.store import added, records
from cni_plugins.store.records import Contents, Record

#: In the environment of an ADD that an operator makes, and in the head of its record.
MARK = "MESOKIT_ADDED"
HEAD = "added"

TakeDown = Callable[[Record, Contents, Call], None]

_MOMENT_SECONDS = 0.05


def own(roots: Roots, container_id: str) -> Iterator[tuple[Path, Contents]]:
    """The records of what the container's runtime attached itself. Reads all records of the node: ask only
    for a container that something was added to.
    """
    for path, contents in records.every(roots):
        if contents.identity.container_id == container_id and not contents.head.get(HEAD):
            yield path, contents


def stays(contents: Contents) -> bool:
    """Whether GC of its network, whose list cannot have it, leaves an added attachment: it is complete, and
    its container's namespace is there.
    """
    path = contents.head.get("netns", "")
    if not contents.head.get(HEAD) or contents.result is None or not path:
        return False
    try:
        found = open_namespace(path)
    except CniError:
        return False
    if found is None:
        return False
    try:
        return fingerprint(found) == contents.head.get("netnsID")
    finally:
        os.close(found.fd)


def follow(call: Call, take_down: TakeDown) -> None:
    """After the end of an attachment of the call's container: when that was the last one of its runtime's,
    the added ones go. CniError joining what could not be taken down: the next DEL tries again.

    Who adds one at this moment finds out himself that the container was detached (membership.py), so he is
    not waited for beyond the deadline.
    """
    place = added.folder(call.roots, call.container_id)
    if not place.exists():
        return
    try:
        with added.held(place, call.deadline):
            _settle(place, call, take_down, everything=not any(own(call.roots, call.container_id)))
    except CniError as error:
        if error.code != Code.TRY_AGAIN:
            raise
        call.warn(f"a network is being added to container {call.container_id}, which takes it back itself")


def settle(call: Call, take_down: TakeDown) -> None:
    """End what an operator's call that died left of the container; one that still runs is left alone.
    CniError.
    """
    place = added.folder(call.roots, call.container_id)
    if not place.exists():
        return
    try:
        with added.held(place, after(_MOMENT_SECONDS)):
            _settle(place, call, take_down, everything=False)
    except CniError as error:
        if error.code != Code.TRY_AGAIN:
            raise


def sweep(
    roots: Roots, call_for: Callable[[Contents], Call], take_down: TakeDown
) -> list[tuple[Identity, CniError]]:
    """`settle` and `follow` for every container of the node, for who comes by now and then; whose could not
    be ended, and why. Containers that somebody works on are passed over.
    """
    errors = []
    for place in added.folders(roots):
        whose = Identity("-", place.name, "-")
        try:
            with added.held(place, after(_MOMENT_SECONDS)):
                known = [found for link in added.links(place) if (found := _read(link.record)) is not None]
                if not known:
                    _forget_all(place)
                    continue
                whose = known[0].identity
                orphaned = not any(own(roots, whose.container_id))
                _settle(place, call_for(known[0]), take_down, everything=orphaned)
        except CniError as error:
            if error.code != Code.TRY_AGAIN:
                errors.append((whose, error))
    return errors


def _read(path: Path) -> Contents | None:
    record = records.open_path(path, after(_MOMENT_SECONDS))
    if record is None:
        return None
    with record:
        return record.contents


def _forget_all(place: Path) -> None:
    for link in added.links(place):
        added.forget(place, link.record)


def _settle(place: Path, call: Call, take_down: TakeDown, *, everything: bool) -> None:
    errors = []
    for link in added.links(place):
        try:
            _end(place, link, call, take_down, everything=everything)
        except CniError as error:
            errors.append(error)
    if errors:
        raise joined(f"not all networks added to container {call.container_id} could be taken down", errors)


def _end(place: Path, link: added.Link, call: Call, take_down: TakeDown, *, everything: bool) -> None:
    record = records.open_path(link.record, call.deadline)
    if record is None:
        added.forget(place, link.record)
        return
    with record:
        contents = record.contents
        if contents is None:
            record.remove()  # its ADD died before it changed anything
        elif everything or link.going or contents.result is None:
            take_down(record, contents, replace(call, plugin=str(contents.head["plugin"])))
        else:
            return
    added.forget(place, link.record)


def behind(call: Call, context: Context, listed: Sequence[Route]) -> tuple[Route, ...]:
    """The routes of an added network, each behind what the container has to the same destination: nothing
    that it reaches is reached another way afterwards. Of other attachments they are as they were. CniError.
    """
    if not call.env.get(MARK) or not listed:
        return tuple(listed)
    taken: dict[tuple[Any, int], int] = {}
    for version in {route.dst.version for route in listed}:
        for item in routes.every(context.sandbox, version):
            key = item.route.dst.network, item.route.table or routes.MAIN_TABLE
            taken[key] = max(taken.get(key, 0), item.route.priority or 0)
    return tuple(
        route
        if (there := taken.get((route.dst.network, route.table or routes.MAIN_TABLE))) is None
        else replace(route, priority=max(route.priority or 0, there + 1))
        for route in listed
    )


def require_apart(call: Call, context: Context, given: Sequence[Address]) -> None:
    """An added network has a subnet of its own: of two interfaces in one subnet, answers leave by the first.
    CniError 7.
    """
    if not call.env.get(MARK) or not given:
        return
    names = {link.index: link.name for link in links.every(context.sandbox)}
    for item in addresses.every(context.sandbox):
        for entry in given:
            there = item.address
            if entry.address.version == there.version and entry.address.network.overlaps(there.network):
                raise CniError(
                    Code.INVALID_CONFIG,
                    f"network {call.network} gives {entry.address}, and the container has {there} on "
                    f"{names.get(item.index, 'another interface')}: a container is in a subnet once",
                )
