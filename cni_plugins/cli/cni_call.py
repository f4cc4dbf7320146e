"""`mesokit cni add|del|check|gc|status`: a network and a container, by hand, as cnitool does it."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from cni_plugins.cli import libcni
from cni_plugins.cli.libcni import Attachment, NetworkList, Runtime
from cni_plugins.cli.root import require_root
from cni_plugins.kernel.namespace import fingerprint
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.namespace import OWN_NETNS, open_namespace
from cni_plugins.spec.roots import roots_from
from cni_plugins.spec.text import printable
from cni_plugins.store import boot, network_files, records

_MESOS = (Path("/var/run/mesos/isolators/network/cni"), Path("/run/mesos/isolators/network/cni"))

_NETWORK = click.argument("network")
_CONTAINER = click.argument("container", metavar="NETNS|CONTAINER")
_AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@dataclass(frozen=True, slots=True)
class Where:
    """Directories, and who the container is."""

    folder: Path
    path: tuple[str, ...]
    cache: Path

    def runtime(self) -> Runtime:
        host = open_namespace(OWN_NETNS)
        if host is None:
            raise CniError(Code.INVALID_NETNS, f"cannot open {OWN_NETNS}: is /proc mounted?")
        return Runtime(host, self.path, self.cache)

    def network(self, name: str) -> NetworkList:
        found = libcni.network(name, self.folder)
        if not found.name:
            raise CniError(Code.INVALID_CONFIG, f"{found.path} has no 'name'")
        return found


def _places(function: Callable[..., None]) -> Callable[..., None]:
    """The options that say where files are, given to the command as one `where`; a CniError is told and
    ends the program with status 1.
    """

    @functools.wraps(function)
    def wrapped(*, config_dir: Path, plugin_dir: str, cache_dir: Path, **options: Any) -> None:
        cache = roots_from(os.environ).relocate(str(cache_dir.absolute()))
        path = tuple(item for item in plugin_dir.split(":") if item)
        try:
            function(where=Where(config_dir, path, cache), **options)
        except CniError as error:
            if options.get("as_json"):
                click.echo(json.dumps({"code": int(error.code), "msg": error.msg, "details": error.details}))
            text = f"{error.msg} (code {int(error.code)})" + (f": {error.details}" if error.details else "")
            raise click.ClickException(printable(text)) from error

    folder = click.Path(file_okay=False, path_type=Path)
    options = (
        click.option(
            "--config-dir",
            envvar="NETCONFPATH",
            default=network_files.DIRECTORY,
            show_default=True,
            type=folder,
            help="Where networks are (NETCONFPATH).",
        ),
        click.option(
            "--plugin-dir",
            envvar="CNI_PATH",
            default="/opt/cni/bin",
            show_default=True,
            help="Where plugins are, with colons between (CNI_PATH); ours need none.",
        ),
        click.option(
            "--cache-dir",
            default="/var/lib/cni",
            show_default=True,
            type=folder,
            help="Where results are kept, below `results`.",
        ),
    )
    made: Callable[..., None] = wrapped
    for option in reversed(options):
        made = option(made)
    return made


def _whose(function: Callable[..., None]) -> Callable[..., None]:
    """The options that say which attachment."""
    options = (
        click.option("--container-id", default="", help="Its id; by default made of NETNS, as cnitool does."),
        click.option(
            "--ifname", envvar="CNI_IFNAME", default="eth0", show_default=True, help="Its interface."
        ),
        click.option("--args", envvar="CNI_ARGS", default="", help="CNI_ARGS: K=V;K=V."),
        click.option(
            "--capabilities", envvar="CAP_ARGS", default="{}", help="Runtime arguments as JSON (CAP_ARGS)."
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


def _attachment(item: NetworkList, where: Where, container: str, options: dict[str, Any]) -> Attachment:
    """CniError 6 for capabilities that are no JSON object, 4 when nothing is known by `container`."""
    try:
        capabilities = json.loads(options["capabilities"])
    except ValueError:
        capabilities = None
    if not isinstance(capabilities, dict):
        raise CniError(
            Code.DECODING, f"--capabilities is {options['capabilities']!r}, which is no JSON object"
        )
    container_id, netns = _found(item, where, container, options["ifname"])
    return Attachment(
        options["container_id"] or container_id, options["ifname"], netns, options["args"], capabilities
    )


def _found(item: NetworkList, where: Where, container: str, ifname: str) -> tuple[str, str]:
    """Container id and namespace of what the operator wrote: a path, a name of `ip netns`, a process, or a
    container that the cache or a record knows.
    """
    for path in (container if "/" in container else "", f"/run/netns/{container}"):
        if path and ("/" in container or Path(path).exists()):
            return f"cnitool-{hashlib.sha512(path.encode()).hexdigest()[:20]}", path
    for known in where.runtime().attachments(item.name):
        if known.container_id == container and known.ifname == ifname:
            return container, known.netns
    for _, contents in records.every(roots_from(os.environ), item.name):
        if contents.identity.container_id == container:
            return container, str(contents.head.get("netns", ""))
    if container.isdecimal() and Path(f"/proc/{container}/ns/net").exists():
        path = f"/proc/{container}/ns/net"
        return f"cnitool-{hashlib.sha512(path.encode()).hexdigest()[:20]}", path
    raise CniError(
        Code.BAD_ENVIRONMENT,
        f"{container!r} is no network namespace, no process, and no container that {item.name} knows",
        "give the path of a namespace, a name of `ip netns`, or a process",
    )


@click.command("add")
@_NETWORK
@_CONTAINER
@_whose
@_places
def add(where: Where, network: str, container: str, **options: Any) -> None:
    """Attach a container to NETWORK, and print the result.

    NETWORK is a name in --config-dir, or a .conflist or .conf file. NETNS is a path, a name of `ip netns`, or
    a process. When a plugin fails, what the others made is taken down.

    \b
    ip netns add blue
    mesokit cni add app-net blue
    mesokit cni add ./web.conflist /run/netns/blue --ifname eth1
    mesokit cni add app-net 4711 --capabilities '{"portMappings": [{"hostPort": 8080, "containerPort": 80}]}'
    """
    require_root()
    item = where.network(network)
    result = where.runtime().add(item, _attachment(item, where, container, options))
    click.echo(json.dumps(result, indent=2))


@click.command("del", short_help="Detach a container from NETWORK.")
@_NETWORK
@_CONTAINER
@_whose
@_places
def delete(where: Where, network: str, container: str, **options: Any) -> None:
    """Detach a container from NETWORK; what is detached already is no error.

    \b
    mesokit cni del app-net blue
    mesokit cni del app-net 3f2a9c --ifname eth1      by its id, the namespace may be gone
    """
    require_root()
    item = where.network(network)
    try:
        attachment = _attachment(item, where, container, options)
    except CniError as error:
        if error.code != Code.BAD_ENVIRONMENT:
            raise
        attachment = Attachment(options["container_id"] or container, options["ifname"], "", options["args"])
    where.runtime().delete(item, attachment)


@click.command("check", short_help="Ask each plugin whether a container is attached.")
@_NETWORK
@_CONTAINER
@_whose
@_places
def check(where: Where, network: str, container: str, **options: Any) -> None:
    """Ask every plugin of NETWORK whether the container is attached as ADD left it.

    \b
    mesokit cni check app-net blue && echo as made
    """
    item = where.network(network)
    if not where.runtime().check(item, _attachment(item, where, container, options)):
        click.echo(f"{item.name} has disableCheck: nothing was asked", err=True)


@click.command("status")
@_NETWORK
@_AS_JSON
@_places
def status(where: Where, network: str, *, as_json: bool) -> None:
    """Ask every plugin of NETWORK whether an ADD would be served now.

    \b
    mesokit cni status app-net
    """
    item = where.network(network)
    where.runtime().status(item)
    click.echo(json.dumps({"network": item.name, "ready": True}) if as_json else f"{item.name} is ready")


def _living(item: NetworkList, where: Where) -> set[tuple[str, str]]:
    """The attachments whose network namespace is there, by the cache, our records and the Mesos agent."""
    kept = {
        (known.container_id, known.ifname)
        for known in where.runtime().attachments(item.name)
        if _is_namespace(known.netns)
    }
    for _, contents in records.every(roots_from(os.environ), item.name):
        if _is_namespace(str(contents.head.get("netns", "")), contents.head.get("netnsID")):
            kept.add((contents.identity.container_id, contents.identity.ifname))
    for root in _MESOS:
        for path in root.glob(f"*/{item.name}/*/network.info") if root.is_dir() else ():
            kept.add((path.parents[2].name, path.parent.name))
    return kept


def _is_namespace(path: str, wanted: Any = None) -> bool:
    try:
        found = open_namespace(path) if path else None
    except CniError:
        return False
    if found is None:
        return False
    try:
        return wanted is None or fingerprint(found) == wanted
    finally:
        os.close(found.fd)


@click.command("gc")
@_NETWORK
@click.option("--keep", multiple=True, metavar="CONTAINER[:IFNAME]", help="Keep this too; may be repeated.")
@click.option("--all", "everything", is_flag=True, help="Keep only what --keep names.")
@click.option("--dry-run", is_flag=True, help="Only say what is kept, and what the cache has beside it.")
@_AS_JSON
@_places
def collect(
    where: Where, network: str, *, keep: tuple[str, ...], everything: bool, dry_run: bool, as_json: bool
) -> None:
    """Take down what NETWORK has of containers that are no more.

    Kept is every attachment whose network namespace still exists, by libcni's cache, our records or the Mesos
    agent's directory. Everything else is detached, and every plugin is told to remove what it has beside.
    It may run beside other calls: what is attached meanwhile stays.

    \b
    mesokit cni gc app-net --dry-run
    mesokit cni gc app-net
    mesokit cni gc app-net --all              the host is drained: nothing stays
    """
    item = where.network(network)
    runtime, listed_at = where.runtime(), boot.elapsed()
    known = list(runtime.attachments(item.name))  # before it is asked who lives: who comes now is not in it
    kept = set() if everything else _living(item, where)
    for text in keep:
        container, _, ifname = text.partition(":")
        kept.add((container, ifname or "eth0"))
    stale = [one for one in known if (one.container_id, one.ifname) not in kept]
    if not dry_run:
        stale = runtime.collect(item, sorted(kept), stale, listed_at=listed_at)
    named = [f"{one.container_id}:{one.ifname}" for one in stale]
    listed = [f"{container}:{ifname}" for container, ifname in sorted(kept)]
    if as_json:
        click.echo(json.dumps({"network": item.name, "kept": listed, "detached": named, "dryRun": dry_run}))
        return
    for text in named:
        click.echo(printable(f"{'would detach' if dry_run else 'detached'} {text}"))
    click.echo(f"{len(listed)} attachment{'' if len(listed) == 1 else 's'} kept")


COMMANDS = (add, delete, check, status, collect)
