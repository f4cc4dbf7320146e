"""`mesokit doctor`: what is wrong with this node."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import click

from cni_plugins.cli import look
from cni_plugins.cli.colour import coloured
from cni_plugins.cli.look import Place
from cni_plugins.cli.root import told
from cni_plugins.cli.table import prose
from cni_plugins.cli.version import version
from cni_plugins.node import ask
from cni_plugins.spec.text import printable
from cni_plugins.store import failures
from cni_plugins.view.doctor.facts import Finding, Level
from cni_plugins.view.doctor.look import CHECKS, examine
from cni_plugins.view.doctor.look import look as look_around
from cni_plugins.view.plain import document

_COLOURS = {Level.FAIL: "31", Level.WARN: "33", Level.UNKNOWN: "33"}
_RECENT = 3600  # seconds
_INDENT = " " * 6


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(as_json: bool) -> None:
    """Look for what is wrong with this node: settings, firewalls of others, subnets, pools, packet sizes,
    containers, stale state, the node service, the way to the Mesos agent.

    Each finding comes with what was seen and what to do. It changes nothing. Exit status: 0 healthy, 1
    warnings (or something cannot be told), 2 something does not work. At a terminal sentences are broken to
    fit; in a pipe each is one line, unless COLUMNS says how many columns there are.

    \b
    mesokit doctor                                    all checks
    mesokit doctor --json | jq -r '.items[].remedy'   what to do
    """
    place = look.here()
    found = look.node(place, tasks=False)
    with look.sentences():
        facts = look_around(found, place.roots, place.host)
        findings = [*examine(facts), *_service(), *_failures(place)]
    if as_json:
        look.say_json(document("findings", findings))
    else:
        columns = look.width()
        for item in findings:
            level = item.level.value.upper()
            first, *rest = prose(f"{item.check}: {item.about}", columns, f"{level}  ", _INDENT)
            click.echo(coloured(level, _COLOURS[item.level], sys.stdout) + first.removeprefix(level))
            for line in (*rest, *prose(item.evidence, columns, f"{_INDENT}seen:   ", f"{_INDENT}        ")):
                click.echo(line)
            click.echo(printable(f"{_INDENT}remedy: {item.remedy}"))  # one line, to be pasted
        count = len(CHECKS) + 2
        attached = len(found.attachments)
        if not findings:
            click.echo(f"healthy: {count} checks, {attached} attachment{'' if attached == 1 else 's'}")
    levels = {item.level for item in findings}
    sys.exit(2 if Level.FAIL in levels else 1 if levels else 0)


def _service() -> Iterator[Finding]:
    """The node service, if there is one: calls work without it, more slowly."""
    path = ask.socket_path()
    try:
        if not path.is_socket():
            return
        answer = ask.status(path)
    except ask.NotRunning:
        yield Finding(
            "node-service",
            Level.WARN,
            "the node service has died: calls work without it, more slowly, and flushed rules stay flushed",
            f"nobody listens on {path}",
            "systemctl restart mesokit-node, or: mesokit node",
        )
    except PermissionError as error:
        yield Finding(
            "node-service",
            Level.UNKNOWN,
            "the node service answers root alone",
            told(error),
            "sudo mesokit doctor",
        )
    except (OSError, ValueError) as error:
        yield Finding(
            "node-service",
            Level.FAIL,
            "the node service does not answer: calls wait for it",
            told(error),
            "systemctl restart mesokit-node",
        )
    else:
        mine = version()
        if answer.get("version") != mine:
            yield Finding(
                "node-service",
                Level.WARN,
                "the node service is of another version than this program",
                f"{answer.get('version')} runs, {mine} is installed",
                "systemctl restart mesokit-node",
            )


def _failures(place: Place) -> Iterator[Finding]:
    """Calls that failed in the last hour."""
    try:
        recent = [item for item in failures.last(place.roots.run, 1000) if time.time() - item.time < _RECENT]
    except OSError:
        return
    if recent:
        last = recent[-1]
        yield Finding(
            "failed-calls",
            Level.WARN,
            f"{len(recent)} plugin call{'s' if len(recent) > 1 else ''} failed in the last hour",
            str(last),
            f"mesokit events --since 1h  # the last one's container: {last.container or '-'}",
        )
