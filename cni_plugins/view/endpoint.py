"""One attachment as the kernel has it: inside of the container, on the host, and step by step."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from cni_plugins.attach.lifecycle import recorded_context
from cni_plugins.attach.plugin import Plugin
from cni_plugins.attach.reload import call_of
from cni_plugins.kernel import addresses, counters, links, neighbours, routes
from cni_plugins.kernel.counters import Counters
from cni_plugins.kernel.links import Link
from cni_plugins.kernel.netlink.netfilter import NFPROTO_BRIDGE, NFPROTO_INET, Nfnetlink
from cni_plugins.kernel.netlink.route import Netlink
from cni_plugins.kernel.nft import elements, owner
from cni_plugins.kernel.nft.tables import Counts
from cni_plugins.spec.deadline import after
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.roots import Roots
from cni_plugins.spec.values import JsonObject
from cni_plugins.steps import registry
from cni_plugins.steps.context import Context, Shared
from cni_plugins.steps.step import Step
from cni_plugins.store.records import Contents
from cni_plugins.view.attachments import Attachment
from cni_plugins.view.inside import inside_of
from cni_plugins.view.remedies import remedy
from cni_plugins.view.verdict import StepState, Verdict

_SECONDS = 5.0
_LONG_SECONDS = 60.0  # of a check of all attachments


@dataclass(frozen=True, slots=True)
class Interface:
    """A link of a namespace with what it has; texts as `ip` would print them."""

    name: str
    kind: str
    mac: str
    mtu: int
    up: bool
    running: bool
    addresses: tuple[str, ...]
    counters: Counters | None
    neighbours: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What the kernel has of an attachment; `inside` and `routes` are empty when the namespace is gone."""

    inside: tuple[Interface, ...]
    routes: tuple[str, ...]
    outside: tuple[Interface, ...]
    rules: tuple[str, ...]
    missing: str = ""


def endpoint(attachment: Attachment, host: Namespace) -> Endpoint:
    """Look at both sides. CniError 999 when the kernel does not answer."""
    with Netlink(host, after(_SECONDS)) as netlink:
        wanted = {name for name in (attachment.host_interface, attachment.parent) if name}
        found = [link for name in sorted(wanted) if (link := links.find(netlink, name)) is not None]
        about = {entry.ip for entry in attachment.addresses}
        outside = tuple(_interface(netlink, link, about) for link in sorted(found, key=lambda one: one.index))
    rules = tuple(_rules(attachment, host))
    try:
        with inside_of(attachment, host) as namespace, Netlink(namespace, after(_SECONDS)) as netlink:
            there = links.every(netlink)
            inside = tuple(_interface(netlink, link, None) for link in there)
            names = {link.index: link.name for link in there}
            ways = tuple(_routes(netlink, names))
    except CniError as error:
        return Endpoint((), (), outside, rules, str(error))
    return Endpoint(inside, ways, outside, rules)


def _interface(netlink: Netlink, link: Link, about: set[str] | None) -> Interface:
    """A link with its neighbours of these addresses, or all."""
    given = []
    for item in addresses.of_link(netlink, link.index):
        notes = [
            name
            for flag, name in ((addresses.DADFAILED, "duplicate"), (addresses.TENTATIVE, "tentative"))
            if item.flags & flag and item.address.version == 6
        ]
        given.append(" ".join((str(item.address), *notes)))
    known = [
        f"{entry.address} {entry.mac or '-'} {(entry.state.name or '-').lower()}"
        for version in (4, 6)
        for entry in neighbours.of_link(netlink, link.index, version)
        if (about is None or str(entry.address) in about) and entry.state != neighbours.State.NOARP
    ]
    return Interface(
        link.name,
        link.kind,
        link.mac,
        link.mtu,
        link.up,
        link.carrier,
        tuple(given),
        counters.of_link(netlink, link.index),
        tuple(known),
    )


def _routes(netlink: Netlink, names: Mapping[int, str]) -> Iterator[str]:
    for version in (4, 6):
        for item in routes.every(netlink, version):
            route = item.route
            if route.table == 255 or (version == 6 and route.dst.network.is_multicast):
                continue
            text = str(route.dst.network) if route.dst.network.prefixlen else "default"
            if route.gw is not None:
                text += f" via {route.gw}"
            if item.index:
                text += f" dev {names.get(item.index, item.index)}"
            if route.table not in {None, routes.MAIN_TABLE}:
                text += f" table {route.table}"
            if route.mtu:
                text += f" mtu {route.mtu}"
            yield text


def _rules(attachment: Attachment, host: Namespace) -> Iterator[str]:
    """The sets and maps of our tables that hold elements of the attachment."""
    tag = owner.tag(attachment.identity)
    with Nfnetlink(host) as socket:
        for family, name in ((NFPROTO_INET, "inet"), (NFPROTO_BRIDGE, "bridge")):
            for set_name in sorted(elements.sets(socket, family)):
                count = elements.tagged(socket, family, set_name, tag)
                if count:
                    yield f"{name} {elements.TABLE} {set_name}" + (f" ({count})" if count > 1 else "")


