"""`mesokit framework` once its options are read: settings, the fake master if asked for, and the run."""

from __future__ import annotations

import logging
import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import click
from mesos.v1 import mesos_pb2

from cni_plugins.cli.run_inputs import executor_command, plugin_path
from executor.framework.fake_master.agent import FakeAgent
from executor.framework.fake_master.local import LocalBackend
from executor.framework.fake_master.master import Master
from executor.framework.fake_master.options import Options as MasterOptions
from executor.framework.fake_master.server import serve as serve_master
from executor.framework.sdk.client import Settings as ClientSettings
from executor.framework.sdk.credentials import CredentialError, Credentials, basic, bearer
from executor.framework.sdk.leader import LeaderUrlError
from executor.framework.sdk.tls import Tls, from_environment, trusting
from executor.framework.service.books import Settings
from executor.framework.service.serve import Place, Stored
from executor.framework.service.serve import run as serve
from executor.framework.service.taskinfo import Delivery
from executor.framework.store.interface import StoreError
from executor.local_agent.agent import AgentOptions
from executor.local_agent.events import Note, Observation, PluginCalled
from executor.protocol.encoding import Encoding

log = logging.getLogger(__name__)


async def run(options: dict[str, Any]) -> int:
    """The exit status. Raises click.ClickException for what cannot be used."""
    try:
        async with AsyncExitStack() as stack:
            masters = tuple(options["masters"])
            if options["local"]:
                masters = (await _local(stack, options),)
            elif options["fake_master"]:
                masters = (await _fake_master(stack),)
            elif not masters and not options["zookeeper_masters"]:
                raise click.UsageError(
                    "no master: give --master, --zk, or --local or --fake-master to try it"
                )
            return await serve(
                _settings(options, masters),
                _place(options),
                _stored(options),
                zookeeper_masters=options["zookeeper_masters"] or "",
            )
    except (StoreError, CredentialError, LeaderUrlError, OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None


def _settings(options: dict[str, Any], masters: tuple[str, ...]) -> Settings:
    client = ClientSettings(
        masters,
        Encoding.JSON if options["json_calls"] else Encoding.PROTOBUF,
        _credentials(options, ""),
        _tls(options),
        1024 if options["compress"] else None,
    )
    installed = Delivery().command
    return Settings(
        client,
        name=options["name"],
        user=options["user"],
        roles=tuple(options["roles"]),
        principal=options["principal"],
        agent_credentials=_credentials(options, "agent_"),
        failover_timeout=options["failover_timeout"],
        delivery=Delivery(
            options["executor_command"] or ("./mesokit-executor" if options["executor_uri"] else installed),
            options["executor_uri"],
            options["executor_uri"].endswith((".tar", ".tar.gz", ".tgz")),
        ),
        secrets=options["secrets"],
        gpus=options["gpus"],
        regions=options["all_regions"],
    )


def _credentials(options: dict[str, Any], whose: str) -> Credentials:
    """For masters, or, with `whose` "agent_", for agents. Raises click.ClickException."""
    token_option = "agent_token_file" if whose else "master_token_file"
    secret, token = options[f"{whose}secret_file"], options[token_option]
    principal = options[f"{whose}principal"] or options["principal"]
    names = [
        f"--{name.replace('_', '-')}" for name in (f"{whose}principal", f"{whose}secret_file", token_option)
    ]
    if secret is not None and token is not None:
        raise click.ClickException(f"{names[1]} and {names[2]}: one of them says who we are, not both")
    if secret is not None and not principal:
        raise click.ClickException(f"{names[1]} {secret}: say with {names[0]} whose secret it is")
    if secret is not None:
        return basic(principal, secret)
    return bearer(token) if token is not None else Credentials()


def _tls(options: dict[str, Any]) -> Tls | None:
    """Options first; without one, the variables that every Mesos process knows."""
    given = [options[name] for name in ("tls_ca", "tls_certificate", "tls_key")]
    tls = trusting(*given) if options["tls"] or any(given) else from_environment(os.environ)
    if tls is not None and not tls.verifies:
        log.warning("masters' certificates are not verified: LIBPROCESS_SSL_VERIFY_SERVER_CERT is not set")
    return tls


def _place(options: dict[str, Any]) -> Place:
    host, _, port = options["listen"].rpartition(":")
    if (options["certificate"] is None) != (options["key"] is None):
        raise click.ClickException("--certificate and --key go together")
    return Place(
        host.strip("[]"),
        int(port),
        options["advertise"] or "",
        options["token_file"],
        options["certificate"],
        options["key"],
        tuple(options["files"]),
    )


def _stored(options: dict[str, Any]) -> Stored:
    chosen = [name for name in ("store", "store_etcd", "store_zk") if options[name]]
    if len(chosen) > 1:
        raise click.ClickException(
            "one store only: " + ", ".join("--" + name.replace("_", "-") for name in chosen)
        )
    return Stored(
        options["store"],
        tuple(part for part in (options["store_etcd"] or "").split(",") if part),
        options["store_zk"] or "",
        options["prefix"],
        options["lease"],
    )


async def _fake_master(stack: AsyncExitStack) -> str:
    """A master with two agents whose tasks only say that they run."""
    options = MasterOptions()
    server = await stack.enter_async_context(serve_master(Master(options)))
    for number in (1, 2):
        info = mesos_pb2.AgentInfo(hostname=f"pretended-{number}")
        info.id.value = f"pretended-{number}"
        for name, value in (("cpus", 8.0), ("mem", 16384.0), ("disk", 100_000.0)):
            info.resources.add(name=name, type=mesos_pb2.Value.SCALAR).scalar.value = value
        info.resources.add(name="ports", type=mesos_pb2.Value.RANGES).ranges.range.add(begin=31000, end=32000)
        server.master.register(FakeAgent(info, options), server.now())
    click.echo(f"a master of our own listens on {server.address}; nothing is really started", err=True)
    return server.address


async def _local(stack: AsyncExitStack, options: dict[str, Any]) -> str:
    """A master with this machine as its agent. Raises click.ClickException."""
    if os.geteuid() != 0:
        raise click.ClickException("--local: run me as root: containers and network namespaces need it")
    prefix = os.environ.get("MESOKIT_ROOT", "")
    runtime = Path(f"{prefix}/run/mesokit/agent").resolve()
    work = Path(f"{prefix}/var/lib/mesokit/agent").resolve()
    for folder in (runtime, work):
        folder.mkdir(parents=True, exist_ok=True)
    local = LocalBackend(
        AgentOptions(
            config_dir=options["network_config_dir"],
            plugin_path=plugin_path(options["plugin_dir"]),
            runtime_dir=runtime,
            work_dir=work,
            executor=executor_command(options["executor_command"] or None),
        ),
        _tell,
    )
    await local.agent.open()
    stack.push_async_callback(_close, local)
    server = await stack.enter_async_context(serve_master(Master(MasterOptions())))
    server.master.register(local.fake, server.now())
    click.echo(f"a master of our own listens on {server.address}; this machine is its agent", err=True)
    return server.address


async def _close(local: LocalBackend) -> None:
    """End what runs, within the tasks' own grace periods."""
    local.agent.kill_all()
    await local.agent.wait()
    await local.agent.close()


def _tell(observation: Observation) -> None:
    if isinstance(observation, Note) and observation.trouble:
        log.warning("%s", observation.text)
    elif isinstance(observation, PluginCalled) and observation.error:
        log.warning(
            "%s %s %s: %s", observation.verb, observation.network, observation.plugin, observation.error
        )
