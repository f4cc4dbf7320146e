"""`mesokit trace`: a container's packets, through every rule, to where they go or end."""

from __future__ import annotations

import json
import re
import select
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from types import FrameType

import click

from cni_plugins.cli import look
from cni_plugins.cli.colour import coloured
from cni_plugins.kernel.nft.trace import Match
from cni_plugins.spec.text import printable
from cni_plugins.spec.values import Ip, parse_ip
from cni_plugins.view.attachments import Attachment
from cni_plugins.view.node import Node
from cni_plugins.view.plain import plain
from cni_plugins.view.tracing import Told, Tracing

_WHAT = re.compile(r"^(?P<protocol>icmp|tcp|udp|sctp)(?:/(?P<port>[0-9]{1,5}))?$")
_NUMBERS = {"tcp": (6, 6), "udp": (17, 17), "sctp": (132, 132), "icmp": (1, 58)}
_UNITS = {"ms": 0.001, "s": 1.0, "secs": 1.0, "m": 60.0, "mins": 60.0, "h": 3600.0}
_COLOURS = {"dropped": "31", "lost": "31", "left": "32", "delivered": "32"}
_PAUSE = 0.1
_NOTHING = "no packet was seen: it sends and gets none, or none that matches; `mesokit ping` sends some"


class Stop:
    """Whether an interrupt came. The second one ends the process as if nobody listened."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._hear)

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(number, signal.SIG_DFL)


class Seconds(click.ParamType[float]):
    """A duration as 10s, 500ms, 2m; seconds to the program."""

    name = "duration"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(ms|secs|s|mins|m|h)?", value)
        if match is None:
            self.fail(f"{value!r} is no duration: 500ms, 10s, 2m", param, ctx)
        return float(match[1]) * _UNITS[match[2] or "s"]


@click.command("trace")
@click.argument("name")
@click.argument("what", required=False)
@click.option("--to", "to", metavar="ADDRESS|NAME", help="Only packets from or to this, too.")
@click.option("--duration", type=Seconds(), help="End after this time; without it, Ctrl-C does.")
@click.option("--count", type=click.IntRange(1), metavar="N", help="End after this many packets.")
@click.option(
    "--rate", type=click.IntRange(1, 1000), default=20, show_default=True, help="Packets a second at most."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one packet a line.")
def command(
    *,
    name: str,
    what: str | None,
    to: str | None,
    duration: float | None,
    count: int | None,
    rate: int,
    as_json: bool,
) -> None:
    """Follow packets of container NAME: links, rules with their verdicts, where each one goes or ends, and
    whose rule ended it; then the counters.

    NAME is anything that `mesokit inspect` understands. WHAT narrows: icmp, tcp, tcp/PORT, udp/PORT. Only
    packets of this container's addresses are marked, so many a second, by a table that is gone with this
    command, however that ends; traces run beside each other. A container that shares its master's link
    (macvlan, ipvlan) is followed inside its own namespace. Needs root. Exit status: 0, or 1 when some packet
    was dropped or lost here.

    \b
    mesokit trace web.1                       all of its packets, until Ctrl-C
    mesokit trace web.1 tcp/80 --duration 10s
    mesokit trace 4c7f --to 192.0.2.1 --json
    """
    protocol, port = _narrowed(what)
    place = look.here()
    found = look.node(place)
    items = look.named(found, name)
    matches = _matches(items, _addresses(found, to), protocol, port)
    stop = Stop()
    ended = False
    with look.sentences(), ExitStack() as stack:
        tracing = stack.enter_context(Tracing(found, place.roots, place.host, matches, rate))
        if not as_json:
            _announce(items, matches)
        seen = 0
        for told in _heard(tracing, stop, duration):
            seen += 1
            ended = ended or told.verdict in {"dropped", "lost"}
            _say(told, as_json=as_json)
            if seen == count:
                break
        _end(tracing, seen, as_json=as_json)
    sys.exit(1 if ended else 0)


def _narrowed(what: str | None) -> tuple[str, int]:
    if what is None:
        return "", 0
    match = _WHAT.match(what)
    if (
        match is None
        or not 0 < int(match["port"] or 1) <= 65535
        or (match["port"] and match["protocol"] == "icmp")
    ):
        raise click.UsageError(f"WHAT is {what!r}: give icmp, tcp, udp, tcp/PORT or udp/PORT")
    return match["protocol"], int(match["port"] or 0)


def _addresses(found: Node, text: str | None) -> list[Ip]:
    """Those of --to: itself, or those of the container that it names."""
    if text is None:
        return []
    try:
        return [parse_ip(text)]
    except ValueError:
        return [parse_ip(entry.ip) for item in look.named(found, text) for entry in item.addresses]


def _matches(
    items: Sequence[Attachment], others: Sequence[Ip], protocol: str, port: int
) -> dict[Attachment, list[Match]]:
    found: dict[Attachment, list[Match]] = {}
    for item in items:
        for address in (parse_ip(entry.ip) for entry in item.addresses):
            number = _NUMBERS[protocol][address.version == 6] if protocol else 0
            for to in others or (None,):
                if to is None or to.version == address.version:
                    found.setdefault(item, []).append(Match(address, to, number, port))
    if not found:
        family = f" of the family of {others[0]}" if others else ""
        raise click.ClickException(printable(f"{items[0].container_id} has no address{family}"))
    return found


def _announce(items: Sequence[Attachment], matches: dict[Attachment, list[Match]]) -> None:
    addresses = ", ".join(dict.fromkeys(str(match.one) for listed in matches.values() for match in listed))
    who = ", ".join(dict.fromkeys(item.container_id for item in items))
    click.echo(printable(f"following {who} ({addresses}); Ctrl-C ends"), err=True)


def _heard(tracing: Tracing, stop: Stop, duration: float | None) -> Iterator[Told]:
    """Packets that are over, until the end; then those that are on their way."""
    end = None if duration is None else time.monotonic() + duration
    while not stop.asked and (end is None or time.monotonic() < end):
        select.select(tracing.descriptors(), (), (), _PAUSE)
        yield from tracing.over()
        sys.stdout.flush()
    yield from tracing.rest()


def _say(told: Told, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"kind": "packet", **plain(told)}))
        return
    moment = time.strftime("%H:%M:%S", time.localtime(told.time)) + f".{int(told.time * 1000) % 1000:03d}"
    by = f", in by {told.came_in}" if told.came_in else ", sent by this host"
    click.echo(printable(f"{moment}  {told.about}, {told.bytes} bytes{by}"))
    for step in told.steps:
        mark = {"drop": "END ", "accept": "ok  "}.get(step.verdict, "    ")
        rule = step.rule or f"policy {step.verdict}"
        then = f": {step.verdict}" if step.rule and not step.rule.endswith(step.verdict) else ""
        where = f"table {step.family} {step.table}, chain {step.chain}"
        click.echo(printable(f"  {mark}  {where}: {rule}{then} ({step.whose})"))
    verdict = coloured(told.verdict, _COLOURS[told.verdict], sys.stdout)
    click.echo(f"  {verdict}" + printable(f": {told.where}"))
    for reason in told.reasons:
        click.echo(printable(f"      {reason}"))


def _end(tracing: Tracing, seen: int, *, as_json: bool) -> None:
    lines = tracing.counted()
    if as_json:
        document = {"kind": "end", "packets": seen, "lost_events": tracing.lost, "counters": lines}
        click.echo(json.dumps(document))
        return
    if not seen:
        click.echo(_NOTHING, err=True)
    if tracing.lost:
        click.echo("more was told than could be heard: some steps are missing; take a lower --rate", err=True)
    click.echo("meanwhile")
    for line in lines:
        click.echo(printable(f"  {line}"))
