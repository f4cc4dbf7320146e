"""`mesokit exec`: a program of the host in a container's network."""

from __future__ import annotations

import os
from contextlib import ExitStack

import click

from cni_plugins.cli import look
from cni_plugins.kernel.namespace import move_into
from cni_plugins.spec.text import printable
from cni_plugins.view.inside import inside_of


@click.command("exec", context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("program", nargs=-1, type=click.UNPROCESSED)
def command(name: str, program: tuple[str, ...]) -> None:
    """Run a program of this host in the network namespace of NAME; a shell when none is given.

    NAME is anything that `mesokit inspect` understands. Files, processes and users are the host's: only the
    network is the container's, so that `ip`, `ss`, `tcpdump` need not be in its image. Needs root. Exit
    status: the program's; 126 if it cannot be run, 127 if there is none.

    \b
    mesokit exec web.1 -- ss -tlnp
    mesokit exec 10.9.0.7 -- tcpdump -ni eth0
    mesokit exec 4c7f                          a shell in its network
    """
    place = look.here()
    item = look.named(look.node(place), name)[0]
    words = list(program) or [os.environ.get("SHELL", "/bin/sh")]
    with look.sentences(), ExitStack() as stack:
        move_into(stack.enter_context(inside_of(item, place.host)))
    try:
        os.execvp(words[0], words)
    except FileNotFoundError:
        click.echo(printable(f"mesokit exec: there is no program {words[0]!r}"), err=True)
        raise SystemExit(127) from None
    except OSError as error:
        click.echo(printable(f"mesokit exec: cannot run {words[0]!r}: {error.strerror}"), err=True)
        raise SystemExit(126) from None
