"""One call of a CNI plugin, as Mesos makes it: environment, standard input, and what is read from the answer.

Nothing of the agent's own environment reaches the plugin but PATH. Input and output are memory files: a child
that a plugin leaves behind holds nobody, since nothing waits for the end of a pipe. Mesos waits for a plugin
for ever; here it has a time (Patience), because `mesokit run` has to end. A result is read in the shape of
CNI 0.2 (`ip4`, `ip6`, `dns`), whatever cniVersion it claims: a newer shape parses and yields no address, as
on Mesos.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from executor.local_agent.validation import Json

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


_LONGEST_OUTPUT = 16 << 20
_HURRY_SECONDS = 5.0
_REAP_SECONDS = 1.0


class Patience:
    """How long a plugin may take, in seconds; `hurry` cuts it short for all, those in work included."""

    def __init__(self, seconds: float = 60.0) -> None:
        self.seconds = seconds
        self._hurried = asyncio.Event()

    @property
    def hurried(self) -> bool:
        return self._hurried.is_set()

    def hurry(self) -> None:
        """From now on every plugin has five seconds at most."""
        self._hurried.set()

    async def wait(self, ended: asyncio.Future[None]) -> bool:
        """Until the plugin has ended; False when its time is over."""
        hurried = asyncio.ensure_future(self._hurried.wait())
        try:
            both: tuple[asyncio.Future[Any], ...] = (ended, hurried)
            await asyncio.wait(both, timeout=self.seconds, return_when=asyncio.FIRST_COMPLETED)
            if hurried.done() and not ended.done():
                await asyncio.wait({ended}, timeout=min(self.seconds, _HURRY_SECONDS))
        finally:
            hurried.cancel()
        return ended.done()


class PluginError(Exception):
    """A plugin failed, or its answer cannot be read. The text is what a framework's user would be shown."""


@dataclass(frozen=True, slots=True)
class PluginCall:
    """What one process invocation is made of. `netns` is absent on DEL when the namespace is gone."""

    verb: str
    container_id: str
    netns: Path | None
    ifname: str
    search_path: str
    plugin: Path
    stdin: bytes

    @property
    def environment(self) -> dict[str, str]:
        """The whole environment of the plugin."""
        environment = {
            "CNI_COMMAND": self.verb,
            "CNI_CONTAINERID": self.container_id,
            "CNI_IFNAME": self.ifname,
            "CNI_PATH": self.search_path,
            "PATH": os.environ.get("PATH", DEFAULT_PATH),
        }
        if self.netns is not None:
            environment["CNI_NETNS"] = str(self.netns)
        return environment


@dataclass(frozen=True, slots=True)
class Family:
    """One address family of a 0.2 result; `address` with its prefix length."""

    address: str
    gateway: str


@dataclass(frozen=True, slots=True)
class Dns:
    """The `dns` object of a result; used only if there are nameservers."""

    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AttachmentResult:
    """What the agent takes from the answer to ADD; `text` is the answer itself, kept as network.info."""

    text: bytes
    ip4: Family | None
    ip6: Family | None
    dns: Dns

    @property
    def addresses(self) -> tuple[str, ...]:
        """CIDR texts, IPv4 first."""
        return tuple(family.address for family in (self.ip4, self.ip6) if family)

    @property
    def gateways(self) -> tuple[str, ...]:
        """Gateway addresses, IPv4 first."""
        return tuple(family.gateway for family in (self.ip4, self.ip6) if family and family.gateway)


async def run_plugin(call: PluginCall, patience: Patience | None = None) -> bytes:
    """Run the plugin to its end and return its standard output. Raises PluginError, also when its time is
    over. Then, and when the caller is cancelled, the plugin is killed with all of its process group.
    """
    patience = patience or Patience()
    streams = [os.memfd_create(name, os.MFD_CLOEXEC) for name in ("stdin", "stdout", "stderr")]
    try:
        process = _start(call, streams)
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        pidfd = os.pidfd_open(process.pid)
        asyncio.get_running_loop().add_reader(pidfd, _tell, ended)
        try:
            in_time = await patience.wait(ended)
        finally:
            if not ended.done():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
            asyncio.get_running_loop().remove_reader(pidfd)
            os.close(pidfd)
            with contextlib.suppress(subprocess.TimeoutExpired):  # one that sleeps in the kernel
                process.wait(_REAP_SECONDS)
        if not in_time:
            raise PluginError(f"{call.plugin} did not end in time and was killed")
        stdout, stderr = (os.pread(fd, _LONGEST_OUTPUT, 0) for fd in streams[1:])
    finally:
        for fd in streams:
            os.close(fd)
    if process.returncode != 0:
        raise PluginError(_failure(stdout, stderr, process.returncode))
    return stdout


def _start(call: PluginCall, streams: Sequence[int]) -> subprocess.Popen[bytes]:
    try:
        with open(os.dup(streams[0]), "wb") as stdin:  # noqa: PTH123 - a descriptor
            stdin.write(call.stdin)
        os.lseek(streams[0], 0, os.SEEK_SET)
        return subprocess.Popen(
            [str(call.plugin)],
            env=call.environment,
            stdin=streams[0],
            stdout=streams[1],
            stderr=streams[2],
            start_new_session=True,
        )
    except OSError as error:
        raise PluginError(f"cannot run {call.plugin}: {error.strerror}") from None


def _tell(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)


def read_result(stdout: bytes) -> AttachmentResult:
    """Read the answer to ADD in the 0.2 shape. Raises PluginError, also for anything behind the document."""
    try:
        document = json.loads(stdout)
        if not isinstance(document, dict):
            raise ValueError("not an object")
        dns = document.get("dns") or {}
        return AttachmentResult(
            stdout,
            _family(document.get("ip4"), "ip4"),
            _family(document.get("ip6"), "ip6"),
            Dns(
                tuple(dns.get("nameservers") or ()),
                dns.get("domain") or "",
                tuple(dns.get("search") or ()),
                tuple(dns.get("options") or ()),
            ),
        )
    except (ValueError, TypeError, AttributeError) as error:
        shown = stdout[:200].decode(errors="replace").strip()
        raise PluginError(f"the answer is no CNI result ({error}): {shown!r}") from None


def newer_shape(result: AttachmentResult) -> str:
    """The version of an answer whose addresses Mesos cannot see, or ""."""
    document = json.loads(result.text)
    return str(document.get("cniVersion", "?")) if document.get("ips") and not result.addresses else ""


def _family(document: Json, key: str) -> Family | None:
    if document is None:
        return None
    if not isinstance(document.get("ip"), str):
        raise ValueError(f"{key}.ip is missing")
    address = str(ipaddress.ip_interface(document["ip"]))
    gateway = document.get("gateway")
    return Family(address, str(ipaddress.ip_address(gateway)) if gateway else "")


def _failure(stdout: bytes, stderr: bytes, status: int | None) -> str:
    noise = stderr.decode(errors="replace").strip()
    try:
        document = json.loads(stdout)
        text = f"{document['msg']} (code {document['code']})"
        if document.get("details"):
            text += f": {document['details']}"
    except (ValueError, TypeError, KeyError):
        text = stdout.decode(errors="replace").strip() or f"ended with status {status}"
    return f"{text}; it also said: {noise}" if noise else text
