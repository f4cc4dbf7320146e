"""`mesokit cni validate`: what is wrong with network files, found without a container.

Every key is looked at, strictly: what a plugin would pass over because it may be somebody else's is a problem
here. Plugins of ours are asked for their own refusals (`Plugin.validate`); of others it is known whether they
are there.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from cni_plugins.attach import delegation, suspicions
from cni_plugins.attach.plugin import Kind, Plugin
from cni_plugins.chain.plugin import granted
from cni_plugins.cli import libcni
from cni_plugins.cli.lacking import lacking
from cni_plugins.cli.libcni import NetworkList
from cni_plugins.cli.near import nearest
from cni_plugins.cli.root import told
from cni_plugins.plugins.main import flannel
from cni_plugins.plugins.meta.bandwidth import WAY_OUT, WITHOUT_HOST_END
from cni_plugins.plugins.registry import MODULES, Plugins
from cni_plugins.spec import call as calls
from cni_plugins.spec.call import Request, Verb
from cni_plugins.spec.config import COMMON_KEYS, Key, decode, keys_of
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.namespace import OWN_NETNS, Namespace, open_namespace
from cni_plugins.spec.text import printable
from cni_plugins.spec.values import JsonObject, fold
from cni_plugins.spec.versions import VERSIONS
from cni_plugins.steps.delegate import find

_LIST_KEYS = (
    "cniVersion",
    "cniVersions",
    "name",
    "plugins",
    "disableCheck",
    "disableGC",
    "loadOnlyInlinedPlugins",
)
_MEMBER_KEYS = ("type", "capabilities", "args", "runtimeConfig", "networkInfoLabels")
_SINGLE_KEYS = ("cniVersion", "cniVersions", "name", "prevResult", *_MEMBER_KEYS)
_DNS_KEYS = ("nameservers", "domain", "search", "options")
_CAPABILITIES = (
    *("portMappings", "ipRanges", "bandwidth", "dns", "ips", "mac", "infinibandGUID", "deviceID", "aliases"),
    "cgroupPath",
)
_ALIKE = 0.75
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")


@dataclass(frozen=True, slots=True)
class Problem:
    """`kind`: unknown, misspelt, wrong, contradictory or missing; suspicious is what ADD does and warns of.
    `where` is the key's path in the file.
    """

    file: str
    where: str
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """One file at work: what is needed to judge its plugins."""

    item: NetworkList
    host: Namespace
    path: tuple[str, ...]
    plugins: Mapping[str, Plugin[Any]]

    def problem(self, where: str, kind: str, text: str) -> Problem:
        return Problem(str(self.item.path), where, kind, text)


def _twice(raw: bytes) -> list[str]:
    """Keys that an object of a document has more than once: the last one wins, silently."""
    found: list[str] = []

    def pairs(listed: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: set[str] = set()
        for key, _ in listed:
            if key.casefold() in seen:
                found.append(key)
            seen.add(key.casefold())
        return dict(listed)

    json.loads(raw, object_pairs_hook=pairs)
    return found


def _unknown(at: Inspection, where: str, key: str, known: Sequence[str]) -> Problem:
    lower = {item.casefold(): item for item in known}
    near = nearest(key.casefold(), lower, _ALIKE)
    if near is not None:
        return at.problem(where + key, "misspelt", f"unknown key {key!r}: is {lower[near]!r} meant?")
    return at.problem(where + key, "unknown", f"unknown key {key!r}; known are {', '.join(sorted(known))}")


def _keys(at: Inspection, document: JsonObject, where: str, known: Sequence[str]) -> Iterator[Problem]:
    lower = {item.casefold() for item in known}
    for key in document:
        if key.casefold() not in lower and not key.startswith("cni.dev/"):
            yield _unknown(at, where, key, known)


def _nested(at: Inspection, document: JsonObject, where: str, keys: Iterable[Key]) -> Iterator[Problem]:
    """Unknown keys of the objects inside."""
    for key in keys:
        value, schema = fold(document, key.key), key.kind.schema
        if schema is None:
            continue
        entries = (
            [(f"{where}{key.key}[{n}].", item) for n, item in enumerate(value)]
            if isinstance(value, list)
            else []
        )
        entries += [(f"{where}{key.key}.", value)] if isinstance(value, dict) else []
        inner = keys_of(schema)
        for place, item in entries:
            if isinstance(item, dict) and inner:
                yield from _keys(at, item, place, [each.key for each in inner])
                yield from _nested(at, item, place, inner)


def _head(at: Inspection) -> Iterator[Problem]:
    document, item = at.item.document, at.item
    name = fold(document, "name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        text = "is missing" if name is None else f"is {name!r}: letters, digits, '_', '.' and '-' only"
        yield at.problem("name", "wrong", f"the network's name {text}")
    version = fold(document, "cniVersion")
    if version is not None and version not in VERSIONS:
        yield at.problem("cniVersion", "wrong", f"cniVersion is {version!r}; known are {', '.join(VERSIONS)}")
    listed = fold(document, "plugins")
    single = fold(document, "type") is not None
    if single and listed is not None and fold(document, "type") != "chain":
        yield at.problem("plugins", "contradictory", "a file has 'plugins' (a list) or 'type' (one plugin)")
    if not single:
        yield from _keys(at, document, "", _LIST_KEYS)
        if not isinstance(listed, list) or not listed:
            yield at.problem("plugins", "wrong", "'plugins' is missing, empty, or no list")
    if item.path.suffix == ".conflist" and single:
        yield at.problem(
            "type", "wrong", "a .conflist holds 'plugins'; libcni takes one plugin from a .conf only"
        )
    if item.path.suffix != ".conflist" and not single:
        yield at.problem("plugins", "wrong", "libcni takes a list from a .conflist only")


def _plugin(
    at: Inspection,
    config: Any,
    where: str,
    *,
    first: bool,
    single: bool = False,
    above: JsonObject | None = None,
    after: str = "",
) -> Iterator[Problem]:
    """Of one plugin's configuration, and of what stands below it. `above` is what it is given of the
    configuration that it stands in, `after` the plugin of its list that makes the interface.
    """
    if not isinstance(config, dict):
        yield at.problem(where.rstrip("."), "wrong", "not an object")
        return
    name = fold(config, "type")
    if not isinstance(name, str) or not name:
        yield at.problem(f"{where}type", "wrong", "'type' is missing: the name of a plugin")
        return
    yield from _capabilities(at, config, where)
    plugin = at.plugins.get(name)
    if plugin is None:
        yield from _foreign(at, name, where)
        return
    if plugin.kind is Kind.IPAM:
        yield at.problem(f"{where}type", "wrong", f"{name} chooses addresses: it belongs under 'ipam'")
        return
    own = keys_of(plugin.config)
    common = [*(_SINGLE_KEYS if single else _MEMBER_KEYS), "dns"]
    if plugin.kind is Kind.MAIN and plugin.takes_ipam:
        common.append("ipam")
    if plugin.kind is Kind.META:
        common.append("delegate")
    yield from _keys(at, config, where, [*common, *(key.key for key in own)])
    yield from _nested(at, config, where, own)
    dns = fold(config, "dns")
    if isinstance(dns, dict):
        yield from _keys(at, dns, f"{where}dns.", _DNS_KEYS)
    given = {**(above or {}), **config}
    yield from _decoded(at, plugin, given, where)
    yield from _below(at, plugin, given, where, first=first)
    for key, text in lacking(at.host, name, config, first=first):
        yield at.problem(f"{where}{key}", "missing", text)
    if name == "bandwidth" and after in WITHOUT_HOST_END and _limited(config):
        text = f"the interface that {after} makes has no end on the host; {WAY_OUT}"
        yield at.problem(f"{where}type", "contradictory", text)


def _limited(config: JsonObject) -> bool:
    """Whether bandwidth's configuration has a limit, or lets the runtime bring one."""
    capabilities = fold(config, "capabilities")
    brought = isinstance(capabilities, dict) and capabilities.get("bandwidth") is True
    return brought or any(bool(fold(config, key)) for key in ("ingressRate", "egressRate"))


