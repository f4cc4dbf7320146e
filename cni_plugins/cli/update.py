"""`mesokit update`: change attachments that are there."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from cni_plugins.attach.changes import Changes, parse
from cni_plugins.attach.drift import drift, require_network
from cni_plugins.attach.membership import Network, add_network, remove_network
from cni_plugins.attach.update import Outcome, Where, Wish, update
from cni_plugins.cli import libcni, look
from cni_plugins.cli.root import require_root, told
from cni_plugins.plugins.registry import Plugins
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.text import printable
from cni_plugins.spec.values import parse_json
from cni_plugins.store import network_files
from cni_plugins.store.records import Contents
from cni_plugins.view import differences
from cni_plugins.view.node import Node

Wanted = Callable[[Contents], Changes | Sequence[str]]


@click.command("update")
@click.argument("words", nargs=-1, metavar="[CONTAINER] KEY=VALUE…")
@click.option(
    "-n", "--network", metavar="NAME", help="Only attachments to this network; all of them without CONTAINER."
)
@click.option(
    "--from",
    "file",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="Bring attachments to what a configuration or list says.",
)
@click.option(
    "--dry-run",
    "dry_run",
    is_flag=True,
    help="Say what would be done and what it costs; change nothing, whatever else is given.",
)
@click.option("--apply", "apply", is_flag=True, help="With --from: do it.")
@click.option("--disrupt", "disrupt", is_flag=True, help="Allow what ends flows or loses packets.")
@click.option(
    "--force",
    is_flag=True,
    help="Allow another first address than Mesos has told frameworks.",
)
@click.option(
    "--add-network",
    "adding",
    multiple=True,
    metavar="NAME[:IFNAME]",
    help="Attach CONTAINER to a further network; may be repeated.",
)
@click.option(
    "--remove-network",
    "removing",
    multiple=True,
    metavar="NAME[:IFNAME]",
    help="Detach CONTAINER from a network; may be repeated.",
)
@click.option(
    "--config-dir",
    envvar="NETCONFPATH",
    default=network_files.DIRECTORY,
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where networks are (NETCONFPATH).",
)
@click.option(
    "--plugin-dir",
    envvar="CNI_PATH",
    default="/opt/cni/bin",
    show_default=True,
    help="Where plugins that are not ours are, with colons between (CNI_PATH).",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def command(words: tuple[str, ...], network: str | None, file: str | None, **options: Any) -> None:
    """Change networks under running containers. CONTAINER is anything that `mesokit inspect` understands.

    Each container's attachment is changed as a whole or not at all: what is new is added first, then what
    changes is replaced in place, then what is old is taken away, so that nothing is missing meanwhile. What
    cannot be changed in place is said with the reason. The files under /etc/cni/net.d stay as they are: they
    are what the next container gets.

    A network that is added gets an interface of its own, with all that its file says; what the container
    reached before, its default route too, it goes on reaching as before. It goes with the container: when
    the runtime detaches that from the last network that it attached it to.

    \b
    mesokit update web-1 mtu=1400
    mesokit update web-1 routes+=10.8.0.0/16@10.50.0.9 routes-=10.9.0.0/16
    mesokit update web-1 addresses+=10.50.0.77/16
    mesokit update web-1 addresses-=10.50.0.77 --disrupt
    mesokit update --network app-net gateway=10.50.0.254 --dry-run
    mesokit update web-1 dns.nameservers=10.0.0.2,10.0.0.3 dns.search=a.example
    mesokit update web-1 sysctl.net.core.somaxconn=500 ingressRate=50000000 ingressBurst=800000
    mesokit update web-1 ports+=8080:81/tcp ports-=8443/tcp
    mesokit update --network app-net macspoofchk=true portIsolation=true
    mesokit update --network app-net --from /etc/cni/net.d/app-net.conf --dry-run
    mesokit update --network app-net --from /etc/cni/net.d/app-net.conf --apply
    mesokit update web-1 --add-network storage-net --dry-run
    mesokit update web-1 --add-network storage-net:eth2
    mesokit update web-1 --remove-network storage-net --disrupt

    Exit status 0: all have it; 3: some could not be changed; 1: none could.
    """
    require_root()
    dry_run = options["dry_run"]
    how = dry_run or options["apply"] or options["disrupt"]
    container = words[0] if words and "=" not in words[0] else None
    pairs = words[1:] if container is not None else words
    moving = bool(options["adding"] or options["removing"])
    if moving and (container is None or pairs or network is not None or file is not None):
        raise click.UsageError("--add-network and --remove-network take CONTAINER, and nothing else")
    if container is None and network is None:
        raise click.UsageError("name a container, or a network with --network")
    if file is not None and (network is None or pairs or not how):
        raise click.UsageError("--from takes --network and one of --dry-run, --apply and --disrupt")
    if file is None and not pairs and not moving:
        raise click.UsageError("name what to change: KEY=VALUE, or --from FILE")
    try:
        wanted = None
        if not moving:
            wanted = _from_file(file, network or "") if file is not None else _from_pairs(pairs)
        place = look.here()
        found = look.node(place)
        look.require_network(found, place, network)
        if container is not None:
            container = _known(found, container, moving=moving)
        where = Where(place.roots, place.host, Plugins())
        wish = Wish(apply=not dry_run, disrupt=options["disrupt"], force=options["force"])
        if wanted is not None:
            outcomes = update(where, wanted, wish, network=network, container=container)
        else:
            outcomes = _memberships(where, container or "", wish, options)
        done = list(_told(outcomes, dry_run=dry_run, as_json=options["as_json"]))
    except CniError as error:
        raise click.ClickException(printable(told(error))) from error
    if not done:
        what = f"container {container}" if container is not None else f"network {network}"
        raise click.ClickException(f"{what} has no attachment of ours here")
    if wanted is not None and file is None and not dry_run:
        _tell_of_files(place, done)
    if options["as_json"]:
        click.echo(json.dumps([_as_json(item) for item in done], indent=2))
    failed = [item for item in done if item.problems or item.leftovers]
    sys.exit(0 if not failed else 1 if len(failed) == len(done) else 3)


def _tell_of_files(place: look.Place, done: Sequence[Outcome]) -> None:
    """A file that says something else than was just asked for: the next ADD does what it says."""
    changed = {item.identity for item in done if item.changed}
    if not changed:
        return
    found = differences.look(look.node(place, tasks=False, again=True), place.roots)
    told: dict[str, set[str]] = {}
    for identity in changed & found.differences.keys():
        other = found.differences[identity]
        told.setdefault(other.file, set()).update((*other.changes, *other.problems))
    for path, listed in told.items():
        what = "; ".join(sorted(listed))
        click.echo(printable(f"{path} says something else, and the next container gets it: {what}"), err=True)


def _told(outcomes: Iterator[Outcome], *, dry_run: bool, as_json: bool) -> Iterator[Outcome]:
    """Each as it comes, told unless all are to be told at the end."""
    for item in outcomes:
        if not as_json:
            _tell(item, dry_run=dry_run)
        yield item


def _known(found: Node, name: str, *, moving: bool) -> str:
    """The id of the container. CniError; of one that nobody attached it is told with each network."""
    try:
        return look.container(found, name)
    except (CniError, click.ClickException):
        if not moving:
            raise
        return name


def _memberships(where: Where, container: str, wish: Wish, options: Mapping[str, Any]) -> Iterator[Outcome]:
    """Networks are added before others are removed. CniError 5, 6 or 7 for a file."""
    path = tuple(item for item in options["plugin_dir"].split(":") if item)
    found = []
    for text in options["adding"]:
        name, _, ifname = text.partition(":")
        item = libcni.network(name, options["config_dir"])
        found.append(Network(item.name, item.version, tuple(item.plugins), ifname, path))
    for network in found:
        yield add_network(where, container, network, wish)
    for text in options["removing"]:
        name, _, ifname = text.partition(":")
        yield remove_network(where, container, name, ifname, wish)


def _from_pairs(pairs: tuple[str, ...]) -> Wanted:
    changes = parse(pairs)
    return lambda _: changes


def _from_file(path: str, network: str) -> Wanted:
    """What brings an attachment to the file's configuration. CniError 5, 6 or 7."""
    try:
        document = parse_json(Path(path).read_bytes())
    except OSError as error:
        raise CniError(Code.IO, f"cannot read {path}", str(error)) from error
    except ValueError as error:
        raise CniError(Code.DECODING, f"{path} is not JSON", str(error)) from error
    configuration = require_network(document, network)
    plugins = Plugins()

    def wanted(contents: Contents) -> Changes | Sequence[str]:
        found = drift(contents, configuration, plugins)
        return found.problems or found.changes

    return wanted


