"""The runtime's side of CNI as libcni does it: network lists from files, plugins one after another, and what
they answered in libcni's cache, where podman, containerd and cnitool look for it too.

Sources: SPEC.md sections 2 to 4; libcni/api.go and conf.go of containernetworking/cni.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cni_plugins.kernel import program
from cni_plugins.plugins.registry import MODULES, Handlers
from cni_plugins.spec import dispatch
from cni_plugins.spec.call import LISTED, Request
from cni_plugins.spec.deadline import after
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.values import JsonObject, fold, parse_json
from cni_plugins.spec.versions import VERSIONS, at_least
from cni_plugins.steps.delegate import find
from cni_plugins.store import network_files

_LONGEST = 120.0
_SINCE = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}


@dataclass(frozen=True, slots=True)
class NetworkList:
    """A network: its file, its document with the plugins that are in files beside it, and its plugins."""

    path: Path
    document: JsonObject
    raw: bytes

    @property
    def name(self) -> str:
        return str(fold(self.document, "name") or "")

    @property
    def version(self) -> str:
        listed = fold(self.document, "cniVersions")
        known = [item for item in VERSIONS if isinstance(listed, list) and item in listed]
        return known[-1] if known else str(fold(self.document, "cniVersion") or "")

    @property
    def plugins(self) -> list[JsonObject]:
        """A file of one plugin is a list of one."""
        listed = fold(self.document, "plugins")
        if fold(self.document, "type") is not None or not isinstance(listed, list):
            return [self.document]
        return [item for item in listed if isinstance(item, dict)]

    def says(self, key: str) -> bool:
        return network_files.says(self.document, key)


def load(path: Path) -> NetworkList:
    """The network of a file. CniError 5 or 6."""
    raw, document = _parsed(path)
    try:
        document = network_files.whole(path, document, lambda item: _parsed(item)[1])
    except OSError as error:
        raise CniError(Code.IO, f"cannot list the plugins beside {path}", str(error)) from error
    return NetworkList(path, document, raw)


def _parsed(path: Path) -> tuple[bytes, JsonObject]:
    try:
        raw = path.read_bytes()
        document = parse_json(raw)
    except OSError as error:
        raise CniError(Code.IO, f"cannot read {path}", str(error)) from error
    except ValueError as error:
        raise CniError(Code.DECODING, f"{path} is not JSON", str(error)) from error
    if not isinstance(document, dict):
        raise CniError(Code.DECODING, f"{path} is not a JSON object")
    return raw, document


def files_of(folder: Path) -> list[Path]:
    """The network files of a directory: lists first, by name, as libcni looks for them. CniError 5."""
    try:
        paths = [item for item in network_files.listed(folder) if item.is_file()]
    except OSError as error:
        raise CniError(Code.IO, f"cannot list {folder}", str(error)) from error
    return sorted(paths, key=lambda item: (item.suffix != ".conflist", item.name))


def network(name: str, folder: Path) -> NetworkList:
    """A network by its name in `folder`, or by its file. CniError 7 naming those that are there."""
    if "/" in name or Path(name).suffix in network_files.SUFFIXES:
        return load(Path(name))
    names = []
    for path in files_of(folder):
        with suppress(CniError):
            found = load(path)
            if found.name == name:
                return found
            names.append(found.name)
    there = f"there are {', '.join(sorted(filter(None, names)))}" if any(names) else "it has no network file"
    raise CniError(Code.INVALID_CONFIG, f"no network {name!r} in {folder}", there)


@dataclass(frozen=True, slots=True)
class Attachment:
    """Whose interface on which network; `capabilities` are the runtime's arguments (portMappings, ips, …)."""

    container_id: str
    ifname: str
    netns: str
    args: str = ""
    capabilities: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Runtime:
    """Where plugins and the cache are; `host` is the namespace that plugins run in."""

    host: Namespace
    path: tuple[str, ...]
    cache: Path

    def _file(self, item: NetworkList, attachment: Attachment) -> Path:
        return self.cache / "results" / f"{item.name}-{attachment.container_id}-{attachment.ifname}"

    def cached(self, item: NetworkList, attachment: Attachment) -> JsonObject | None:
        """What ADD left in the cache; None without it, or when it is no cache file."""
        return _cached(self._file(item, attachment))

    def attachments(self, name: str) -> Iterator[Attachment]:
        """Every attachment to the network `name` in the cache."""
        place = self.cache / "results"
        for path in sorted(place.iterdir()) if place.is_dir() else ():
            found = _cached(path)
            if found is not None and found.get("networkName") == name:
                yield _attachment(found)

    def add(self, item: NetworkList, attachment: Attachment) -> JsonObject:
        """The final result, also in the cache. CniError of the plugin that failed; then DEL has run."""
        result: JsonObject | None = None
        try:
            for plugin in item.plugins:
                result = self._exec("ADD", item, plugin, attachment, previous=result)
        except CniError:
            with suppress(CniError):
                self._delete(item, attachment, None)
            raise
        self._keep(item, attachment, result or {})
        return result or {}

    def delete(self, item: NetworkList, attachment: Attachment) -> None:
        """Backwards, all plugins even when one fails. CniError of the first; the cache stays then."""
        found = self.cached(item, attachment)
        if found is not None:
            kept = _attachment(found)
            attachment = replace(
                attachment,
                netns=attachment.netns or kept.netns,
                args=attachment.args or kept.args,
                capabilities=attachment.capabilities or kept.capabilities,
            )
        self._delete(item, attachment, _result(found))
        self._file(item, attachment).unlink(missing_ok=True)

    def _delete(self, item: NetworkList, attachment: Attachment, result: JsonObject | None) -> None:
        errors: list[CniError] = []
        for plugin in reversed(item.plugins):
            try:
                self._exec("DEL", item, plugin, attachment, previous=result)
            except CniError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def check(self, item: NetworkList, attachment: Attachment) -> bool:
        """Whether there was anything to ask. CniError of the first plugin that finds something wrong, 7
        without a result in the cache.
        """
        _require(item, "CHECK")
        if item.says("disableCheck"):
            return False
        found = self.cached(item, attachment)
        result = _result(found)
        if result is None or found is None:
            raise CniError(
                Code.INVALID_CONFIG,
                f"the cache has no result of {attachment.container_id} on {item.name}",
                f"looked for {self._file(item, attachment)}; CHECK needs what ADD answered",
            )
        kept = _attachment(found)
        asked = replace(attachment, args=attachment.args or kept.args, capabilities=kept.capabilities)
        for plugin in item.plugins:
            self._exec("CHECK", item, plugin, asked, previous=result)
        return True

    def status(self, item: NetworkList) -> None:
        """CniError of the first plugin that could not serve an ADD."""
        _require(item, "STATUS")
        for plugin in item.plugins:
            self._exec("STATUS", item, plugin, None)

    def collect(
        self,
        item: NetworkList,
        keep: Sequence[tuple[str, str]],
        stale: Sequence[Attachment],
        *,
        listed_at: float,
    ) -> list[Attachment]:
        """DEL of `stale`, then GC of every plugin with `keep` (container, interface); what was detached. What
        was attached since `listed_at` (CLOCK_BOOTTIME) is in no list and stays. CniError of the first that
        failed, after all have been asked.
        """
        gone, errors = [], []
        for attachment in stale:
            try:
                self.delete(item, attachment)
                gone.append(attachment)
            except CniError as error:
                errors.append(error)
        if at_least(item.version or "0.1.0", _SINCE["GC"]) and not item.says("disableGC"):
            valid = [{"containerID": container, "ifname": ifname} for container, ifname in sorted(keep)]
            for plugin in item.plugins:
                try:
                    listed = {"cni.dev/valid-attachments": valid, "cni.dev/attachments": valid}
                    self._exec("GC", item, plugin | listed, None, listed_at=listed_at)
                except CniError as error:
                    errors.append(error)
        if errors:
            raise errors[0]
        return gone

    def _exec(
        self,
        verb: str,
        item: NetworkList,
        plugin: JsonObject,
        attachment: Attachment | None,
        previous: JsonObject | None = None,
        *,
        listed_at: float = 0.0,
    ) -> JsonObject | None:
        document = _document(item, plugin, attachment, previous if _knows_previous(verb, item) else None)
        env = {key: value for key, value in os.environ.items() if not key.startswith("CNI_")}
        env |= {"CNI_COMMAND": verb, "CNI_PATH": ":".join(self.path)}
        if listed_at:
            env[LISTED] = str(int(listed_at * 1e9))
        if attachment is not None:
            env |= {
                "CNI_CONTAINERID": attachment.container_id,
                "CNI_IFNAME": attachment.ifname,
                "CNI_NETNS": attachment.netns,
                "CNI_ARGS": attachment.args,
            }
        return self._run(str(fold(plugin, "type") or ""), env, json.dumps(document).encode())

    def _run(self, name: str, env: dict[str, str], stdin: bytes) -> JsonObject | None:
        """A plugin along the path, else ours of that name in this process."""
        try:
            path = find(name, self.path)
        except CniError:
            if name not in MODULES:
                raise
            reply = dispatch.handle(Request(name, env, stdin), Handlers())
            for work in (*reply.later, *reply.idle):
                work()
            return _answer(name, reply.status, reply.stdout, reply.stderr)
        done = program.run(self.host, [str(path)], env, stdin, after(_LONGEST))
        return _answer(name, done.status, done.out, done.err)

    def _keep(self, item: NetworkList, attachment: Attachment, result: JsonObject) -> None:
        """libcni's cache file: `kind` cniCacheV1. CniError 5."""
        document: JsonObject = {
            "kind": "cniCacheV1",
            "containerId": attachment.container_id,
            "config": base64.b64encode(item.raw).decode(),
            "ifName": attachment.ifname,
            "networkName": item.name,
            "netns": attachment.netns,
        }
        pairs = [pair.partition("=")[::2] for pair in attachment.args.split(";") if pair]
        if pairs:
            document["cniArgs"] = [list(pair) for pair in pairs]
        if attachment.capabilities:
            document["capabilityArgs"] = dict(attachment.capabilities)
        path = self._file(item, attachment)
        new = path.with_name(f".{path.name}.new")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            new.write_text(json.dumps(document | {"result": result}))
            new.chmod(0o600)
            new.replace(path)
        except OSError as error:
            raise CniError(
                Code.IO, f"the container is attached, and {path} cannot be written", str(error)
            ) from error


