"""Which ports of the host a container may have: what the operator allows, and not what the host uses itself.

Packets to a published port are translated before they could reach a program of the host. A task that may ask
for port 22 would take the host's ssh away from everybody; so a port that a program listens on is refused by
that program's name. A runtime may listen on the very port that it publishes, so that nobody else takes it
(podman lets conmon do so); such a placeholder is no obstacle.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cni_plugins.kernel import listeners
from cni_plugins.kernel.nft.ports import Forward
from cni_plugins.spec.config import BOOL, Kind, list_of, option
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.values import Ip
from cni_plugins.steps.ports import PORT_TAKEN

_SPAN = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_PLACEHOLDERS = frozenset(("conmon", "rootlessport"))


@dataclass(frozen=True, slots=True)
class Span:
    """Ports from `low` to `high`, both included."""

    low: int
    high: int

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


def _span(value: Any) -> Span:
    numbers = (0, 0)
    if isinstance(value, str):
        match = _SPAN.fullmatch(value)
        if match is not None:
            numbers = int(match[1]), int(match[2] or match[1])
    elif isinstance(value, int) and not isinstance(value, bool):
        numbers = value, value
    if not 0 < numbers[0] <= numbers[1] < 65536:
        raise ValueError('neither a port nor a range of ports like "31000-32000"')
    return Span(*numbers)


_SPANS = list_of(Kind("port or range", _span))


def allowed() -> Any:
    """The key of a plugin that publishes ports."""
    return option(
        "allowedHostPorts", _SPANS, (), 'host ports that may be published: 8080, "31000-32000"; default all'
    )


def reserved() -> Any:
    """The key of a plugin that publishes ports."""
    return option("reservedHostPorts", _SPANS, (), "host ports that never are")


def override() -> Any:
    """The key of a plugin that publishes ports."""
    return option(
        "overrideListeners", BOOL, False, "publish a port also where a program of the host listens on it"
    )


@dataclass(frozen=True, slots=True)
class HostPorts:
    """What the operator says of the host's ports: `allowed` () is all of them."""

    allowed: tuple[Span, ...]
    reserved: tuple[Span, ...]
    override: bool

    def require(self, ports: Iterable[int]) -> None:
        """CniError 7 for a port that no container may have."""
        for port in ports:
            if any(span.low <= port <= span.high for span in self.reserved):
                raise CniError(
                    Code.INVALID_CONFIG,
                    f"host port {port} is one of reservedHostPorts ({_listed(self.reserved)}), "
                    "which no container may have",
                    "ask for another hostPort",
                )
            if self.allowed and not any(span.low <= port <= span.high for span in self.allowed):
                raise CniError(
                    Code.INVALID_CONFIG,
                    f"host port {port} is not one of allowedHostPorts ({_listed(self.allowed)})",
                    "ask for another hostPort",
                )

    def require_unused(self, host: Namespace, forwards: Sequence[Forward]) -> None:
        """CniError 103 naming the program of the host that listens on one of the ports."""
        if self.override:
            return
        wanted: dict[tuple[str, int], set[tuple[Ip | None, int]]] = {}
        for item in forwards:
            places = wanted.setdefault((item.protocol, item.host_port), set())
            places.add((item.host_ip, item.target.version))
        for (protocol, port), places in wanted.items():
            for listener in listeners.find(host, protocol, port):
                if listener.address.version == 6 and listener.address.is_loopback:
                    continue  # the kernel leads nothing from [::1] to a container, so it stays the program's
                if not any(listener.takes(host_ip, version) for host_ip, version in places):
                    continue
                name, process = listeners.program_of(listener.inode)
                if name in _PLACEHOLDERS:
                    continue
                raise CniError(
                    PORT_TAKEN,
                    f"host port {port}/{protocol} is in use: {name or 'a program'} "
                    f"(process {process or 'unknown'}) listens on {listener.address}",
                    "choose another hostPort, or a hostIP that it leaves free, or stop it; "
                    "with overrideListeners the container gets the packets in its place",
                )


def _listed(spans: Sequence[Span]) -> str:
    return ", ".join(str(span) for span in spans)
