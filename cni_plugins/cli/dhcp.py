"""`mesokit dhcp`: the lease daemon as a process of its own, and what it knows.

`dhcp daemon` with the reference plugin's options is the same (cni_plugins/main.py).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from cni_plugins.dhcp import options
from cni_plugins.dhcp.lease import Lease
from cni_plugins.dhcp.lease6 import AnyLease
from cni_plugins.dhcp.program import Options, run
from cni_plugins.dhcp.store import read
from cni_plugins.dhcp.stores import stores
from cni_plugins.spec.roots import roots_from
from cni_plugins.spec.text import printable
from cni_plugins.store import boot

_WIDTHS = {4: 20, 6: 44}


@click.group("dhcp", invoke_without_command=True)
@click.option("--socket", "socket_path", default="", metavar="PATH", help="Where plugins find it.")
@click.option("--pidfile", default="", metavar="PATH", help="Write the process id there.")
@click.option("--host-prefix", default="", metavar="PATH", help="Where the host's namespaces are seen.")
@click.option("-v", "--verbose", is_flag=True, help="Log what goes well, too.")
@click.pass_context
def command(ctx: click.Context, socket_path: str, pidfile: str, host_prefix: str, verbose: bool) -> None:
    """Renew the leases of dhcp, and those of prefixes for host-local (prefixDelegation), until SIGTERM.

    Not needed where the node service runs.

    \b
    mesokit dhcp            renew, until Ctrl-C
    mesokit dhcp leases     what there is
    """
    if ctx.invoked_subcommand is None:
        if sys.stderr.isatty():
            click.echo("renewing leases, until Ctrl-C; mesokit dhcp leases shows them", err=True)
        sys.exit(run(Options(socket_path, pidfile, host_prefix, verbose), os.environ))


def _require_readable(directory: Path) -> None:
    """That nothing can be seen is not that nothing is there."""
    try:
        next(directory.iterdir(), None)
    except PermissionError as error:
        raise click.ClickException(f"{error.filename}: only root may see the leases") from error
    except OSError:
        return


@command.command("leases", short_help="Show the leases of this node.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one lease a line.")
def leases(as_json: bool) -> None:
    """Show the leases of this node: address or prefix, server, and for how long they hold.

    The prefix of a network has no container.

    \b
    mesokit dhcp leases
    mesokit dhcp leases --json | jq 'select(.state != "bound")'
    """
    roots = roots_from(os.environ)
    _require_readable(roots.lib / "leases")
    found = [
        lease
        for directory in stores(roots)
        for path in sorted(directory.glob("*.json"))
        if (lease := read(path)) is not None
    ]
    for lease in found:
        click.echo(json.dumps(shown(lease)) if as_json else _line(lease))
    if not found and not as_json:
        click.echo("no leases")


def shown(lease: AnyLease) -> dict[str, Any]:
    """A lease for people and programs; `seconds` is how long it still holds, null for ever."""
    left = lease.end - boot.elapsed() if lease.holds else 0.0
    return {
        "network": lease.identity.network,
        "container": lease.identity.container_id,
        "interface": lease.identity.ifname,
        "state": lease.state.value,
        "address": str(lease.address) if lease.address is not None else "",
        "gateway": str(options.gateway_of(lease.options) or "") if isinstance(lease, Lease) else "",
        "server": str(lease.server or ""),
        "seconds": None if left == float("inf") else int(left),
        "told": lease.told,
    }


def _line(lease: AnyLease) -> str:
    each = shown(lease)
    left = "for ever" if each["seconds"] is None else f"{each['seconds']} s left"
    address = (each["address"] or "-").ljust(_WIDTHS[lease.version])
    text = (
        f"{address}{each['state']:<12}{each['network']}  {each['container'] or '(prefix)'}  "
        f"{each['interface']}  from {each['server'] or '-'}, {left}"
    )
    return printable(text + (f"\n    {each['told']}" if each["told"] else ""))