def _cached(path: Path) -> JsonObject | None:
    try:
        document = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(document, dict) or document.get("kind") != "cniCacheV1":
        return None
    return document


def _attachment(found: JsonObject) -> Attachment:
    pairs = found.get("cniArgs") or []
    args = ";".join("=".join(map(str, pair)) for pair in pairs if isinstance(pair, list) and len(pair) == 2)
    capabilities = found.get("capabilityArgs")
    return Attachment(
        str(found.get("containerId", "")),
        str(found.get("ifName", "")),
        str(found.get("netns", "")),
        args,
        capabilities if isinstance(capabilities, dict) else {},
    )


def _result(found: JsonObject | None) -> JsonObject | None:
    result = found.get("result") if found is not None else None
    return result if isinstance(result, dict) else None


def _require(item: NetworkList, verb: str) -> None:
    if not at_least(item.version or "0.1.0", _SINCE[verb]):
        raise CniError(
            Code.INCOMPATIBLE_VERSION,
            f"{verb} came with cniVersion {_SINCE[verb]}, and {item.name} has {item.version or '0.1.0'}",
            f"raise cniVersion in {item.path}",
        )


def _knows_previous(verb: str, item: NetworkList) -> bool:
    return verb != "DEL" or at_least(item.version or "0.1.0", "0.4.0")


