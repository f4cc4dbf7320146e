"""`mesokit gc`: remove what containers that are no more left behind."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from dataclasses import replace

import click

from cni_plugins.cli import look
from cni_plugins.cli.root import require_root
from cni_plugins.kernel.nft.elements import Sets
from cni_plugins.spec.text import printable
from cni_plugins.view import collect
from cni_plugins.view.collect import Plan, Stale
from cni_plugins.view.plain import document, plain

_MANY = 20  # addresses of a network that others reserved, told one by one


@click.command("gc")
@click.option("-n", "--network", metavar="NAME", help="Only what is left on this network.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@click.option("--forget", is_flag=True, help="Drop records of attachments that cannot be undone, too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(network: str | None, dry_run: bool, forget: bool, as_json: bool) -> None:
    """Remove what containers that are no more left behind: attachments whose network namespace is gone or
    whose ADD died, addresses and rules that belong to none.

    What a Mesos agent, podman or containerd will detach itself is left to them, and so are addresses that
    other plugins reserved (they are told). May run at any time, beside other calls. Exit status: 0 nothing
    is left, 1 something is (with --dry-run: something would be removed).

    \b
    mesokit gc --dry-run         what is stale
    mesokit gc                   remove it
    mesokit gc --forget          and forget what cannot be undone: a record that no release knows
    """
    if not dry_run:
        require_root()
        # All that a plugin's call imports: who only looks does without.
        from cni_plugins.view import removal
    place = look.here()
    found = look.node(place, tasks=False)
    look.require_network(found, place, network)
    with look.sentences():
        todo = _only(collect.plan(found, place.roots, Sets(place.host)), network)
        failures = [] if dry_run else removal.collect(todo, found, place.roots)
        left: tuple[Stale, ...] = todo.stale
        if not dry_run:
            after = look.node(place, tasks=False, again=True)
            left = _only(collect.plan(after, place.roots, Sets(place.host)), network).stale
    problems: list[str] = []
    if forget and not dry_run:
        for item in left:
            problems += removal.forget(item)
        problems += removal.forget_headless(after, place.roots, network)
        with look.sentences():
            after = look.node(place, tasks=False, again=True)
            rest = _only(collect.plan(after, place.roots, Sets(place.host)), network)
            failures += removal.collect(rest, after, place.roots)
            after = look.node(place, tasks=False, again=True)
            left = _only(collect.plan(after, place.roots, Sets(place.host)), network).stale
            more = tuple(item for item in rest.stale if item not in todo.stale)
            todo = replace(todo, stale=(*todo.stale, *more), foreign=rest.foreign)
    if as_json:
        look.say_json(
            document(
                "stale",
                todo.stale,
                removed=len(todo.stale) - (len(todo.stale) if dry_run else len(left)),
                left=plain(left),
                foreign=plain(todo.foreign),
                awaited=plain(todo.awaited),
                held=plain(todo.held),
                errors=[*(plain(item) for item in failures), *problems],
            )
        )
    else:
        _show(todo, left, dry_run=dry_run)
        for failure in failures:
            click.echo(printable(f"GC of {failure.network} ({failure.plugin}): {failure.error}"), err=True)
        for problem in problems:
            click.echo(printable(problem), err=True)
    sys.exit(1 if left else 0)


def _show(todo: Plan, left: tuple[Stale, ...], *, dry_run: bool) -> None:
    for item in todo.stale:
        verb = "would go" if dry_run else "left" if item in left else "gone"
        click.echo(printable(f"{verb}: {_named(item)}"))
    for item in todo.awaited:
        way_out = collect.leave_to_us(item.paths[0])
        text = f"left to its Mesos agent: {_named(item)}; if no agent will come back for it: {way_out}"
        click.echo(printable(text), err=True)
    for item in todo.held:
        click.echo(printable(f"left alone: {_named(item)}; mesokit check has the way out"), err=True)
    others: Counter[str] = Counter()
    for item in todo.foreign:
        others[item.network] += not item.paths
        if not item.paths and others[item.network] > _MANY:
            continue
        if item.paths:
            text = f"left alone: {_named(item)}; if that container is no more: mesokit gc --forget"
        else:
            text = f"not ours, left alone: {_named(item)}; remove its file if nobody has it"
        click.echo(printable(text), err=True)
    for network, count in others.items():
        if count > _MANY:
            text = f"and {count - _MANY} more on network {network}: mesokit ip {shlex.quote(network)}"
            click.echo(printable(text), err=True)
    if not todo.stale:
        click.echo("nothing is stale")


def _only(todo: Plan, network: str | None) -> Plan:
    def chosen(items: tuple[Stale, ...]) -> tuple[Stale, ...]:
        return tuple(item for item in items if network in {None, item.network})

    return replace(
        todo,
        stale=chosen(todo.stale),
        foreign=chosen(todo.foreign),
        awaited=chosen(todo.awaited),
        held=chosen(todo.held),
    )


def _named(item: Stale) -> str:
    who = " ".join(part for part in (item.container_id, item.interface) if part)
    return f"{item.what} of {who} on network {item.network}: {item.about}"
