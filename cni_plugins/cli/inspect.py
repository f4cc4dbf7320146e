"""`mesokit inspect`: all about one container's attachments."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence

import click

from cni_plugins.cli import look
from cni_plugins.cli.steps import step_lines
from cni_plugins.spec.text import printable
from cni_plugins.view import differences, inspection, remedies
from cni_plugins.view.attachments import Attachment
from cni_plugins.view.endpoint import Endpoint, Interface
from cni_plugins.view.node import Node
from cni_plugins.view.plain import document
from cni_plugins.view.verdict import StepState


@click.command("inspect")
@click.argument("name")
@click.option("--config", "with_config", is_flag=True, help="Print the network configuration as well.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(name: str, with_config: bool, as_json: bool) -> None:
    """Show all about NAME: addresses, routes, neighbours, counters, the host's side, and each step of the
    attachment with its state in the kernel.

    NAME is a container id or its beginning, a task id, an address, a MAC address, an interface of the host, a
    published port (tcp/8080), a process (pid/4711), or the name of a network namespace. Exit status 1 when
    nothing goes by that name.

    \b
    mesokit inspect 4c7f                 the container whose id begins so
    mesokit inspect web.1                that runs this task
    mesokit inspect 10.9.0.7             that has this address
    mesokit inspect tcp/8080             that publishes this port
    mesokit inspect vethd28a3133         whose other end this is
    """
    place = look.here()
    found = differences.look(look.node(place), place.roots)
    items = look.named(found, name)
    with look.sentences():
        told = inspection.inspect(items, place.roots, place.host)
    if as_json:
        look.say_json(document("inspection", (inspection.as_json(found, each) for each in told)))
        return
    for number, each in enumerate(told):
        if number:
            click.echo()
        for line in _lines(found, each.item, each.there, each.steps):
            click.echo(line)
        if with_config:
            click.echo("configuration")
            click.echo(json.dumps(each.item.config, indent=2))


def _lines(node: Node, item: Attachment, there: Endpoint, steps: Sequence[StepState]) -> Iterator[str]:
    state = node.state(item)
    yield printable(f"container {item.container_id}  {item.ifname} on network {item.network}")
    task = node.task(item)
    rows = [("state", state.value), ("type", f"{item.type} (plugins {', '.join(item.plugins)})")]
    if task is not None:
        whose = f"framework {task.framework}" if task.framework else task.runtime
        rows.append(("task", f"{', '.join(task.names)} ({whose})"))
    rows += [
        ("since", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(item.since)) if item.since else "-"),
        ("addresses", ", ".join(entry.address for entry in item.addresses) or "-"),
        *([("external", ", ".join(item.external))] if item.external else []),
        ("ports", ", ".join(map(str, item.ports)) or "-"),
        ("host side", " in ".join(name for name in (item.host_interface, item.parent) if name) or "-"),
        ("namespace", item.netns or "-"),
        ("look", remedies.enter(item.netns, "ip a") if item.netns else "-"),
    ]
    other = node.difference(item)
    if other is not None:
        rows.append(("differs", f"from {other.file}: {other}"))
        rows.append(("apply", f"{other.command}  # --dry-run tells what it costs" if other.command else "-"))
    yield from _fitted(rows, "  ")
    if there.missing:
        yield printable(f"  inside: {there.missing}")
    else:
        yield "inside"
        for interface in there.inside:
            yield from _interface(interface)
        for route in there.routes:
            yield printable(f"  route {route}")
    yield "host"
    for interface in there.outside:
        # What the host's end receives is what the container sends.
        yield from _interface(interface)
    if there.rules:
        yield f"  rules in {', '.join(there.rules)}"
    yield "steps"
    yield from step_lines(steps)


def _fitted(rows: list[tuple[str, str]], indent: str) -> Iterator[str]:
    size = max(len(name) for name, _ in rows)
    for name, text in rows:
        yield printable(f"{indent}{name:<{size}}  {text}")


def _interface(item: Interface) -> Iterator[str]:
    flags = "up" if item.up and item.running else "up, no carrier" if item.up else "DOWN"
    what = f"  {item.name}  {item.kind or 'device'}  {flags}  mtu {item.mtu}  {item.mac}"
    yield printable("  ".join((what, *item.addresses)))
    if item.counters is not None:
        carried = item.counters
        lost = carried.received_dropped + carried.sent_dropped
        errors = carried.received_errors + carried.sent_errors
        yield (
            f"    received {carried.received_packets} packets, {carried.received_bytes} bytes; "
            f"sent {carried.sent_packets} packets, {carried.sent_bytes} bytes; "
            f"dropped {lost}, errors {errors}"
        )
    for entry in item.neighbours:
        yield printable(f"    neighbour {entry}")
