"""`mesokit graph`: the node as a picture."""

from __future__ import annotations

import socket

import click

from cni_plugins.cli import look
from cni_plugins.kernel import addresses, routes
from cni_plugins.kernel.netlink.route import Netlink
from cni_plugins.spec.deadline import after
from cni_plugins.view import graph, load
from cni_plugins.view.plain import document


@click.command("graph")
@click.option("-n", "--network", metavar="NAME", help="Only this network, every container of it.")
@click.option("--svg", is_flag=True, help="Print an SVG document.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(network: str | None, svg: bool, as_json: bool) -> None:
    """Draw the node: uplinks, bridges, host ends, containers with addresses and ports, problems marked.

    A bridge with more than 40 containers is drawn by task names, unless --network names one.

    \b
    mesokit graph                     a tree
    mesokit graph --svg > node.svg    for a browser, light or dark
    mesokit graph -n app-net
    """
    place = look.here()
    found = look.node(place)
    with look.sentences(), Netlink(place.host, after(load.SECONDS)) as netlink:
        given: dict[str, list[str]] = {}
        for item in addresses.every(netlink):
            link = found.by_index.get(item.index)
            if link is not None and item.scope == addresses.GLOBAL:
                given.setdefault(link.name, []).append(str(item.address))
        indices = {routes.default_link(netlink, version) for version in (4, 6)} - {0}
    uplinks = sorted(found.by_index[index].name for index in indices if index in found.by_index)
    parts = graph.branches(found, given, uplinks, network)
    title = f"{socket.gethostname()}: {len(found.attachments)} attachments"
    if as_json:
        look.say_json(document("branches", parts))
    elif svg:
        click.echo(graph.svg(parts, title), nl=False)
    else:
        columns = look.width()
        for line in graph.text(parts, title):
            click.echo(line if not columns or len(line) <= columns else line[: columns - 1] + "…")
