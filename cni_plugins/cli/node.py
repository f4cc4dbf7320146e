"""`mesokit node`: run the node service, or ask a running one."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import click

from cni_plugins.cli.root import told
from cni_plugins.cli.version import version
from cni_plugins.node import ask
from cni_plugins.node.ask import socket_path
from cni_plugins.node.main import Options, serve
from cni_plugins.spec.roots import roots_from
from cni_plugins.spec.text import printable
from cni_plugins.store import network_files
from cni_plugins.store.failures import Failure, last
from cni_plugins.store.failures import as_json as as_json_failure

_SHOWN = 5  # failures in `status`


@click.group("node", invoke_without_command=True)
@click.option(
    "--threads", type=click.IntRange(1, 1024), default=64, show_default=True, help="Calls in work at once."
)
@click.option(
    "--workers", type=click.IntRange(1, 64), help="Processes that do calls.  [default: 2, or 1 on one core]"
)
@click.option("--metrics-port", type=click.IntRange(1, 65535), help="Also serve /metrics on 127.0.0.1:PORT.")
@click.option("-v", "--verbose", is_flag=True, help="Log starts and ends as well as failed calls.")
@click.option(
    "--watch-networks",
    "watch",
    type=click.Choice(("off", "show", "apply")),
    default="off",
    show_default=True,
    envvar="MESOKIT_WATCH_NETWORKS",
    help="When files of /etc/cni/net.d change: log which containers differ from them, or also change what "
    "costs no packet (MESOKIT_WATCH_NETWORKS).",
)
@click.pass_context
def command(
    ctx: click.Context, /, threads: int, workers: int | None, metrics_port: int | None, **flags: Any
) -> None:
    """Answer plugin calls from a resident process, until SIGTERM.

    Plugins find the service by its socket, /run/mesokit/node.sock (under MESOKIT_ROOT), and work without it
    as well. A service that starts while another runs takes over its socket.

    \b
    mesokit node                              until Ctrl-C
    mesokit node --watch-networks show        and say which containers differ from changed files
    mesokit node status                       what a running one did
    """
    if ctx.invoked_subcommand is not None:
        return
    from cni_plugins.node.plugins import policies, prepare, restore

    options = Options(threads, workers or 0, metrics_port or 0, flags["verbose"], watching=flags["watch"])
    again = partial(restore, flags["watch"])
    sys.exit(serve(options, version(), prepare, reload=again, policies=policies))


@command.command("status", short_help="Show calls, errors, latency of the service.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(as_json: bool) -> None:
    """Show what the running service did: calls, errors by code, latency, the last calls that failed, and
    which attachments are not as their networks' files are now.

    \b
    mesokit node status
    """
    try:
        answer = ask.status(socket_path())
    except (ask.NotRunning, OSError) as error:
        raise click.ClickException(printable(told(error))) from error
    answer["failures"] = [as_json_failure(failure) for failure in _last(_SHOWN)]
    answer["differing"] = list(_differing())
    click.echo(json.dumps(answer, indent=2) if as_json else render(answer))


def _differing() -> Iterator[dict[str, Any]]:
    # What looks at the node, which the other commands do without.
    from cni_plugins.cli import look
    from cni_plugins.view import differences

    place = look.here()
    found = differences.look(look.node(place, tasks=False, again=True), place.roots)
    for identity, other in found.differences.items():
        yield {
            "network": identity.network,
            "container_id": identity.container_id,
            "interface": identity.ifname,
            "differs": str(other),
            "file": other.file,
            "update": other.command,
        }


@command.command("failures", short_help="Show the last plugin calls that failed.")
@click.option("-n", "count", type=click.IntRange(1), default=50, show_default=True, help="How many at most.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one failure a line.")
def failures(count: int, as_json: bool) -> None:
    """Show the last plugin calls that failed, with and without the service, since the machine started.

    \b
    mesokit node failures                      the last ones, the oldest first
    mesokit node failures -n 5 --json          time, verb, plugin, network, container, interface, code, …
    """
    found = _last(count)
    if as_json:
        for failure in found:
            click.echo(json.dumps(as_json_failure(failure)))
    elif found:
        click.echo("\n".join(_told([as_json_failure(failure) for failure in found])))
    else:
        click.echo("no plugin call has failed since this machine started")


def _last(count: int) -> list[Failure]:
    try:
        return last(roots_from(os.environ).run, count)
    except PermissionError as error:
        raise click.ClickException(f"{error.filename}: only root may see the calls that failed") from error
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}") from error


def _told(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Failures for people, two lines each: one to find it by, one to read."""
    lines = []
    for each in found:
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each["time"]))
        about = [each[name] for name in ("network", "container", "interface") if each[name]]
        took = f"{each['seconds'] * 1000:.0f} ms, {each['by']}"
        lines.append(f"{moment}  {each['verb']} {each['plugin']}  {'  '.join(about)}  ({took})")
        lines.append(f"    {each['code']}: {each['message']}")
    return [printable(line) for line in lines]


