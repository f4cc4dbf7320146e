"""`mesokit ping`: real packets from inside a container, and where they end."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import click

from cni_plugins.cli import look
from cni_plugins.cli.colour import coloured
from cni_plugins.spec.text import printable
from cni_plugins.spec.values import Ip, parse_ip
from cni_plugins.view.attachments import Attachment
from cni_plugins.view.node import Node
from cni_plugins.view.plain import document
from cni_plugins.view.probe import Ask, Outcome, Way, probe

_WHAT = re.compile(r"^(?P<protocol>icmp|tcp|udp)(?:/(?P<port>[0-9]{1,5}))?$")
_MARKS = {"answered": "32", "refused": "33"}


@click.command("ping")
@click.argument("source")
@click.argument("target")
@click.argument("what", default="icmp")
@click.option(
    "--seconds", type=click.FloatRange(0.05, 30), default=0.5, show_default=True, help="For an answer."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(source: str, target: str, what: str, seconds: float, as_json: bool) -> None:
    """Send packets from inside container SOURCE to TARGET, over IPv4 and IPv6, and say where they end.

    SOURCE and TARGET are anything that `mesokit inspect` understands; TARGET may be any address. WHAT is
    icmp, tcp/PORT or udp/PORT. When nothing comes back, the way is told hop by hop, with the rule that
    dropped the packets, whoever's it is. Needs root; changes nothing (its trace goes with it). Exit status: 0
    reached in every family, 1 not.

    \b
    mesokit ping web.1 db.0 tcp/5432
    mesokit ping 4c7f 192.0.2.1
    mesokit ping 10.9.0.7 fd00:9::8 icmp
    """
    match = _WHAT.match(what)
    if (
        match is None
        or (match["protocol"] != "icmp") != bool(match["port"])
        or not 0 < int(match["port"] or 1) <= 65535
    ):
        raise click.UsageError(f"WHAT is {what!r}: give icmp, tcp/PORT or udp/PORT")
    ask = Ask(match["protocol"], int(match["port"] or 0), seconds)
    place = look.here()
    found = look.node(place)
    with look.sentences():
        told = [probe(way, ask, place.host) for way in _ways(found, source, target)]
    if not told:
        raise click.ClickException(printable(f"{source!r} and {target!r} have no address of one family"))
    if as_json:
        look.say_json(document("probes", told))
    else:
        for item in told:
            _show(item, what)
    sys.exit(0 if all(item.verdict in _MARKS for item in told) else 1)


def _ways(node: Node, source: str, target: str) -> Iterator[Way]:
    """One for each family that both ends have."""
    ones = look.named(node, source)
    wanted = _address(target)
    if wanted is not None:
        _require_unicast(wanted)
    others = [item for item in node.attachments if wanted and str(wanted) in _ips(item)]
    if wanted is None:
        others = look.named(node, target)
        if others[0].container_id == ones[0].container_id:
            raise click.UsageError("SOURCE and TARGET are one container: such packets never leave it")
    for version in (4, 6):
        mine = next(
            ((item, ip) for item in ones for ip in map(parse_ip, _ips(item)) if ip.version == version), None
        )
        if wanted is not None:
            theirs = (others[0] if others else None, wanted) if wanted.version == version else None
        else:
            theirs = next(
                ((item, ip) for item in others for ip in map(parse_ip, _ips(item)) if ip.version == version),
                None,
            )
        if mine is not None and theirs is not None:
            yield Way(mine[0], mine[1], theirs[1], theirs[0])


def _address(text: str) -> Ip | None:
    try:
        return parse_ip(text)
    except ValueError:
        return None


def _require_unicast(address: Ip) -> None:
    """click.UsageError for an address that no packet of a probe goes to, or not to one place."""
    what = (
        "is no address to send to"
        if address.is_unspecified
        else "is the container's own: mesokit exec NAME -- ping -c 1 " + str(address)
        if address.is_loopback
        else "is for many; a probe asks one"
        if address.is_multicast or str(address) == "255.255.255.255"
        else "is of one link alone: give another address of the target, or mesokit exec NAME -- ping "
        f"{address}%eth0"
        if address.version == 6 and address.is_link_local
        else ""
    )
    if what:
        raise click.UsageError(f"TARGET {address} {what}")


def _ips(item: Attachment) -> list[str]:
    return [entry.ip for entry in item.addresses]


def _show(item: Outcome, what: str) -> None:
    colour = _MARKS.get(item.verdict, "31")
    line = f"{item.source} -> {item.target} {what}: "
    click.echo(printable(line) + coloured(item.verdict, colour, sys.stdout), nl=False)
    click.echo(printable(f" ({item.milliseconds:g} ms)" + (f", {item.about}" if item.about else "")))
    for hop in item.hops:
        mark = {True: "ok  ", False: "END ", None: "?   "}[hop.passed]
        click.echo(printable(f"  {mark}  {hop.place}: {hop.about}"))
    if item.ends:
        at = "" if item.ends.startswith("beyond") else "at "
        click.echo(printable(f"  it ends {at}{item.ends}"))
