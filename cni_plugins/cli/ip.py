"""`mesokit ip`: address pools."""

from __future__ import annotations

import math
import sys
import time

import click

from cni_plugins.cli import look
from cni_plugins.cli.colour import coloured
from cni_plugins.cli.table import fitted
from cni_plugins.spec.text import printable
from cni_plugins.view.plain import document
from cni_plugins.view.pools import Pool, pools

_MANY = 10**9
_NEARLY = 10  # percent of a pool


@click.command("ip")
@click.argument("network", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(network: str | None, as_json: bool) -> None:
    """Show address pools: how many addresses are used and free; of NETWORK, who has each, and since when.

    It reads host-local's reservations (the reference plugin's too) and the ranges of configurations in
    records and in /etc/cni/net.d. An address that is `unrecorded` belongs to no attachment that mesokit made;
    one of a `stale` attachment is given back by `mesokit gc`.

    \b
    mesokit ip                  all pools of this node
    mesokit ip app-net          every address of one, its container, and since when
    """
    place = look.here()
    found = look.node(place, tasks=False)
    look.require_network(found, place, network)
    listed = [item for item in pools(found, place.roots) if network in {None, item.network}]
    if network is not None and not listed:
        raise click.ClickException(
            printable(f"network {network!r} has no pool of host-local; `mesokit ip` lists those that have")
        )
    if as_json:
        look.say_json(document("pools", listed))
    elif network is None:
        _summary(listed)
    else:
        for item in listed:
            _holders(item)


def _summary(listed: list[Pool]) -> None:
    if not listed:
        click.echo("no network of this node has a pool of addresses", err=True)
        return
    rows = [("NETWORK", "RANGES", "SIZE", "USED", "FREE")]
    rows += [
        (
            item.network,
            ",".join(item.subnets) or "unknown",
            _count(item.size) if item.size else "?",
            str(item.used),
            _count(item.free) if item.size else "?",
        )
        for item in listed
    ]
    head, *lines = fitted(rows, look.width())
    click.echo(head)
    for item, line in zip(listed, lines, strict=True):
        full = bool(item.size) and item.free * 100 <= item.size * _NEARLY
        click.echo(coloured(line, "31" if item.free == 0 else "33", sys.stdout) if full else line)


def _holders(item: Pool) -> None:
    free = f"{_count(item.free)} of {_count(item.size)} free" if item.size else "its ranges are not known"
    click.echo(printable(f"{item.network}: {item.used} used, {free}"))
    for one in item.ranges:
        click.echo(printable(f"  range {one}"))
    rows = [("ADDRESS", "CONTAINER", "IF", "STATE", "SINCE")]
    rows += [
        (
            held.address,
            held.container_id,
            held.interface or "-",
            held.state,
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(held.since)),
        )
        for held in item.held
    ]
    if len(rows) > 1:
        for line in fitted(rows, look.width(), "  "):
            click.echo(line)


def _count(number: int) -> str:
    """A number, in words of powers of two where nobody would read it."""
    return str(number) if number < _MANY else f"2^{round(math.log2(number))}"
