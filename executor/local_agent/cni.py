"""The networks of a configuration directory, by the rules of Mesos' network/cni isolator (cni.cpp, load).

Every regular file is read, whatever its suffix; the first file of a name wins; what cannot be used is skipped
with a reason. Mesos knows one plugin per network: a conflist has no `type` and is so skipped (MESOS-7079).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from executor.local_agent.validation import DescriptionError, Json, load_json, suggestion

RESERVED_ARGS = "org.apache.mesos"
"""The key of `args` that the isolator fills in itself."""


@dataclass(frozen=True, slots=True)
class Network:
    """One network configuration: its name, its file and the JSON object in it."""

    name: str
    type: str
    path: Path
    document: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Networks:
    """What a scan of the directory found; `skipped` says why other files are no networks."""

    directory: Path
    by_name: Mapping[str, Network]
    skipped: tuple[str, ...]

    def find(self, name: str) -> Network:
        """The network of this name. Raises NetworkError, which tells what there is instead, and why."""
        if name in self.by_name:
            return self.by_name[name]
        there = f"expected {suggestion(name, self.by_name)}" if self.by_name else "no networks there"
        raise NetworkError("; ".join((f"no network {name!r} in {self.directory}: {there}", *self.skipped)))


class NetworkError(Exception):
    """A network cannot be used; the text names the file, the key and the value."""


def scan(directory: Path, search_path: str) -> Networks:
    """Read every configuration of a directory. Raises NetworkError when there is no such directory."""
    try:
        paths = sorted(path for path in directory.iterdir() if path.is_file())
    except OSError as error:
        raise NetworkError(f"network configuration directory {directory}: {error.strerror}") from None
    by_name: dict[str, Network] = {}
    skipped: list[str] = []
    for path in paths:
        try:
            network = read_network(path, search_path)
        except NetworkError as error:
            skipped.append(str(error))
            continue
        if network.name in by_name:
            first = by_name[network.name].path.name
            skipped.append(f"{path}: name {network.name!r} is already that of {first}, which wins")
        else:
            by_name[network.name] = network
    return Networks(directory, by_name, tuple(skipped))


def read_network(path: Path, search_path: str) -> Network:
    """One configuration, and that its plugins are there to be run. Raises NetworkError."""
    try:
        document = load_json(path.read_bytes(), str(path))
    except OSError as error:
        raise NetworkError(f"{path}: {error.strerror}") from None
    except DescriptionError as error:
        raise NetworkError(str(error)) from None
    faults = list(_faults(document))
    if faults:
        raise NetworkError(f"{path}: {'; '.join(faults)}")
    for key, plugin in _plugins(document):
        if find_plugin(plugin, search_path) is None:
            raise NetworkError(f"{path}: {key} {plugin!r}: no executable of that name in {search_path}")
    return Network(document["name"], document["type"], path, document)


def find_plugin(name: str, search_path: str) -> Path | None:
    """The first executable file of this name on a colon-separated path, as stout's os::which finds it."""
    if not name or "/" in name:
        return None
    for directory in search_path.split(":"):
        path = Path(directory) / name
        if directory and path.is_file() and path.stat().st_mode & 0o111 and os.access(path, os.X_OK):
            return path
    return None


def _plugins(document: Json) -> Iterator[tuple[str, str]]:
    yield "type", document["type"]
    if document.get("ipam") is not None:
        yield "ipam.type", document["ipam"]["type"]


def _faults(document: Json) -> Iterator[str]:
    if not isinstance(document, dict):
        yield "is not a JSON object"
        return
    if "plugins" in document and "type" not in document:
        yield (
            "is a list of plugins (conflist), and Mesos runs one plugin per network: make it one "
            'configuration with "type": "chain" around these "plugins", or nest them with "delegate"'
        )
        return
    for key in ("name", "type"):
        if document.get(key) is None:
            yield f"{key}: missing: expected a string"
        elif not isinstance(document[key], str) or not document[key]:
            yield f"{key}: {document[key]!r}: expected a string"
        elif "/" in document[key] or document[key] in (".", ".."):
            yield f"{key}: {document[key]!r}: expected a name that can be a file's"
    yield from _ipam_faults(document.get("ipam"))
    yield from _dns_faults(document.get("dns"))
    if isinstance(document.get("args"), dict) and RESERVED_ARGS in document["args"]:
        yield f"args.{RESERVED_ARGS}: reserved: the agent puts the network_info of the task there"


def _ipam_faults(ipam: Json) -> Iterator[str]:
    if ipam is None:
        return
    if not isinstance(ipam, dict):
        yield f"ipam: {ipam!r}: expected an object"
        return
    if not isinstance(ipam.get("type"), str) or not ipam["type"]:
        yield "ipam.type: missing: expected a string; for a network without addresses leave ipam out"
    routes = ipam.get("routes")
    if routes is not None and not isinstance(routes, list):
        yield f"ipam.routes: {routes!r}: expected a list"
    for index, route in enumerate(routes if isinstance(routes, list) else ()):
        if not isinstance(route, dict) or not isinstance(route.get("dst"), str):
            yield f"ipam.routes[{index}].dst: missing: expected a string"
        elif not isinstance(route.get("gw"), str | None):
            yield f"ipam.routes[{index}].gw: {route['gw']!r}: expected a string"


def _dns_faults(dns: Json) -> Iterator[str]:
    if dns is None:
        return
    if not isinstance(dns, dict):
        yield f"dns: {dns!r}: expected an object"
        return
    if not isinstance(dns.get("domain"), str | None):
        yield f"dns.domain: {dns['domain']!r}: expected a string"
    for key in ("nameservers", "search", "options"):
        value = dns.get(key)
        if value is not None and not (
            isinstance(value, list) and all(isinstance(item, str) for item in value)
        ):
            yield f"dns.{key}: {value!r}: expected a list of strings"
