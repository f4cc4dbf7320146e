"""`mesokit graph`: the node as a picture."""

from __future__ import annotations

import click

from cni_plugins.cli import look
from cni_plugins.view import graph, picture
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
    look.require_network(found, place, network)
    with look.sentences():
        parts = picture.parts(found, place.host, network)
    title = picture.title(found)
    if as_json:
        look.say_json(document("branches", parts))
    elif svg:
        click.echo(graph.svg(parts, title), nl=False)
    else:
        columns = look.width()
        for line in graph.text(parts, title):
            click.echo(line if not columns or len(line) <= columns else line[: columns - 1] + "…")
