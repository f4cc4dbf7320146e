"""A network added to a container that runs, and one taken away.

Adding is an ADD of the network's plugins, all of them in one record, whatever the runtime knows of lists:
what fails is taken back whole. The container's namespace is the one that its own attachment was made in, by
identity. How such an attachment ends is in added.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from cni_plugins.attach import added as ends
from cni_plugins.attach import delegation
from cni_plugins.attach.lifecycle import handler, recorded_context, take_down
from cni_plugins.attach.reload import call_of
from cni_plugins.attach.update import Outcome, Where, Wish
from cni_plugins.kernel import links
from cni_plugins.spec import dispatch
from cni_plugins.spec.call import Request
from cni_plugins.spec.config import is_interface_name
from cni_plugins.spec.deadline import after
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.values import JsonObject, fold
from cni_plugins.steps.context import Context
from cni_plugins.store import added, records
from cni_plugins.store.records import Contents

_SECONDS = 30.0
_CHAIN = "chain"
_MESOS = "org.apache.mesos"
_KNOWN_BY = ("name", "groups", "labels")  # what policy tells a container by


@dataclass(frozen=True, slots=True)
class Network:
    """A network as its file has it: `plugins` are its list, or the file's own document alone. `ifname` is ""
    for the first free `ethN`; `path` is where plugins that are not ours are.
    """

    name: str
    version: str
    plugins: tuple[JsonObject, ...]
    ifname: str = ""
    path: tuple[str, ...] = ()


def add_network(where: Where, container: str, network: Network, wish: Wish) -> Outcome:
    """Attach a container to a further network. Nothing raises; what went wrong is in the outcome."""
    outcome = Outcome(Identity(network.name, container, network.ifname or "-"), "", action="add")
    try:
        own = _own(where, container)
        call = replace(call_of(own, where.roots, where.host), deadline=after(_SECONDS))
        ends.settle(call, partial(take_down, plugins=where.plugins))
        with recorded_context(own, call, where.plugins) as context:
            return _add(where, network, context, outcome, wish)
    except CniError as error:
        return replace(outcome, problems=(str(error),))


def _own(where: Where, container: str) -> Contents:
    """What the container's runtime attached, and has told us of. CniError 7."""
    host = [where.host.device, where.host.inode]
    for _, contents in ends.own(where.roots, container):
        if contents.result is not None and contents.head.get("hostID", host) == host:
            return contents
    raise CniError(
        Code.INVALID_CONFIG,
        f"its runtime attached container {container} to no network of ours",
        "nobody would say when it ends, and what is added would stay",
    )


def _add(where: Where, network: Network, context: Context, outcome: Outcome, wish: Wish) -> Outcome:
    namespace = context.inside
    ifname = _ifname(where, network, context)
    config = _configuration(network, context.call.config)
    outcome = replace(outcome, identity=replace(outcome.identity, ifname=ifname), plugin=_CHAIN)
    call = replace(context.call, config=config, path=network.path)
    for member in fold(config, "plugins") or ():
        delegation.validate(call, delegation.inherit(call, member), context)
    if not wish.apply:
        return outcome
    env = {
        **os.environ,
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": call.container_id,
        "CNI_IFNAME": ifname,
        "CNI_NETNS": call.netns_path,
        "CNI_PATH": ":".join(network.path),
        "CNI_ARGS": "",
        ends.MARK: "1",
    }
    request = Request(_CHAIN, env, json.dumps(config).encode(), where.host.fd, namespace.fd)
    return _attach(where, request, outcome)


def _attach(where: Where, request: Request, outcome: Outcome) -> Outcome:
    container = outcome.identity.container_id
    place = added.folder(where.roots, container)
    path = records.path_of(where.roots, outcome.identity, _CHAIN)
    handlers = {_CHAIN: handler(where.plugins[_CHAIN], where.plugins)}
    with added.held(place, after(_SECONDS)):
        added.begin(place, path)
        try:
            reply = dispatch.handle(request, handlers)
        finally:
            if not path.exists():
                added.forget(place, path)
        if reply.status:
            return replace(outcome, problems=(_sentence(reply.stdout),))
        detached = not any(ends.own(where.roots, container))
        if detached:  # its DEL did not wait for us
            errors = list(_take_down(where, place, path))
            problem = "; ".join(("the container has been detached meanwhile", *errors))
            return replace(outcome, problems=(problem,))
    for work in (*reply.later, *reply.idle):
        work()
    notes = tuple(reply.stderr.decode("utf-8", "replace").splitlines())
    return replace(outcome, changed=True, result=json.loads(reply.stdout), revision=1, notes=notes)


def _ifname(where: Where, network: Network, context: Context) -> str:
    """CniError 4 for a name that is none, 7 for one that is taken."""
    container = context.call.container_id
    taken = {link.name for link in links.every(context.sandbox)}
    taken |= {
        contents.identity.ifname
        for _, contents in records.every(where.roots)
        if contents.identity.container_id == container
    }
    if not network.ifname:
        return next(name for number in count() if (name := f"eth{number}") not in taken)
    if not is_interface_name(network.ifname):
        raise CniError(Code.BAD_ENVIRONMENT, f"{network.ifname!r} is no name of an interface")
    if network.ifname in taken:
        raise CniError(
            Code.INVALID_CONFIG,
            f"container {container} has an interface {network.ifname}",
            f"leave the name out, and the first free one of eth0, eth1, … is taken: {network.name}",
        )
    return network.ifname