def _document(
    item: NetworkList, plugin: JsonObject, attachment: Attachment | None, previous: JsonObject | None
) -> JsonObject:
    hidden = {"capabilities", "name", "cniversion", "cniversions", "prevresult"}
    document = {key: value for key, value in plugin.items() if key.casefold() not in hidden}
    document["name"] = item.name
    if item.version:
        document["cniVersion"] = item.version
    declared = fold(plugin, "capabilities")
    if attachment is not None and isinstance(declared, dict):
        granted = {key: value for key, value in attachment.capabilities.items() if declared.get(key) is True}
        if granted:
            document["runtimeConfig"] = granted
    if previous is not None:
        document["prevResult"] = previous
    return document


def _answer(name: str, status: int, out: bytes, err: bytes) -> JsonObject | None:
    """A plugin's result; its complaints go to standard error. CniError its own."""
    if err:
        os.write(2, err)
    try:
        document = parse_json(out) if out.strip() else None
    except ValueError as error:
        raise CniError(
            Code.DECODING, f"{name} printed what is not JSON", out.decode("utf-8", "replace")[:500]
        ) from error
    found = document if isinstance(document, dict) else None
    if status == 0:
        return found
    code, msg, details = (fold(found or {}, key) for key in ("code", "msg", "details"))
    if isinstance(code, int) and isinstance(msg, str):
        raise CniError(code, f"{name}: {msg}", details if isinstance(details, str) else "")
    raise CniError(
        Code.INTERNAL, f"{name} failed with status {status}", err.decode("utf-8", "replace")[-500:]
    )