_VERBS = {
    "update": ("would change", "changed"),
    "add": ("would be added", "added"),
    "remove": ("would be removed", "removed"),
}


def _tell(item: Outcome, *, dry_run: bool) -> None:
    named = f"{item.identity.container_id} {item.identity.ifname} on {item.identity.network}"
    if item.problems:
        click.echo(printable(f"{named}: cannot: {'; '.join(item.problems)}"), err=not dry_run)
        return
    would, did = _VERBS[item.action]
    verb = would if dry_run else did if item.changed else "is as wanted"
    more = f" (revision {item.revision})" if item.changed and item.action == "update" else ""
    click.echo(printable(f"{named}: {verb}{more}"))
    for operation in item.operations:
        click.echo(printable(f"  {operation.what}: {operation.effect}"))
    for entry in (item.result or {}).get("ips", ()):
        click.echo(printable(f"  address {entry['address']}"))
    if dry_run:
        for text in item.disruptions:
            click.echo(printable(f"  needs --disrupt: {text}"))
    for text in item.notes:
        click.echo(printable(text), err=True)
    for text in item.leftovers:
        click.echo(printable(f"{named}: left for the next update, reload or DEL: {text}"), err=True)


def _as_json(item: Outcome) -> dict[str, object]:
    return {
        "network": item.identity.network,
        "containerID": item.identity.container_id,
        "ifname": item.identity.ifname,
        "plugin": item.plugin,
        "action": item.action,
        "can": not item.problems,
        "changed": item.changed,
        "revision": item.revision,
        "operations": [{"what": step.what, "effect": step.effect} for step in item.operations],
        "problems": list(item.problems),
        "disruptions": list(item.disruptions),
        "leftovers": list(item.leftovers),
        "result": item.result,
        "notes": list(item.notes),
    }
