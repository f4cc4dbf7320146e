"""`mesokit events`: what happened on this node, and what happens."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

import click

from cni_plugins.cli import look
from cni_plugins.cli.colour import coloured
from cni_plugins.cli.look import Place
from cni_plugins.kernel.netlink.netfilter import Nfnetlink
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.text import printable
from cni_plugins.store import failures
from cni_plugins.store.failures import Failure
from cni_plugins.view import load
from cni_plugins.view.attachments import State
from cni_plugins.view.doctor.containers import flushed_rules
from cni_plugins.view.doctor.look import look as look_around
from cni_plugins.view.node import Node

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_PAUSE = 0.5
_COLOURS = {"failed": "31", "flushed": "31", "state": "33"}


@dataclass(frozen=True, slots=True)
class Event:
    """`kind`: attached, detached, state, failed, flushed. `time` is in seconds since the epoch."""

    time: float
    kind: str
    network: str
    container: str
    interface: str
    about: str


@click.command("events")
@click.option("--since", default="1h", show_default=True, help="How far back: 30s, 10m, 2h, 7d.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one event a line.")
def command(since: str, follow: bool, as_json: bool) -> None:
    """Show what happened: calls that failed and why, what was attached; with --follow also what is detached,
    goes down or comes back, and rules that somebody flushes.

    Failed calls are kept on disk, those of one-shot programs too, the last thousand or so since the machine
    started. It works without the node service.

    \b
    mesokit events                       the last hour
    mesokit events --since 10m --json    for a program: time, kind, network, container, interface, about
    mesokit events -f                    as it happens
    """
    place = look.here()
    start = time.time() - _seconds(since)
    found = look.node(place, tasks=False)
    for event in sorted((*_failed(place, start), *_attached(found, start)), key=lambda item: item.time):
        _say(event, as_json=as_json)
    if follow:
        sys.stdout.flush()
        _follow(place, found, as_json=as_json)


def _seconds(text: str) -> float:
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if match is None:
        raise click.BadParameter(f"{text!r} is no duration: 30s, 10m, 2h, 7d", param_hint="--since")
    return float(match[1]) * _UNITS[match[2]]


def _failed(place: Place, start: float) -> Iterator[Event]:
    try:
        listed = failures.last(place.roots.run, 10_000)
    except OSError:
        click.echo("mesokit: only root may see the calls that failed", err=True)
        return
    for item in listed:
        if item.time > start:
            yield _of_failure(item)


def _of_failure(item: Failure) -> Event:
    took = f"{item.seconds * 1000:.0f} ms, {item.by}"
    about = f"{item.verb} {item.plugin}: code {item.code}: {item.message} ({took})"
    return Event(item.time, "failed", item.network, item.container, item.interface, about)


def _attached(found: Node, start: float) -> Iterator[Event]:
    for item in found.attachments:
        if item.since > start:
            yield _event("attached", item.identity, ", ".join(e.ip for e in item.addresses), item.since)


def _event(kind: str, identity: Identity, about: str, moment: float = 0.0) -> Event:
    when = moment or time.time()
    return Event(round(when, 3), kind, identity.network, identity.container_id, identity.ifname, about)


def _follow(place: Place, found: Node, *, as_json: bool) -> None:
    last = time.time()
    before = _states(found)
    flushed: set[str] = set()
    generation = -1
    while True:
        time.sleep(_PAUSE)
        now = load.node(place.roots, place.host, tasks=False)
        for event in _failed(place, last):
            last = max(last, event.time)
            _say(event, as_json=as_json)
        states = _states(now)
        for event in _changes(before, states, now):
            _say(event, as_json=as_json)
        before = states
        with Nfnetlink(place.host) as socket:
            rules = socket.generation()
        if rules != generation:  # else nobody has changed any
            generation = rules
            listed = flushed_rules(look_around(now, place.roots, place.host))
            gone = {item.about: item.evidence for item in listed}
            for about in gone.keys() - flushed:
                _say(Event(round(time.time(), 3), "flushed", "", gone[about], "", about), as_json=as_json)
            flushed = set(gone)
        sys.stdout.flush()


def _states(found: Node) -> Mapping[Identity, State]:
    return {item.identity: found.state(item) for item in found.attachments}


def _changes(before: Mapping[Identity, State], now: Mapping[Identity, State], found: Node) -> Iterator[Event]:
    addresses = {item.identity: ", ".join(entry.ip for entry in item.addresses) for item in found.attachments}
    for identity in now.keys() - before.keys():
        yield _event("attached", identity, addresses[identity])
    for identity in before.keys() - now.keys():
        yield _event("detached", identity, "")
    for identity in now.keys() & before.keys():
        if now[identity] is not before[identity]:
            yield _event("state", identity, f"{before[identity].value} -> {now[identity].value}")


def _say(event: Event, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(asdict(event)))
        return
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.time))
    who = " ".join(part for part in (event.container, event.interface) if part)
    where = f" on {event.network}" if event.network else ""
    kind = coloured(f"{event.kind:<8}", _COLOURS.get(event.kind, "0"), sys.stdout)
    click.echo(f"{moment}  {kind}  " + printable(f"{who}{where}: {event.about}").rstrip(": "))
