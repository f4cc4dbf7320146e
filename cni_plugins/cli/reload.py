"""`mesokit reload`: make again what somebody flushed."""

from __future__ import annotations

import json
import sys

import click

from cni_plugins.attach.reload import Outcome, reload
from cni_plugins.cli import look
from cni_plugins.cli.root import require_root
from cni_plugins.plugins.registry import Plugins
from cni_plugins.spec.text import printable


@click.command("reload")
@click.option("-n", "--network", metavar="NAME", help="Only attachments to this network.")
@click.option("--container", metavar="NAME", help="Only this container, by any of its names.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def command(network: str | None, container: str | None, as_json: bool) -> None:
    """Make again what somebody flushed: rules of masquerading, published ports and spoof checks, rate limits,
    forwarding, gateway addresses, reservations.

    It works from the attachment records under /run/mesokit, changes nothing that is there, and may be run at
    any time. A running node service does it by itself for nf_tables. What belongs to a container alone
    (its interface, addresses, routes) cannot be made again: attach it anew. Exit status 1 if something could
    not be made again.

    \b
    mesokit reload                    all attachments of this host
    mesokit reload --network app-net  those of one network
    mesokit reload --container web.1  one container's
    """
    require_root()
    place = look.here()
    if network is not None or container is not None:
        found = look.node(place)
        look.require_network(found, place, network)
        container = look.container(found, container) if container is not None else None
    outcomes = reload(place.roots, place.host, Plugins(), network=network, container=container)
    failed = [item for item in outcomes if item.errors]
    if as_json:
        click.echo(json.dumps([_as_json(item) for item in outcomes], indent=2))
    else:
        for item in failed:
            for problem in item.errors:
                click.echo(printable(f"{_named(item)}: {problem}"), err=True)
        broken = {item.identity for item in failed}  # a list's plugins have a record each
        count = len({item.identity for item in outcomes} - broken)
        click.echo(f"{count} attachment{'' if count == 1 else 's'} as made, {len(broken)} not")
    sys.exit(1 if failed else 0)


def _named(item: Outcome) -> str:
    return f"{item.identity.container_id} {item.identity.ifname} on {item.identity.network} ({item.plugin})"


def _as_json(item: Outcome) -> dict[str, object]:
    return {
        "network": item.identity.network,
        "containerID": item.identity.container_id,
        "ifname": item.identity.ifname,
        "plugin": item.plugin,
        "errors": list(item.errors),
    }
