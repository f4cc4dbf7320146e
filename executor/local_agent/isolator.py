"""Attaches a container to its networks and detaches it, exactly as Mesos' network/cni isolator does.

For a container on k networks all k ADDs run at once in its one namespace, and so do the DELs. State on disk:

    <root>/<container>/ns                          bind mount of the network namespace
    <root>/<container>/{hosts,hostname,resolv.conf}
    <root>/<container>/<network>/network.conf      what the plugin got on ADD, and gets again on DEL
    <root>/<container>/<network>/<ifname>/network.info   what it answered

A network whose network.conf is there gets a DEL, whether its ADD failed, succeeded or was never made. A DEL
that fails leaves directory and mount for another try, and the container is not gone until one succeeds.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mesos.v1 import mesos_pb2

from executor.local_agent import namespaces
from executor.local_agent.cni import RESERVED_ARGS, Network, NetworkError, find_plugin, scan
from executor.local_agent.container import Bind
from executor.local_agent.events import Note, Observer, PluginCalled
from executor.local_agent.plugin_call import (
    AttachmentResult,
    Dns,
    Patience,
    PluginCall,
    PluginError,
    newer_shape,
    read_result,
    run_plugin,
)
from executor.protocol.mesos_json import to_json


class IsolationError(Exception):
    """Networks could not be attached or detached; the text has one line for each that failed."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """One interface of a container."""

    info: mesos_pb2.NetworkInfo
    network: Network
    ifname: str
    result: AttachmentResult | None = None


@dataclass(frozen=True, slots=True)
class Isolator:
    """`root` is the state directory, `search_path` the colon-separated plugin directories (CNI_PATH), and
    `patience` how long each call may take.
    """

    root: Path
    config_dir: Path
    search_path: str
    observe: Observer
    patience: Patience = field(default_factory=Patience)

    def close(self) -> None:
        """Give the state directory back; what a failed DEL left behind stays in it."""
        namespaces.unmount(self.root)
        if self.root.is_dir() and not any(self.root.iterdir()):
            self.root.rmdir()

    def plan(self, infos: Sequence[mesos_pb2.NetworkInfo]) -> list[Attachment]:
        """The attachments for these networks, read now from the directory. Raises NetworkError."""
        if not infos:
            return []
        networks = scan(self.config_dir, self.search_path)
        return [Attachment(info, networks.find(info.name), f"eth{index}") for index, info in enumerate(infos)]

    async def attach(self, container: str, pid: int, plan: Sequence[Attachment]) -> list[Attachment]:
        """Attach the network namespace of `pid` to all networks at once. Raises IsolationError."""
        self._prepare()
        handle = self._handle(container)
        handle.parent.mkdir(mode=0o755)
        handle.touch()
        namespaces.mount(Path(f"/proc/{pid}/ns/net"), handle, namespaces.MS_BIND)
        for attachment in plan:
            directory = self.root / container / attachment.network.name
            (directory / attachment.ifname).mkdir(parents=True)
            (directory / "network.conf").write_text(_configuration(attachment))
        results = await asyncio.gather(
            *(self._add(container, attachment) for attachment in plan), return_exceptions=True
        )
        attached: list[Attachment] = []
        failures: list[str] = []
        for attachment, result in zip(plan, results, strict=True):
            if isinstance(result, PluginError):
                failures.append(f"network {attachment.network.name!r}: {attachment.network.type}: {result}")
            elif isinstance(result, BaseException):
                raise result
            else:
                attached.append(Attachment(attachment.info, attachment.network, attachment.ifname, result))
        if failures:
            raise IsolationError("\n".join(failures))
        return attached

    def files(self, container: str, hostname: str, attached: Sequence[Attachment]) -> list[Bind]:
        """Write hosts, hostname and resolv.conf, and say where they belong. Raises IsolationError."""
        directory = self.root / container
        (directory / "hostname").write_text(f"{hostname}\n")
        (directory / "hosts").write_text(_hosts(hostname, attached))
        names = ["hosts", "hostname"]
        dns = [a.result.dns for a in attached if a.result and a.result.dns.nameservers]
        if dns:
            (directory / "resolv.conf").write_text(_resolver(dns))
            names.append("resolv.conf")
        elif not Path("/etc/resolv.conf").exists():
            raise IsolationError("no network gives name servers, and this host has no /etc/resolv.conf")
        there = [name for name in names if Path("/etc", name).exists()]
        return [Bind(str(directory / name), str(Path("/etc", name).resolve())) for name in there]

    async def detach(self, container: str) -> None:
        """Detach from every network that was ever tried, all at once. Raises IsolationError."""
        directory = self.root / container
        handle = self._handle(container)
        netns = handle if namespaces.is_namespace(handle) else None
        configurations = sorted(directory.glob("*/network.conf"))
        results = await asyncio.gather(
            *(self._del(container, path, netns) for path in configurations), return_exceptions=True
        )
        failures: list[str] = []
        for path, result in zip(configurations, results, strict=True):
            if isinstance(result, PluginError):
                failures.append(f"network {path.parent.name!r}: DEL: {result}")
            elif isinstance(result, BaseException):
                raise result
            else:
                shutil.rmtree(path.parent)
        if failures:
            raise IsolationError("\n".join(failures))
        namespaces.unmount(handle)
        shutil.rmtree(directory, ignore_errors=True)

    def _prepare(self) -> None:
        """Make the state directory a shared mount of its own, so that unmounts reach every container."""
        if not namespaces.is_mounted(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            namespaces.mount(self.root, self.root, namespaces.MS_BIND)
            namespaces.mount(None, self.root, namespaces.MS_SHARED)

    async def _add(self, container: str, attachment: Attachment) -> AttachmentResult:
        network, ifname = attachment.network, attachment.ifname
        directory = self.root / container / network.name
        result = None
        error = ""
        begun = time.monotonic()
        try:
            netns = self._handle(container)
            result = read_result(
                await self._call("ADD", container, ifname, netns, directory / "network.conf")
            )
            (directory / ifname / "network.info").write_bytes(result.text)
        except PluginError as failure:
            error = str(failure)
            raise
        finally:
            self.observe(
                PluginCalled(
                    container=container,
                    verb="ADD",
                    network=network.name,
                    ifname=ifname,
                    plugin=network.type,
                    seconds=time.monotonic() - begun,
                    addresses=result.addresses if result else (),
                    gateways=result.gateways if result else (),
                    error=error,
                )
            )
        if version := newer_shape(result):
            self.observe(
                Note(
                    f"network {network.name!r}: {network.type} answered in the shape of CNI {version}, in "
                    'which Mesos sees no address; drop "cniVersion" from its configuration, or say "0.2.0"',
                    trouble=True,
                )
            )
        return result

    async def _del(self, container: str, configuration: Path, netns: Path | None) -> None:
        ifname = next(path.name for path in configuration.parent.iterdir() if path.is_dir())
        error = ""
        begun = time.monotonic()
        try:
            await self._call("DEL", container, ifname, netns, configuration)
        except PluginError as failure:
            error = str(failure)
            raise
        finally:
            self.observe(
                PluginCalled(
                    container=container,
                    verb="DEL",
                    network=configuration.parent.name,
                    ifname=ifname,
                    plugin=json.loads(configuration.read_bytes())["type"],
                    seconds=time.monotonic() - begun,
                    error=error,
                )
            )

    async def _call(
        self, verb: str, container: str, ifname: str, netns: Path | None, configuration: Path
    ) -> bytes:
        stdin = configuration.read_bytes()
        name = json.loads(stdin)["type"]
        plugin = find_plugin(name, self.search_path)
        if plugin is None:
            raise PluginError(f"no executable {name!r} in {self.search_path}")
        call = PluginCall(verb, container, netns, ifname, self.search_path, plugin, stdin)
        return await run_plugin(call, self.patience)

    def _handle(self, container: str) -> Path:
        return self.root / container / "ns"


def _configuration(attachment: Attachment) -> str:
    """Standard input of the plugin: the file's object, keys sorted, and what the task says of the network."""
    document = dict(attachment.network.document)
    arguments = dict(document.get("args") or {})
    if RESERVED_ARGS in arguments:
        raise NetworkError(f"{attachment.network.path}: args.{RESERVED_ARGS} is reserved")
    arguments[RESERVED_ARGS] = {"network_info": to_json(attachment.info)}
    return json.dumps(document | {"args": arguments}, sort_keys=True)


def _hosts(hostname: str, attached: Sequence[Attachment]) -> str:
    """As the agent writes it; where a network gives IPv6, which the agent leaves out, that too."""
    results = [attachment.result for attachment in attached if attachment.result]
    four = next((result.ip4 for result in results if result.ip4), None)
    six = next((result.ip6 for result in results if result.ip6), None)
    lines = ["127.0.0.1 localhost", *(["::1 localhost ip6-localhost ip6-loopback"] if six else [])]
    lines += [f"{ipaddress.ip_interface(each.address).ip} {hostname}" for each in (four, six) if each]
    return "".join(f"{line}\n" for line in lines)


def _resolver(found: Sequence[Dns]) -> str:
    lines = [f"domain {dns.domain}" for dns in found if dns.domain][-1:]
    for keyword, values in (
        ("search", [name for dns in found for name in dns.search]),
        ("options", [name for dns in found for name in dns.options]),
    ):
        if values:
            lines.append(f"{keyword} {' '.join(values)}")
    lines += [f"nameserver {address}" for dns in found for address in dns.nameservers]
    return "\n".join(lines) + "\n"