@dataclass(frozen=True, slots=True)
class Checking:
    """What the checks of many attachments have in common: see `checking`. `brief`: nobody wants to read of
    steps that stand.
    """

    roots: Roots
    host: Namespace
    plugins: Mapping[str, Plugin[Any]]
    env: Mapping[str, str]
    shared: Shared
    brief: bool


@contextmanager
def checking(
    roots: Roots,
    host: Namespace,
    plugins: Mapping[str, Plugin[Any]],
    listed: Iterable[Link] = (),
    *,
    brief: bool = False,
) -> Iterator[Checking]:
    """One look for any number of `check`s: what they all ask the host is asked once. `listed` are links of
    the host that were seen a moment ago.
    """
    with Netlink(host, after(_LONG_SECONDS), remember=True) as netlink:
        links.remember(netlink, listed)
        yield Checking(roots, host, plugins, dict(os.environ), Shared(netlink, Counts()), brief)


def check(attachment: Attachment, look: Checking) -> list[StepState]:
    """Every step of the attachment, checked as CHECK would, each by itself. Nothing raises."""
    found: list[StepState] = []
    for contents in attachment.contents:
        found += _checked(attachment, contents, look)
    return found


def _checked(attachment: Attachment, contents: Contents, look: Checking) -> list[StepState]:
    found = []
    try:
        call = call_of(contents, look.roots, look.host, look.env)
        with recorded_context(contents, call, look.plugins, look.shared) as context:
            found += [_one(attachment, line, context, brief=look.brief) for line in contents.steps]
    except CniError as error:
        found.append(StepState("record", "the attachment record", Verdict.UNKNOWN, str(error)))
    except Exception as error:  # a record that nobody of ours wrote
        problem = f"it cannot be understood: {type(error).__name__}: {error}"
        found.append(StepState("record", "the attachment record", Verdict.UNKNOWN, problem))
    return found


def _one(attachment: Attachment, line: JsonObject, context: Context, *, brief: bool) -> StepState:
    state = _state(attachment, line, context)
    told = not brief or state.verdict in {Verdict.FAILED, Verdict.UNKNOWN}
    return replace(state, about=words(line)) if told else state


def _state(attachment: Attachment, line: JsonObject, context: Context) -> StepState:
    kind = str(line.get("step") or line.get("undo", ""))
    if "undo" in line:
        return StepState(kind, "", Verdict.PASSIVE)
    try:
        if registry.class_of(line).check is Step.check:
            return StepState(kind, "", Verdict.PASSIVE)
        step = registry.decode(line)
    except CniError as error:
        return StepState(kind, "", Verdict.UNKNOWN, error.msg, error.details)
    return _stands(attachment, step, kind, context)


def _stands(attachment: Attachment, step: Step, kind: str, context: Context) -> StepState:
    try:
        step.check(context)
    except CniError as error:
        if error.code == Code.INVALID_NETNS:
            return StepState(kind, "", Verdict.UNKNOWN, error.msg, error.details)
        if _refused(error):
            return StepState(kind, "", Verdict.UNKNOWN, error.msg, error.details)
        way_out = remedy(attachment, step, error.details)
        return StepState(kind, "", Verdict.FAILED, error.msg, way_out)
    except Exception as error:  # one broken step must not keep the others from being told
        return StepState(kind, "", Verdict.UNKNOWN, f"{type(error).__name__}: {error}")
    return StepState(kind, "", Verdict.OK)


def _refused(error: CniError) -> bool:
    """Whether it only says that this user may not look."""
    return any(os.strerror(number) in str(error) for number in (errno.EPERM, errno.EACCES))


def words(line: JsonObject) -> str:
    """A step's arguments as text: what is set, the most telling ones first."""
    arguments = line.get("args")
    if not isinstance(arguments, dict):
        return ""
    return ", ".join(text for key, value in arguments.items() if (text := _said(key, value)))


def _said(key: str, value: Any) -> str:
    if value in (None, "", 0, False) or value in ([], {}):
        return ""
    if isinstance(value, list):
        inner = [_item(item) for item in value]
        return f"{key} {' '.join(item for item in inner if item)}"
    if isinstance(value, dict):
        listed = [text for name, item in value.items() if (text := _said(name, item))]
        return "; ".join(listed)
    return key if value is True else f"{key} {value}"


def _item(value: Any) -> str:
    if isinstance(value, dict):
        if "host_port" in value:
            return "{}/{}->{}:{}".format(
                *(value.get(key) for key in ("protocol", "host_port", "target", "container_port"))
            )
        if "dst" in value:
            return f"{value['dst']}" + (f" via {value['gw']}" if value.get("gw") else "")
        return str(value.get("address") or " ".join(str(item) for item in value.values() if item))
    if isinstance(value, list):
        return "-".join(str(item) for item in value)
    return str(value)