def _type(config: Any) -> str:
    """The name of the plugin that a member of a list is for, "" without one."""
    found = fold(config, "type") if isinstance(config, dict) else None
    return found if isinstance(found, str) else ""


def _capabilities(at: Inspection, config: JsonObject, where: str) -> Iterator[Problem]:
    declared = fold(config, "capabilities")
    if declared is None:
        return
    if not isinstance(declared, dict):
        yield at.problem(f"{where}capabilities", "wrong", "not an object")
        return
    yield from _keys(at, declared, f"{where}capabilities.", _CAPABILITIES)
    for key, value in declared.items():
        if not isinstance(value, bool):
            yield at.problem(f"{where}capabilities.{key}", "wrong", f"is {value!r}, not true or false")


def _foreign(at: Inspection, name: str, where: str) -> Iterator[Problem]:
    try:
        find(name, at.path)
    except CniError:
        near = nearest(name, MODULES, _ALIKE)
        hint = f": is {near!r} meant?" if near else f" in {':'.join(at.path) or 'an empty CNI_PATH'}"
        yield at.problem(
            f"{where}type", "misspelt" if near else "missing", f"there is no plugin {name!r}{hint}"
        )


def _decoded(
    at: Inspection, plugin: Plugin[Any], config: JsonObject, where: str, inside: str = ""
) -> Iterator[Problem]:
    """Each wrong value, else what the plugin itself refuses; `inside` is the key that holds its keys, if not
    the configuration itself.
    """
    known = {key.key.casefold() for key in keys_of(plugin.config)}
    common = {key.casefold() for key in COMMON_KEYS} - {"capabilities", "prevresult"}
    source = fold(config, inside) if inside else config
    own = {key: value for key, value in source.items() if key.casefold() in known | common}
    wrong = list(_values(plugin, own, where))
    for error in wrong:
        if not error.msg.startswith("unknown key "):  # _nested has told it
            about = error.details if error.details.startswith(where or tuple(own)) else error.msg
            yield at.problem(about.split(" ", 1)[0], "wrong", about)
    if not wrong:
        yield from _refused(at, plugin, {**config, inside: own} if inside else own, where)


