"""`mesokit events`: what happened on this node, and what happens."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import click

from cni_plugins.cli import look
from cni_plugins.cli.colour import coloured
from cni_plugins.cli.look import Place
from cni_plugins.spec.text import printable
from cni_plugins.view import differences, events
from cni_plugins.view.events import Event
from cni_plugins.view.node import Node

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_PAUSE = 0.5
_LEAST = 2  # characters of a beginning
_COLOURS = {"failed": "31", "flushed": "31", "state": "33", "differs": "33"}


@click.command("events")
@click.argument("name", required=False)
@click.option("-n", "--network", metavar="NAME", help="Only what happened on this network.")
@click.option("--since", default="1h", show_default=True, help="How far back: 30s, 10m, 2h, 7d.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one event a line.")
def command(*, name: str | None, network: str | None, since: str, follow: bool, as_json: bool) -> None:
    """Show what happened: calls that failed and why, what was attached, what differs from its network's file
    since somebody edited that; with --follow also what is detached, goes down or comes back, and rules that
    somebody flushes.

    NAME is anything that `mesokit inspect` understands, or the beginning of the id of a container whose call
    failed. Flushed rules are told in any case.

    Failed calls are kept on disk, those of one-shot programs too, the last thousand or so since the machine
    started. It works without the node service.

    \b
    mesokit events                       the last hour
    mesokit events --since 10m --json    for a program: time, kind, network, container, interface, about
    mesokit events web.1                 of one container
    mesokit events -n app-net -f         of one network, as it happens
    """
    place = look.here()
    start = time.time() - _seconds(since)
    watch = events.Watch(place.roots, place.host)
    found = differences.look(look.node(place, tasks=name is not None), place.roots)
    told = _past(place, found, start)
    if all(event.network != network for event in told):
        look.require_network(found, place, network)
    chosen = Chosen(_container(found, told, name) if name is not None else None, network)
    _say(told, chosen, as_json=as_json)
    if follow:
        sys.stdout.flush()
        watch.begin(found, told)
        _follow(watch, chosen, as_json=as_json)


@dataclass(frozen=True, slots=True)
class Chosen:
    """Whose events are told; None for everybody's."""

    container: str | None
    network: str | None

    def has(self, event: Event) -> bool:
        mine = self.container in {None, event.container} and self.network in {None, event.network}
        return mine or event.kind == "flushed"


def _container(found: Node, told: list[Event], name: str) -> str:
    """The id of the container that goes by `name`, or that begins so among those whose calls failed."""
    failed = {event.container for event in told if event.kind == "failed"}
    begun = {container for container in failed if container.startswith(name)}
    try:
        return look.container(found, name)
    except click.ClickException:
        if len(begun) == 1 and len(name) >= _LEAST:
            return begun.pop()
        raise


def _seconds(text: str) -> float:
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if match is None:
        raise click.BadParameter(f"{text!r} is no duration: 30s, 10m, 2h, 7d", param_hint="--since")
    return float(match[1]) * _UNITS[match[2]]


def _past(place: Place, found: Node, start: float) -> list[Event]:
    try:
        return events.past(found, place.roots, start)
    except PermissionError:
        click.echo(f"mesokit: {events.FAILURES_HIDDEN}", err=True)
        told = (*events.attached(found, start), *events.differing(found, start))
        return sorted(told, key=lambda item: item.time)


def _follow(watch: events.Watch, chosen: Chosen, *, as_json: bool) -> None:
    while True:
        time.sleep(_PAUSE)
        _, found = watch.look()
        _say(found, chosen, as_json=as_json)
        sys.stdout.flush()


def _say(told: Iterable[Event], chosen: Chosen, *, as_json: bool) -> None:
    for event in filter(chosen.has, told):
        if as_json:
            click.echo(json.dumps(asdict(event)))
            continue
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.time))
        who = " ".join(part for part in (event.container, event.interface) if part)
        where = f" on {event.network}" if event.network else ""
        kind = coloured(f"{event.kind:<8}", _COLOURS.get(event.kind, "0"), sys.stdout)
        click.echo(f"{moment}  {kind}  " + printable(f"{who}{where}: {event.about}").rstrip(": "))