@command.command("metrics")
@click.option("--state", is_flag=True, help="Attachments and pools of this node instead; needs no service.")
def metrics(state: bool) -> None:
    """Print the running service's metrics in Prometheus' text format.

    With --state those of the node itself, for the textfile collector of Prometheus' node_exporter:

    \b
    mesokit node metrics --state > /var/lib/node_exporter/mesokit.prom
    """
    if state:
        # What looks at the node, which the other commands do without.
        from cni_plugins.cli import look
        from cni_plugins.view import differences, pools
        from cni_plugins.view.metrics import prometheus

        place = look.here()
        found = differences.look(look.node(place, tasks=False), place.roots)
        click.echo(prometheus(found, pools.pools(found, place.roots)), nl=False)
        return
    try:
        click.echo(ask.get(socket_path(), "/metrics"), nl=False)
    except (ask.NotRunning, OSError) as error:
        raise click.ClickException(printable(told(error))) from error


def render(answer: dict[str, Any]) -> str:
    """The status for people."""
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(answer["started"]))
    memory = answer["memory_bytes"].get("pss")
    size = f", {memory / 1e6:.1f} MB" if memory else ""
    lines = [
        f"mesokit node {answer['version']}, process {answer['pid']}, since {since}{size}",
        f"{answer['running_calls']} calls in work, {len(answer['workers'])} workers, "
        f"{answer['threads']} threads, {answer['refused_calls']} refused",
    ]
    watching = answer.get("watch_networks", "off")
    if watching != "off":
        does = "are logged" if watching == "show" else "are logged, and applied where that costs no packet"
        lines.append(f"watches {network_files.DIRECTORY}: edits {does}")
    names = [row["plugin"] for row in (*answer["calls"], *answer["errors"])]
    width = max(12, *map(len, names), 0) + 2
    if answer["calls"]:
        times = "".join(f"{name + ' ms':>9}" for name in ("p50", "p90", "p99", "max"))
        lines += ["", f"{'plugin':<{width}}{'verb':<9}{'calls':>9}{times}"]
    for row in answer["calls"]:
        times = row["milliseconds"]
        cells = "".join(f"{times[name]:>9.1f}" for name in ("p50", "p90", "p99", "max"))
        lines.append(f"{row['plugin']:<{width}}{row['verb']:<9}{row['calls']:>9}{cells}")
    if answer["errors"]:
        lines += ["", f"{'errors of':<{width}}{'verb':<9}{'code':>9}{'count':>9}"]
    for row in answer["errors"]:
        lines.append(f"{row['plugin']:<{width}}{row['verb']:<9}{row['code']:>9}{row['count']:>9}")
    if answer.get("differing"):
        lines += ["", "not as their networks' files are now (mesokit inspect shows more):"]
    for row in answer.get("differing", ()):
        who = f"{row['container_id']} {row['interface']} on {row['network']}"
        lines += [printable(f"{who}: {row['differs']}")]
        lines += [printable(f"    {row['update']}")] if row["update"] else []
    if answer.get("failures"):
        lines += ["", "last failed calls (mesokit node failures shows more):", *_told(answer["failures"])]
    return "\n".join(lines)