def _configuration(network: Network, own: JsonObject) -> JsonObject:
    """A list of all plugins, for ours that does lists in one call. CniError 7."""
    if not network.plugins:
        raise CniError(Code.INVALID_CONFIG, f"network {network.name} has no plugins: 'plugins' is empty")
    shared: JsonObject = {"name": network.name, "cniVersion": network.version or "0.4.0"}
    known = _known_by(own)
    if known:
        shared["args"] = {_MESOS: {"network_info": known}}
    kind = str(fold(network.plugins[0], "type") or "")
    if len(network.plugins) == 1 and kind == _CHAIN:
        return network.plugins[0] | shared
    return shared | {"type": _CHAIN, "plugins": list(network.plugins)}


def _known_by(own: JsonObject) -> JsonObject:
    """Of what an agent said of the container, that by which policies tell it from others."""
    args = fold(own, "args")
    agent = args.get(_MESOS) if isinstance(args, dict) else None
    info = fold(agent, "network_info") if isinstance(agent, dict) else None
    if not isinstance(info, Mapping):
        return {}
    return {key: value for key in _KNOWN_BY if (value := fold(dict(info), key)) is not None}


def remove_network(where: Where, container: str, network: str, ifname: str, wish: Wish) -> Outcome:
    """Detach a container from a network while it runs; `ifname` "" where it is there once. Nothing raises."""
    outcome = Outcome(Identity(network, container, ifname or "-"), "", action="remove")
    try:
        if wish.apply:
            _forget_ended(where, container)
        return _remove(where, network, ifname, outcome, wish)
    except CniError as error:
        return replace(outcome, problems=(str(error),))


def _forget_ended(where: Where, container: str) -> None:
    """Links of attachments that are gone, whose removal was killed at its last step. CniError 5 or 11."""
    place = added.folder(where.roots, container)
    if place.exists():
        with added.held(place, after(_SECONDS)):
            for link in added.links(place):
                if not link.record.exists():
                    added.forget(place, link.record)


def _remove(where: Where, network: str, ifname: str, outcome: Outcome, wish: Wish) -> Outcome:
    container = outcome.identity.container_id
    found = [
        (path, contents)
        for path, contents in records.every(where.roots, network)
        if contents.identity.container_id == container and ifname in {"", contents.identity.ifname}
    ]
    names = sorted({contents.identity.ifname for _, contents in found})
    if not found:
        raise CniError(Code.INVALID_CONFIG, f"no record knows container {container} on network {network}")
    if len(names) > 1:
        raise CniError(
            Code.INVALID_CONFIG, f"it is there {len(names)} times: name one of {network}:{', '.join(names)}"
        )
    place = added.folder(where.roots, container)
    outcome = replace(
        outcome,
        identity=replace(outcome.identity, ifname=names[0]),
        plugin=str(found[0][1].head["plugin"]),
        problems=tuple(_objections(where, found, force=wish.force)),
        disruptions=(f"every flow over {names[0]} ends at once, for good",),
    )
    if not outcome.problems and wish.apply and not wish.disrupt:
        outcome = replace(outcome, problems=(f"{outcome.disruptions[0]}: --disrupt allows it",))
    if outcome.problems or not wish.apply:
        return outcome
    left: list[str] = []
    with added.held(place, after(_SECONDS)):
        found.sort(key=lambda item: float(item[1].head.get("time", 0)), reverse=True)
        for path, _ in found:
            added.end(place, path)
        for path, _ in found:
            left += _take_down(where, place, path)
    return replace(outcome, changed=not left, leftovers=tuple(left))


def _objections(where: Where, found: list[tuple[Path, Contents]], *, force: bool) -> Iterator[str]:
    identity = found[0][1].identity
    if all(contents.head.get(ends.HEAD) for _, contents in found):
        return
    if not force:
        yield (
            f"its runtime attached {identity.ifname}, and goes on telling its address and asking for it; "
            "--force takes it away all the same"
        )
    others = [
        contents
        for _, contents in ends.own(where.roots, identity.container_id)
        if contents.identity != identity
    ]
    if not others and added.links(added.folder(where.roots, identity.container_id)):
        yield "it is the last one that its runtime attached, and added ones go with it: remove those first"


def _take_down(where: Where, place: Path, path: Path) -> Iterator[str]:
    """Take an attachment down; the directory is held. What could not be, in sentences."""
    try:
        record = records.open_path(path, after(_SECONDS))
        if record is not None:
            with record:
                contents = record.contents
                if contents is not None:
                    call = replace(call_of(contents, where.roots, where.host), deadline=after(_SECONDS))
                    take_down(record, contents, call, where.plugins)
                    for work in (*call.later, *call.idle):
                        work()
        added.forget(place, path)
    except CniError as error:
        yield str(error)


def _sentence(stdout: bytes) -> str:
    """An ADD's error as one sentence."""
    document: Any = json.loads(stdout)
    details = document.get("details", "")
    return f"{document['msg']} (code {document['code']})" + (f": {details}" if details else "")
