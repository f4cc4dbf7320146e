"""`mesokit cni`: what the plugins are and take, and calls of them by hand."""

from __future__ import annotations

import json
import os
import shutil
import textwrap
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from cni_plugins.cli import installation, look, manual
from cni_plugins.cli.cni_call import COMMANDS
from cni_plugins.cli.cni_validate import validate
from cni_plugins.cli.near import nearest
from cni_plugins.cli.root import require_root
from cni_plugins.plugins.registry import MODULES
from cni_plugins.spec.text import printable


@click.group("cni")
def command() -> None:
    """Learn what the CNI plugins make and take; attach, check and clean up by hand.

    \b
    mesokit cni help bridge              what a plugin makes, and its keys
    mesokit cni validate /etc/cni/net.d  what is wrong with the networks' files
    mesokit cni add app-net blue         attach `ip netns` blue; then check, del
    mesokit cni gc app-net               take down what containers that are gone left
    """


command.add_command(validate)
for _item in COMMANDS:
    command.add_command(_item)


def _names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    return [CompletionItem(name) for name in sorted(MODULES) if name.startswith(incomplete)]


def _columns() -> int:
    return min(100, shutil.get_terminal_size().columns)


@command.command("help", short_help="Print what PLUGIN makes, and its keys.")
@click.argument("plugin", required=False, shell_complete=_names)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--markdown", is_flag=True, help="Print all plugins in one document, as Markdown.")
@click.option(
    "--into",
    type=click.Path(exists=True, dir_okay=False, writable=True, path_type=Path),
    help="Renew the generated part of this document.",
)
def show(plugin: str | None, as_json: bool, markdown: bool, into: Path | None) -> None:
    """Print what PLUGIN makes and every key it takes, or list the plugins.

    \b
    mesokit cni help               the plugins, a line each
    mesokit cni help bridge        bridge: what it makes, an example, its keys and their defaults
    mesokit cni help bridge --json
    """
    if into is not None:
        try:
            into.write_text(manual.renewed(into.read_text()))
        except ValueError as error:
            raise click.ClickException(f"{into}: {error}") from error
        return
    if markdown:
        click.echo(manual.markdown())
        return
    if plugin is None:
        listed = manual.pages()
        if as_json:
            click.echo(json.dumps([manual.as_json(item) for item in listed], indent=2))
            return
        wide = max(len(item.name) for item in listed) + 2
        for item in listed:
            lines = textwrap.wrap(item.about, max(30, _columns() - wide))
            click.echo(f"{item.name:<{wide}}" + f"\n{' ' * wide}".join(lines))
        return
    if plugin not in MODULES:
        near = nearest(plugin, MODULES)
        hint = f"did you mean {near!r}?" if near else f"there are {', '.join(sorted(MODULES))}"
        raise click.BadParameter(f"no plugin is named {plugin!r}; {hint}", param_hint="PLUGIN")
    item = manual.page(plugin)
    click.echo(json.dumps(manual.as_json(item), indent=2) if as_json else manual.plain(item, _columns()))


@command.command("install")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
def install(directory: Path) -> None:
    """Make the plugins in DIRECTORY, where an agent finds them. After `pip install`, this Python runs them.

    \b
    mesokit cni install /opt/cni/bin

    What was made here before is renewed; a file of somebody else is left, and is an error.
    """
    made = installation.install(directory)
    click.echo(f"{len(made)} plugins in {directory}: {' '.join(made)}")


@command.command("forget", short_help="Detach a container though a plugin cannot.")
@click.argument("network")
@click.argument("container")
@click.option("--ifname", help="Only this interface; without it, all of the container on the network.")
def forget(network: str, container: str, ifname: str | None) -> None:
    """Detach CONTAINER, by any of its names, from NETWORK though a foreign plugin cannot take down what it
    made.

    DEL and GC fail, and keep what they know, while a plugin that took part in an ADD is missing or broken.
    When it will not come back, this is the end: everything else is taken down, and what that plugin made
    stays where it is and is named.

    \b
    mesokit cni forget app-net 4c7f0a52-web
    mesokit cni forget app-net 4c7f
    """
    require_root()
    from cni_plugins.plugins.registry import Handlers  # noqa: PLC0415 - every other command does without
    from cni_plugins.spec import dispatch  # noqa: PLC0415
    from cni_plugins.spec.call import Request  # noqa: PLC0415
    from cni_plugins.steps.delegate import FORGET  # noqa: PLC0415

    place = look.here()
    seen = look.node(place)
    look.require_network(seen, place, network)
    listed = [item for item in look.named_on(seen, container, network) if ifname in {None, item.ifname}]
    if not listed:
        raise click.ClickException(printable(f"{container} has no interface {ifname} on network {network}"))
    container = listed[0].container_id
    for contents in (each for item in listed for each in reversed(item.contents)):
        env = {
            "CNI_COMMAND": "DEL",
            "CNI_CONTAINERID": container,
            "CNI_IFNAME": contents.identity.ifname,
            "CNI_NETNS": str(contents.head.get("netns", "")),
            "CNI_PATH": os.environ.get("CNI_PATH", ""),
            FORGET: "1",
        }
        if "MESOKIT_ROOT" in os.environ:
            env["MESOKIT_ROOT"] = os.environ["MESOKIT_ROOT"]
        config = json.dumps(contents.head.get("config", {})).encode()
        reply = dispatch.handle(Request(contents.head["plugin"], env, config), Handlers())
        for work in reply.later:
            work()
        click.echo(reply.stderr.decode("utf-8", "replace"), err=True, nl=False)
        if reply.status:
            failure = json.loads(reply.stdout)
            raise click.ClickException(f"{failure['msg']}: {failure.get('details', '')}".rstrip(": "))
        click.echo(printable(f"{contents.identity.ifname} of {container} is detached from {network}"))
