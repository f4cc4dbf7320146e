"""What the commands that look at the node share: one look, errors as sentences, tables that fit."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click

from cni_plugins.spec.errors import CniError
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.roots import Roots, roots_from
from cni_plugins.spec.text import printable
from cni_plugins.view import find, load
from cni_plugins.view.attachments import Attachment
from cni_plugins.view.node import Node

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
    except (CniError, find.NotFoundError) as error:
        raise click.ClickException(printable(str(error.args[0] if error.args else error))) from error


def here() -> Place:
    """Where this process looks. The garbage collector runs rarely from here on: a look makes a hundred
    thousand objects and no cycles, and ends with the process.
    """
    gc.set_threshold(_NEVER_OFTEN)
    with sentences():
        return Place(roots_from(os.environ), load.host_namespace())


def node(place: Place, *, tasks: bool = True) -> Node:
    """One look; what this user may not see is said once, on standard error."""
    with sentences():
        found = load.node(place.roots, place.host, tasks=tasks)
    for sentence in found.seen.hidden:
        click.echo(f"mesokit: {printable(sentence)}", err=True)
    return found


def named(found: Node, name: str) -> list[Attachment]:
    with sentences():
        return find.find(found, name)


def width() -> int:
    """Columns to fit a table into; 0, any number, where it does not go to a terminal. COLUMNS says it too."""
    if "COLUMNS" in os.environ or sys.stdout.isatty():
        return shutil.get_terminal_size().columns
    return 0


def say_json(document: Any) -> None:
    click.echo(json.dumps(document, indent=2))
