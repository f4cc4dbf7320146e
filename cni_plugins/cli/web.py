"""`mesokit web`: the node in a browser, as it changes."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import click

from cni_plugins.cli import look
from cni_plugins.cli.root import told
from cni_plugins.cli.web_live import Live
from cni_plugins.cli.web_site import Access, Site, by_token, by_user
from cni_plugins.spec.text import printable
from cni_plugins.store import sockets
from executor.local_agent import browsers
from executor.local_agent.http_server import HttpServer

T = TypeVar("T")

_IDLE = 120.0
"""Seconds that a connection may say nothing."""


@click.command("web")
@click.option("--listen", default="127.0.0.1:8099", show_default=True, metavar="HOST:PORT", help="Loopback.")
@click.option(
    "--socket",
    "path",
    type=click.Path(path_type=Path),
    help="A Unix socket instead, for root and for who starts this; no token.",
)
def command(listen: str, path: Path | None) -> None:
    """Show this node in a browser, as it changes: a list of what is attached, the picture, one container with
    all its steps, events, and what policy says of a flow. Nothing can be changed from there.

    Over TCP the page is for this machine alone, and for who has the link that is printed, once: it holds a
    token. Port 0 is any free port. Works with and without the node service; who is not root sees what he may.

    \b
    mesokit web                               prints the link, and serves until Ctrl-C
    ssh -L 8099:127.0.0.1:8099 NODE           to look from elsewhere: then the same link
    mesokit web --socket /run/mesokit/web.sock
    ssh -L 8099:/run/mesokit/web.sock root@NODE     then http://127.0.0.1:8099/
    curl --unix-socket /run/mesokit/web.sock http://localhost/v1/attachments
    """
    logging.basicConfig(level=logging.WARNING, format="mesokit web: %(message)s", stream=sys.stderr)
    address = None if path is not None else _address(listen)
    place = look.here()
    try:
        asyncio.run(_serve(place, address, path))
    except OSError as error:
        raise click.ClickException(printable(told(error))) from error


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (host and port.isascii() and port.isdigit() and int(port) <= 0xFFFF):
        raise click.BadParameter(
            f"{text!r}: expected HOST:PORT, such as 127.0.0.1:8099", param_hint="--listen"
        )
    if not browsers.is_loopback(host):
        raise click.BadParameter(
            f"{text!r}: the page is served on loopback only: 127.0.0.1:{port} or [::1]:{port}; "
            f"from elsewhere it is reached by ssh -L {port}:127.0.0.1:{port}",
            param_hint="--listen",
        )
    return "127.0.0.1" if host == "localhost" else str(ipaddress.ip_address(host)), int(port)


async def _serve(place: look.Place, address: tuple[str, int] | None, path: Path | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    access = by_user() if path is not None else by_token()
    with ThreadPoolExecutor(1, "look") as executor:

        async def work(function: Callable[[], T]) -> T:
            return await asyncio.get_running_loop().run_in_executor(executor, function)

        site = Site(place, access, work, Live(place, work))
        server = HttpServer(site.handle, site.admit, idle=_IDLE)
        async with _listening(server, access, address, path):
            await stop.wait()


@contextlib.asynccontextmanager
async def _listening(
    server: HttpServer, access: Access, address: tuple[str, int] | None, path: Path | None
) -> AsyncIterator[None]:
    """Listen, and say where."""
    ours = None
    try:
        if path is not None:
            listener = _bound(path)
            ours = sockets.identity(path)
            await server.listen_on(listener)
            click.echo(printable(str(path)))
            click.echo(
                f"from elsewhere: ssh -L 8099:{printable(str(path))} HOST, http://127.0.0.1:8099/", err=True
            )
        elif address is not None:
            host, wanted = address
            port = await server.listen_tcp(host, wanted)
            shown = f"[{host}]" if ":" in host else host
            click.echo(f"http://{shown}:{port}{access.base}#{access.token}")
            click.echo(f"from elsewhere: ssh -L {port}:{shown}:{port} HOST, and the same link", err=True)
        sys.stdout.flush()
        yield
    finally:
        await server.close()
        if path is not None and ours is not None:
            sockets.remove(path, ours)


def _bound(path: Path) -> socket.socket:
    """A socket at `path`, where nobody serves and nobody else could put another. OSError."""
    folder = path.absolute().parent
    status = folder.stat()
    if status.st_uid not in {0, os.geteuid()} or (status.st_mode & 0o022 and not status.st_mode & 0o1000):
        raise OSError(f"--socket {path}: others may change {folder}: choose a directory that they may not")
    if _answers(path):
        raise OSError(f"--socket {path}: somebody serves there already: end it, or choose another path")
    try:
        return sockets.bind(path)
    except OSError as error:
        if error.errno:  # else it is a sentence of ours
            error.filename = error.filename or os.fspath(path)
        raise


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        try:
            asking.connect(os.fspath(path))
        except OSError:
            return False
        return True
