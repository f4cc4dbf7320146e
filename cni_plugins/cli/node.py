"""`mesokit node`: run the node service, or ask a running one."""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from typing import Any

import click

from cni_plugins.node import ask
from cni_plugins.node.main import Options, serve, socket_path


@click.group("node", invoke_without_command=True)
@click.option(
    "--threads", type=click.IntRange(1, 1024), default=64, show_default=True, help="Calls in work at once."
)
@click.option(
    "--workers", type=click.IntRange(1, 64), help="Processes that do calls.  [default: 2, or 1 on one core]"
)
@click.option("--metrics-port", type=click.IntRange(1, 65535), help="Also serve /metrics on 127.0.0.1:PORT.")
@click.option("-v", "--verbose", is_flag=True, help="Log starts, ends and failed calls to standard error.")
@click.pass_context
def command(
    ctx: click.Context, threads: int, workers: int | None, metrics_port: int | None, verbose: bool
) -> None:
    """Answer plugin calls from a resident process, until SIGTERM.

    Plugins find the service by its socket, /run/mesokit/node.sock (under MESOKIT_ROOT), and work without it
    as well. A service that starts while another runs takes over its socket.
    """
    if ctx.invoked_subcommand is not None:
        return
    from cni_plugins.node.plugins import prepare  # noqa: PLC0415 - every plugin, which `status` does not need

    options = Options(threads, workers or 0, metrics_port or 0, verbose)
    sys.exit(serve(options, version("mesokit"), prepare))


@command.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(as_json: bool) -> None:
    """Show what the running service did: calls, errors by code, latency."""
    try:
        answer = ask.status(socket_path())
    except (ask.NotRunning, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(json.dumps(answer, indent=2) if as_json else render(answer))


@command.command("metrics")
def metrics() -> None:
    """Print the running service's metrics in Prometheus' text format."""
    try:
        click.echo(ask.get(socket_path(), "/metrics"), nl=False)
    except (ask.NotRunning, OSError) as error:
        raise click.ClickException(str(error)) from error


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
    return "\n".join(lines)