def _values(plugin: Plugin[Any], own: JsonObject, where: str) -> Iterator[CniError]:
    for key, value in own.items():
        try:
            decode(plugin.config, {key: value}, where=where)
        except CniError as error:
            yield error


def _refused(at: Inspection, plugin: Plugin[Any], config: JsonObject, where: str) -> Iterator[Problem]:
    document = config | {"name": at.item.name if _NAME.fullmatch(at.item.name) else "net"}
    document["cniVersion"] = at.item.version if at.item.version in VERSIONS else VERSIONS[-1]
    env = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "validate",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": ":".join(at.path),
    }
    request = Request(plugin.name, env, json.dumps(document).encode())
    place = where.rstrip(".") or "."
    try:
        call = calls.parse(Verb.ADD, request, at.host, None)
        typed = delegation.typed(plugin, call)
        suspicions.refuse(call, plugin.kind, plugin.name)
        plugin.validate(call, typed)
        delegation.refuse(call, plugin, typed, at.plugins)
    except CniError as error:
        kind = "contradictory" if " and " in f"{error.msg} {error.details}" else "wrong"
        yield at.problem(place, kind, str(error))
        return
    for text in call.warnings:
        yield at.problem(place, "suspicious", text)


def _below(
    at: Inspection, plugin: Plugin[Any], config: JsonObject, where: str, *, first: bool
) -> Iterator[Problem]:
    """`ipam`, `delegate` and the members of a chain."""
    ipam = fold(config, "ipam")
    if plugin.kind is Kind.MAIN and plugin.takes_ipam and isinstance(ipam, dict) and fold(ipam, "type"):
        yield from _ipam(at, config, ipam, where)
    if plugin.kind is Kind.META:
        delegate = fold(config, "delegate")
        if delegate is not None:
            yield from _plugin(at, delegate, f"{where}delegate.", first=True, above=_handed_down(config))
            if not first:
                text = "the plugin before it attaches the container, and so would the delegate"
                yield at.problem(f"{where}delegate", "contradictory", text)
        elif first:
            text = f"{plugin.name} changes what another plugin made: put one before it, or under 'delegate'"
            yield at.problem(f"{where}type", "contradictory", text)
    if plugin.name == "chain":
        found = fold(config, "plugins")
        members = found if isinstance(found, list) else []
        for number, member in enumerate(members):
            place, above = f"{where}plugins[{number}].", _handed_down(config)
            above["runtimeConfig"] = granted(config, member) if isinstance(member, dict) else {}
            yield from _plugin(at, member, place, first=number == 0, above=above, after=_type(members[0]))
    if plugin.name == "flannel":
        yield from _flannel(at, config, where)


def _flannel(at: Inspection, config: JsonObject, where: str) -> Iterator[Problem]:
    """The delegate, and the addresses that it would be given of some lease."""
    delegate, ipam = (fold(config, key) for key in ("delegate", "ipam"))
    if isinstance(delegate, dict):
        whole, above = {"type": "bridge"} | delegate, _handed_down(config)
        yield from _plugin(at, whole, f"{where}delegate.", first=True, above=above)
    if not any(isinstance(item, bool | str | int | float | list) for item in (delegate, ipam)):
        made = flannel.with_lease(decode(flannel.FlannelConfig, config, lenient=True), flannel.SOME_LEASE)
        yield from _ipam(at, made | _handed_down(config), made["ipam"], where)


