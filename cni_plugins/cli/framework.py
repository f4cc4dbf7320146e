"""`mesokit framework`: the scheduler of apps, one instance of it."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import pwd
import sys
from pathlib import Path

import click

_PATH = click.Path(dir_okay=False, path_type=Path)

EXAMPLES = """\b
Examples:
  mesokit framework --fake-master
      a master and two agents that only pretend, to try it
  mesokit framework --local
      the whole of it on this machine: a master, this machine as its agent, tasks on its networks
  mesokit framework --master m1:5050 --master m2:5050 --file dist/mesokit-executor --listen 10.0.0.5:8080
      one instance, its state in /var/lib/mesokit/framework.db; agents fetch the executor from it
  mesokit framework --zk zk://z1:2181,z2:2181/mesos --store-zk z1:2181,z2:2181 --listen 10.0.0.5:8080
      one of several: whoever leads works, the others send on to it
"""


def _addresses(
    _context: click.Context, parameter: click.Parameter, value: tuple[str, ...] | str | None
) -> tuple[str, ...] | str | None:
    """HOST:PORT, once or several times."""
    for text in (value,) if isinstance(value, str) else value or ():
        host, _, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        plain = host and not set(host) & set(" \t/[]:")
        if not (bracketed or plain) or not port.isdecimal() or int(port) > 65535:
            raise click.BadParameter(f"{text!r} is not HOST:PORT, such as 10.0.0.5:5050 or [fd00::5]:5050")
    return value


_SECONDS = click.FloatRange(0, 9.2e9)
"""As many as the nanoseconds of Mesos' 64 bits hold."""


def _seconds(_context: click.Context, _parameter: click.Parameter, value: float) -> float:
    if math.isnan(value):
        raise click.BadParameter("nan is no number of seconds")
    return value


def _user() -> str:
    """Who runs this; a root file system may have no user database."""
    number = os.geteuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        if number == 0:
            return "root"
    raise click.UsageError(f"user {number} has no name on this host: say --user NAME")


@click.command("framework", epilog=EXAMPLES)
@click.option(
    "--master",
    "masters",
    multiple=True,
    metavar="HOST:PORT",
    callback=_addresses,
    help="A Mesos master; may be repeated.",
)
@click.option(
    "--zk", "zookeeper_masters", metavar="URL", help="Find the leading master: zk://host:port,…/path."
)
@click.option("--fake-master", is_flag=True, help="Start a master of our own with two agents, to try things.")
@click.option(
    "--local", is_flag=True, help="The same with this machine as its agent: tasks really run (root)."
)
@click.option(
    "--network-config-dir",
    type=click.Path(path_type=Path),
    default=Path("/etc/cni/net.d"),
    show_default=True,
    help="With --local: network configurations.",
)
@click.option("--plugin-dir", default="", help="With --local: plugin directories, as of `mesokit run`.")
@click.option(
    "--listen",
    default="127.0.0.1:8080",
    show_default=True,
    metavar="HOST:PORT",
    callback=_addresses,
    help="API and page.",
)
@click.option(
    "--advertise",
    metavar="HOST:PORT",
    callback=_addresses,
    help="Where agents and clients find it; default as --listen.",
)
@click.option(
    "--store", type=_PATH, metavar="FILE", help="State in a SQLite file. [/var/lib/mesokit/framework.db]"
)
@click.option("--store-etcd", metavar="HOST:PORT,…", help="State and leadership in etcd.")
@click.option("--store-zk", metavar="HOST:PORT,…", help="State and leadership in ZooKeeper.")
@click.option("--prefix", default="/mesokit", show_default=True, help="Where in etcd or ZooKeeper.")
@click.option(
    "--lease",
    type=click.FloatRange(1.0, 3600.0),
    callback=_seconds,
    default=10.0,
    show_default=True,
    help="Seconds without the store after which it leads no more.",
)
@click.option("--name", default="mesokit", show_default=True, help="The framework's name in Mesos.")
@click.option(
    "--role", "roles", multiple=True, default=("*",), show_default=True, help="A role; may be repeated."
)
@click.option("--user", default=_user, show_default="you", help="Unix user of tasks and executors.")
@click.option("--gpus", is_flag=True, help="Be offered agents with GPUs too, which masters keep from others.")
@click.option("--all-regions", is_flag=True, help="Be offered agents outside the master's region too.")
@click.option("--principal", default="", help="Who it is for the master.")
@click.option("--secret-file", type=_PATH, help="Its secret, for basic authentication.")
@click.option("--master-token-file", type=_PATH, help="A bearer token for the master instead.")
@click.option("--agent-principal", default="", help="Who reads tasks' output at agents; as --principal.")
@click.option("--agent-secret-file", type=_PATH, help="Its secret, where agents ask who reads.")
@click.option("--agent-token-file", type=_PATH, help="A bearer token for agents instead.")
@click.option("--tls", is_flag=True, help="Speak TLS with masters, and trust this host's authorities.")
@click.option("--tls-ca", type=_PATH, help="The same, and trust this certificate authority alone (PEM).")
@click.option("--tls-certificate", type=_PATH, help="Shown to masters that ask who we are (PEM).")
@click.option("--tls-key", type=_PATH, help="Its key (PEM).")
@click.option(
    "--file", "files", multiple=True, type=_PATH, help="Serve a file; the first one is the executor."
)
@click.option(
    "--executor", "executor_uri", default="", metavar="URI", help="Where agents fetch the executor."
)
@click.option("--executor-command", default="", metavar="CMD", help="What starts it there.")
@click.option(
    "--secrets", type=click.Path(file_okay=False, path_type=Path), help="Folder of files for `secrets`."
)
@click.option("--token-file", type=_PATH, help="Ask clients of the API for this token.")
@click.option("--certificate", type=_PATH, help="Serve the API over TLS: certificate chain (PEM).")
@click.option("--key", type=_PATH, help="Its key (PEM).")
@click.option(
    "--failover-timeout",
    type=_SECONDS,
    callback=_seconds,
    default=7 * 86400.0,
    show_default=True,
    help="Seconds that a master waits for it.",
)
@click.option("--json-calls", is_flag=True, help="Speak JSON with the master instead of protobuf.")
@click.option("--compress", is_flag=True, help="Compress large calls (Mesos 1.2 and later).")
@click.option("--verbose", is_flag=True, help="Tell more.")
def command(**options: object) -> None:
    """Run apps on Mesos: keep their instances running, update them, and answer for them over HTTP."""
    logging.basicConfig(
        level=logging.DEBUG if options["verbose"] else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    for noisy in ("kazoo", "uvicorn", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # A framework's libraries are of no use to the other commands.
    try:
        from cni_plugins.cli import framework_run  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"{error.name} is missing: pip install 'mesokit[framework]' brings what the framework needs"
        ) from None
    sys.exit(asyncio.run(framework_run.run(options)))
