"""`mesokit ls`: what is attached where, for which task."""

from __future__ import annotations

import sys
import time

import click

from cni_plugins.cli import look
from cni_plugins.cli.colour import coloured
from cni_plugins.cli.table import fitted
from cni_plugins.spec.text import printable
from cni_plugins.view import differences
from cni_plugins.view.attachments import Attachment, State
from cni_plugins.view.node import Node
from cni_plugins.view.plain import attachment, document

_COLOURS = {State.UP: "32", State.DOWN: "31", State.BROKEN: "31", State.STALE: "33", State.UNFINISHED: "33"}
_DIFFERS = "differs"
_STATES = [*(state.value for state in State), _DIFFERS]


@click.command("ls")
@click.argument("name", required=False)
@click.option("-n", "--network", metavar="NAME", help="Only attachments to this network.")
@click.option("-s", "--state", type=click.Choice(_STATES), multiple=True, help="Only those in this state.")
@click.option("--watch", is_flag=True, help="Look again every second, until Ctrl-C.")
@click.option("-q", "--quiet", is_flag=True, help="Print container ids alone, one a line.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    *, name: str | None, network: str | None, state: tuple[str, ...], watch: bool, quiet: bool, as_json: bool
) -> None:
    """Show what is attached: containers, tasks, networks, addresses, published ports, state.

    NAME is anything that `mesokit inspect` understands. In a terminal, ids are cut to fit; a beginning of one
    is enough for every command. Works with and without the node service.

    \b
    mesokit ls                       all attachments of this node
    mesokit ls -n app-net            those of one network
    mesokit ls -s stale -s broken    what needs somebody
    mesokit ls -s differs            what is not as its network's file in /etc/cni/net.d is now
    mesokit ls 10.9.0.7              who has this address
    mesokit ls tcp/8080              who has this port
    mesokit ls --json | jq '.items[].addresses'
    """
    place = look.here()
    while True:
        found = differences.look(look.node(place), place.roots)
        look.require_network(found, place, network)
        listed = _chosen(found, name, network, state)
        if as_json:
            look.say_json(document("attachments", (attachment(found, item) for item in listed)))
        elif quiet:
            for one in dict.fromkeys(item.container_id for item in listed):
                click.echo(printable(one))
        else:
            if watch and sys.stdout.isatty():
                click.echo("\x1b[H\x1b[2J", nl=False)
            _show(found, listed)
        if not watch:
            return
        sys.stdout.flush()
        time.sleep(1)


def _chosen(found: Node, name: str | None, network: str | None, states: tuple[str, ...]) -> list[Attachment]:
    listed = look.named(found, name) if name is not None else list(found.attachments)
    return [
        item
        for item in listed
        if network in {None, item.network} and (not states or set(states) & set(_states(found, item)))
    ]


def _states(found: Node, item: Attachment) -> tuple[str, ...]:
    """The state, and whether the network's file says something else by now."""
    state = found.state(item).value
    return (state, _DIFFERS) if found.difference(item) is not None else (state,)


def _show(found: Node, listed: list[Attachment]) -> None:
    if not listed:
        if not found.seen.hidden:
            what = "nothing of that kind" if found.attachments else "nothing"
            click.echo(f"{what} is attached here", err=True)
        return
    rows = [("CONTAINER", "TASK", "NETWORK", "IF", "ADDRESSES", "PORTS", "STATE")]
    for item in listed:
        task = found.task(item)
        rows.append(
            (
                item.container_id,
                ",".join(task.names) if task is not None else "-",
                item.network,
                item.ifname,
                ",".join(entry.ip for entry in item.addresses) or "-",
                ",".join(map(str, item.ports)) or "-",
                ", ".join(_states(found, item)),
            )
        )
    head, *lines = fitted(rows, look.width())
    click.echo(head)
    for item, line in zip(listed, lines, strict=True):
        state, words = found.state(item), ", ".join(_states(found, item))
        text, _, _ = line.rpartition(words)
        told = words if text else line
        colour = _COLOURS.get(state, "0")
        colour = "33" if state is State.UP and words != state.value else colour
        click.echo(text + coloured(told, colour, sys.stdout))
