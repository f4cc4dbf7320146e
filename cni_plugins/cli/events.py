"""`mesokit events`: what happened on this node, and what happens."""

from __future__ import annotations

import json
import re
import sys
import time
from dataclasses import asdict

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
_COLOURS = {"failed": "31", "flushed": "31", "state": "33", "differs": "33"}


@click.command("events")
@click.option("--since", default="1h", show_default=True, help="How far back: 30s, 10m, 2h, 7d.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one event a line.")
def command(since: str, follow: bool, as_json: bool) -> None:
    """Show what happened: calls that failed and why, what was attached, what differs from its network's file
    since somebody edited that; with --follow also what is detached, goes down or comes back, and rules that
    somebody flushes.

    Failed calls are kept on disk, those of one-shot programs too, the last thousand or so since the machine
    started. It works without the node service.

    \b
    mesokit events                       the last hour
    mesokit events --since 10m --json    for a program: time, kind, network, container, interface, about
    mesokit events -f                    as it happens
    """
    place = look.here()
    start = time.time() - _seconds(since)
    watch = events.Watch(place.roots, place.host)
    found = differences.look(look.node(place, tasks=False), place.roots)
    told = _past(place, found, start)
    for event in told:
        _say(event, as_json=as_json)
    if follow:
        sys.stdout.flush()
        watch.begin(found, told)
        _follow(watch, as_json=as_json)


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


def _follow(watch: events.Watch, *, as_json: bool) -> None:
    while True:
        time.sleep(_PAUSE)
        _, found = watch.look()
        for event in found:
            _say(event, as_json=as_json)
        sys.stdout.flush()


def _say(event: Event, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(asdict(event)))
        return
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.time))
    who = " ".join(part for part in (event.container, event.interface) if part)
    where = f" on {event.network}" if event.network else ""
    kind = coloured(f"{event.kind:<8}", _COLOURS.get(event.kind, "0"), sys.stdout)
    click.echo(f"{moment}  {kind}  " + printable(f"{who}{where}: {event.about}").rstrip(": "))
