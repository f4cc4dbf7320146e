"""What the commands that look at the node share: one look, errors as sentences, tables that fit."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import click

from cni_plugins.cli.near import nearest
from cni_plugins.cli.root import told
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.roots import Roots, roots_from
from cni_plugins.spec.text import printable
from cni_plugins.view import configurations, find, load
from cni_plugins.view.attachments import Attachment
from cni_plugins.view.node import Node, node_of

_NEVER_OFTEN = 100_000  # objects between two collections


@dataclass(frozen=True, slots=True)
class Place:
    """Where a command looks."""

    roots: Roots
    host: Namespace


@contextlib.contextmanager
def sentences() -> Iterator[None]:
    """Errors of the model as a sentence and exit status 1."""
    try:
        yield
    except CniError as error:
        raise click.ClickException(printable(told(error))) from error
    except find.NotFoundError as error:
        raise click.ClickException(printable(str(error))) from error


def here() -> Place:
    """Where this process looks. The garbage collector runs rarely from here on: a look makes a hundred
    thousand objects and no cycles, and ends with the process.
    """
    gc.set_threshold(_NEVER_OFTEN)
    with sentences():
        return Place(roots_from(os.environ), load.host_namespace())


def node(place: Place, *, tasks: bool = True, again: bool = False) -> Node:
    """One look; what this user may not see, and what nobody can read, is said on standard error, unless this
    is a look `again`.
    """
    with sentences():
        found = load.node(place.roots, place.host, tasks=tasks)
    if again:
        return found
    for sentence in found.seen.hidden:
        click.echo(f"mesokit: {printable(sentence)}", err=True)
    spoilt = found.seen.unreadable()
    if spoilt:
        more = f" and {len(spoilt) - 1} more" if len(spoilt) > 1 else ""
        click.echo(
            printable(f"mesokit: {spoilt[0]}{more}: this attachment record cannot be read: mesokit doctor"),
            err=True,
        )
    return found


def require_network(found: Node, place: Place, name: str | None) -> None:
    """For a network that no attachment, no reservation and no file of this node is of: its sentence."""
    if name is None or any(item.network == name for item in found.attachments):
        return
    known = configurations.networks(found, place.roots)
    if name in known:
        return
    near = nearest(name, known)
    if near is not None:
        hint = f"is {near!r} meant?"
    elif (other := _containers(found, name)) is not None:
        hint = f"container {other} goes by that: mesokit ls {shlex.quote(name)}"
    elif known:
        hint = f"there are {', '.join(sorted(known))}"
    else:
        hint = found.seen.hidden[0] if found.seen.hidden else "there is none"
    raise click.ClickException(printable(f"no network {name!r} on this node: {hint}"))


def _containers(found: Node, name: str) -> str | None:
    """The container that has this name."""
    try:
        return find.find(found, name)[0].container_id
    except find.NotFoundError:
        return None


def named(found: Node, name: str) -> list[Attachment]:
    with sentences():
        return find.find(found, name)


def named_on(found: Node, name: str, network: str) -> list[Attachment]:
    """The same among the attachments to one network, which a beginning has to tell apart from no others."""
    there = tuple(item for item in found.attachments if item.network == network)
    if not there:
        raise click.ClickException(printable(f"no container is attached to network {network!r}"))
    return named(node_of(replace(found.seen, attachments=there)), name)


def container(found: Node, name: str) -> str:
    """The id of the container that goes by `name`."""
    return named(found, name)[0].container_id


def width() -> int:
    """Columns to fit a table into; 0, any number, where it does not go to a terminal. COLUMNS says it too."""
    wanted = os.environ.get("COLUMNS", "")
    if wanted.isascii() and wanted.isdigit() and int(wanted):
        return int(wanted)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError):  # no terminal, or standard output is none of the system's
        return 0


def say_json(document: Any) -> None:
    click.echo(json.dumps(document, indent=2))
