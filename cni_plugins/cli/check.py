"""`mesokit check`: whether attachments are as they were made."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from cni_plugins.cli import look
from cni_plugins.cli.look import Place
from cni_plugins.cli.steps import step_lines
from cni_plugins.cli.table import prose
from cni_plugins.spec.text import printable
from cni_plugins.view import screen
from cni_plugins.view.attachments import Attachment, State
from cni_plugins.view.node import Node
from cni_plugins.view.plain import attachment, document, plain
from cni_plugins.view.verdict import StepState, Verdict

_BAD = frozenset((State.DOWN, State.BROKEN, State.STALE, State.UNFINISHED))


@click.command("check")
@click.argument("name", required=False)
@click.option("-n", "--network", metavar="NAME", help="Only attachments to this network.")
@click.option("-v", "--verbose", is_flag=True, help="Show the steps that stand, too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(name: str | None, network: str | None, verbose: bool, as_json: bool) -> None:
    """Check attachments against the kernel, step by step, from their records: no configuration is needed.

    All attachments of this node, or those of NAME (anything that `mesokit inspect` understands). Of each step
    that does not stand: why, and what to do. Exit status: 0 all are as they were made, 1 some are not, 2 some
    cannot be told (who is not root sees little).

    \b
    mesokit check                all
    mesokit check web.1          one container
    mesokit check -n app-net     one network
    """
    place = look.here()
    found = look.node(place)
    look.require_network(found, place, network)
    listed = look.named(found, name) if name is not None else list(found.attachments)
    listed = [item for item in listed if network in {None, item.network} and found.here(item)]
    told = _told(found, place, listed, brief=not (verbose or as_json))
    bad = [
        item
        for item, steps in told
        if found.state(item) in _BAD or any(step.verdict is Verdict.FAILED for step in steps)
    ]
    unknown = [
        item
        for item, steps in told
        if item not in bad and any(step.verdict is Verdict.UNKNOWN for step in steps)
    ]
    if as_json:
        look.say_json(
            document("checks", ({**attachment(found, item), "steps": plain(steps)} for item, steps in told))
        )
    else:
        for item, steps in told:
            shown = steps if verbose else [step for step in steps if step.problem]
            if verbose or item in bad or item in unknown:
                state = found.state(item)
                name = printable(item.container_id)
                about = f"{item.ifname} on network {item.network}: {state.value}"
                for text in prose(about, look.width(), f"{name}  ", "  "):
                    click.echo(text)
                if state is State.STALE:
                    for text in _of_the_dead(place, item):
                        click.echo(text)
                    continue
                for line in step_lines(shown):
                    click.echo(line)
        count = len(told) - len(bad) - len(unknown)
        sure = f", {len(unknown)} cannot be told" if unknown else ""
        click.echo(f"{count} attachment{'' if count == 1 else 's'} as made, {len(bad)} not{sure}")
    hidden = bool(found.seen.hidden or found.seen.unreadable())
    sys.exit(1 if bad else 2 if unknown or hidden else 0)


def _of_the_dead(place: Place, item: Attachment) -> Iterator[str]:
    """Why it is not as made, and the way out: whose business its removal is."""
    from cni_plugins.view import collect, runtimes

    note, columns = collect.awaited(place.roots).get(item.identity), look.width()
    gone = f"its network namespace is gone: {item.netns}"
    pid = collect.holders([item]).get(item.netns_id)
    if note is None:
        yield from prose(gone if pid is None else collect.lives(item, pid), columns, "  ", "  ")
        yield printable(f"  remedy: {'mesokit gc' if pid is None else collect.lead_there(item, pid)}")
        return
    why = f"{gone}; a Mesos agent has a note of it and would detach it: {note}"
    running = runtimes.agents()
    if running:
        why += f"; process {running[0].pid} is that agent, which detaches what is left when it starts"
    else:
        why += "; none runs here"
    yield from prose(why, columns, "  ", "  ")
    do = f"systemctl {'re' if running else ''}start mesos-slave"
    way_out = collect.leave_to_us(note)
    yield printable(f"  remedy: {do}  # or, if none will come back for it: {way_out}")


def _told(
    found: Node, place: Place, listed: list[Attachment], *, brief: bool
) -> list[tuple[Attachment, list[StepState]]]:
    """Each with its steps; `brief`: with none where nothing is wrong."""
    with look.sentences():
        sure = screen.standing(found, listed, place.host) if brief else frozenset()
        if len(sure) == len(listed):
            return [(item, []) for item in listed]
        # Of every kind of step: most of what this command would import, and hardly ever needed.
        from cni_plugins.plugins.registry import Plugins
        from cni_plugins.view import endpoint

        with endpoint.checking(place.roots, place.host, Plugins(), found.seen.links, brief=brief) as checks:
            return [(item, [] if item in sure else endpoint.check(item, checks)) for item in listed]
