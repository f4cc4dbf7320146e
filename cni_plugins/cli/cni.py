"""`mesokit cni`: what the plugins are and take."""

from __future__ import annotations

import difflib
import json
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from cni_plugins.cli import manual
from cni_plugins.plugins.registry import MODULES


@click.group("cni")
def command() -> None:
    """Learn what the CNI plugins make, and which keys they take."""


def _names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    return [CompletionItem(name) for name in sorted(MODULES) if name.startswith(incomplete)]


@command.command("help")
@click.argument("plugin", required=False, shell_complete=_names)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--markdown", is_flag=True, help="Print all plugins as the README has them.")
@click.option(
    "--into",
    type=click.Path(exists=True, dir_okay=False, writable=True, path_type=Path),
    help="Renew the generated part of this README.",
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
        wide = max(len(item.name) for item in listed)
        for item in listed:
            click.echo(f"{item.name:<{wide}}  {item.about}")
        return
    if plugin not in MODULES:
        near = difflib.get_close_matches(plugin, MODULES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(MODULES))}"
        raise click.BadParameter(f"no plugin is named {plugin!r}; {hint}", param_hint="PLUGIN")
    item = manual.page(plugin)
    click.echo(json.dumps(manual.as_json(item), indent=2) if as_json else manual.plain(item))