def _handed_down(config: JsonObject) -> JsonObject:
    """What a delegate or a member of a chain gets of the configuration that it stands in."""
    found = {key: fold(config, key) for key in ("args", "runtimeConfig")}
    return {key: value for key, value in found.items() if value is not None}


def _ipam(at: Inspection, config: JsonObject, ipam: JsonObject, where: str) -> Iterator[Problem]:
    name = fold(ipam, "type")
    plugin = at.plugins.get(name) if isinstance(name, str) else None
    if plugin is None:
        yield from _foreign(at, str(name), f"{where}ipam.")
        return
    if plugin.kind is not Kind.IPAM:
        yield at.problem(f"{where}ipam.type", "wrong", f"{name} chooses no addresses")
        return
    own = keys_of(plugin.config)
    yield from _keys(at, ipam, f"{where}ipam.", ["type", *(key.key for key in own)])
    yield from _nested(at, ipam, f"{where}ipam.", own)
    yield from _decoded(at, plugin, config, f"{where}ipam.", "ipam")


def inspect(path: Path, host: Namespace, plugin_path: tuple[str, ...]) -> list[Problem]:
    """Every problem of a file."""
    try:
        item = libcni.load(path)
    except CniError as error:
        return [Problem(str(path), ".", "wrong", f"{error.msg}: {error.details}")]
    at = Inspection(item, host, plugin_path, Plugins())
    found = [at.problem(key, "contradictory", f"{key!r} stands there twice") for key in _twice(item.raw)]
    found += _head(at)
    single = fold(item.document, "type") is not None
    for number, plugin in enumerate(item.plugins):
        if single or fold(item.document, "plugins") is not None:
            where = "" if single else f"plugins[{number}]."
            found += _plugin(
                at, plugin, where, first=number == 0, single=single, after=_type(item.plugins[0])
            )
    return list(dict.fromkeys(found))


def _together(paths: Sequence[Path]) -> Iterator[Problem]:
    """Two files of one name: a runtime takes the first, and says nothing."""
    names: dict[str, Path] = {}
    for path in paths:
        try:
            name = libcni.load(path).name
        except CniError:
            continue
        if name in names:
            text = f"network {name!r} is in {names[name].name} already, which a runtime takes"
            yield Problem(str(path), "name", "contradictory", text)
        names.setdefault(name, path)


@click.command("validate", short_help="Say what is wrong with network files.")
@click.argument(
    "places", metavar="FILE|DIR…", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path)
)
@click.option(
    "--plugin-dir",
    envvar="CNI_PATH",
    default="/opt/cni/bin",
    show_default=True,
    help="Where others' plugins are.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def validate(places: tuple[Path, ...], plugin_dir: str, *, as_json: bool) -> None:
    """Say all that is wrong with network files, or with every one of a directory. Nothing is attached.

    Unknown and misspelt keys, wrong values, keys that contradict one another, plugins and abilities of the
    kernel that are missing here. Exit status 1 if there is anything.

    \b
    mesokit cni validate /etc/cni/net.d
    mesokit cni validate web.conflist db.conflist --json
    """
    host = open_namespace(OWN_NETNS)
    if host is None:
        raise click.ClickException(f"cannot open {OWN_NETNS}: is /proc mounted?")
    path = tuple(item for item in plugin_dir.split(":") if item)
    try:
        listed = [libcni.files_of(place) if place.is_dir() else [place] for place in places]
    except CniError as error:
        raise click.ClickException(printable(told(error))) from error
    paths = list(dict.fromkeys(each for some in listed for each in some))
    found = [problem for item in paths for problem in inspect(item, host, path)]
    folders: dict[Path, list[Path]] = {}
    for item in paths:
        folders.setdefault(item.parent.absolute(), []).append(item)
    found += [problem for together in folders.values() for problem in _together(together)]
    if as_json:
        problems = [
            {"file": one.file, "where": one.where, "kind": one.kind, "problem": one.text} for one in found
        ]
        click.echo(json.dumps({"files": len(paths), "problems": problems}, indent=2))
    else:
        for one in found:
            where = "" if one.where == "." else f"{one.where}: "
            click.echo(printable(f"{one.file}: {where}{one.kind}: {one.text.removeprefix(f'{one.file} ')}"))
        count = f"{len(paths)} file{'' if len(paths) == 1 else 's'}"
        click.echo(f"{count}, {len(found)} problem{'' if len(found) == 1 else 's'}")
    sys.exit(1 if found else 0)
