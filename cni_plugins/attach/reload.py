"""Making again what somebody flushed: rules, elements, limits, forwarding, from the attachment records.

Links, addresses and routes of a container are not made again: they go with the attachment, and only its
runtime can attach it anew. Of an attachment whose interface is gone from its container nothing is made again:
somebody else is taking it down, perhaps rule by rule, and must not find us putting them back. Records that a
call is working on are waited for; a step that cannot be made again is told, and the rest goes on.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cni_plugins.attach import added
from cni_plugins.attach.lifecycle import recorded_context, settle, take_down
from cni_plugins.attach.plugin import Plugin
from cni_plugins.attach.replay import steps_of
from cni_plugins.kernel import links
from cni_plugins.spec.call import Call, Verb
from cni_plugins.spec.deadline import after
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.namespace import Namespace, own_mounts
from cni_plugins.spec.result import decode
from cni_plugins.spec.roots import Roots
from cni_plugins.spec.versions import NEWEST
from cni_plugins.steps.reservation import Reservation
from cni_plugins.store import records
from cni_plugins.store.records import Contents

_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one attachment; `errors` are sentences, none when all of it is as it was made."""

    identity: Identity
    plugin: str
    errors: tuple[str, ...]


def reload(
    roots: Roots,
    host: Namespace,
    plugins: Mapping[str, Plugin[Any]],
    *,
    network: str | None = None,
    container: str | None = None,
) -> list[Outcome]:
    """Restore the attachments of this host namespace: all, or those of a network or a container; first end
    what calls that died left of networks added to containers. Nothing raises; what went wrong is in the
    outcomes.
    """
    outcomes = []
    settled = added.sweep(
        roots, lambda contents: call_of(contents, roots, host), partial(take_down, plugins=plugins)
    )
    for identity, problem in settled:
        outcomes.append(Outcome(identity, "-", (str(problem),)))
    for path, listed in records.every(roots, network):
        if container is not None and listed.identity.container_id != container:
            continue
        if listed.head.get("hostID", [host.device, host.inode]) != [host.device, host.inode]:
            continue
        plugin = str(listed.head["plugin"])
        try:
            record = records.open_path(path, after(_SECONDS))
            if record is None:
                continue
            with record:
                if record.contents is None or record.contents.result is None:
                    continue  # its ADD has failed or died; what is left of it is for DEL
                call = call_of(record.contents, roots, host)
                settle(record, call, plugins)
                errors = _restore(record.contents, call, plugins)
        except CniError as error:
            errors = [str(error)]
        outcomes.append(Outcome(listed.identity, plugin, tuple(errors)))
    return outcomes


def _restore(contents: Contents, call: Call, plugins: Mapping[str, Plugin[Any]]) -> list[str]:
    errors = []
    steps = steps_of(contents)
    # Whoever attached it had mounts of its own: what is reserved in its files would be freed by nobody here.
    elsewhere = contents.head.get("mountID", own_mounts()) != own_mounts()
    with recorded_context(contents, call, plugins) as context:
        if context.sandbox is not None and links.find(context.sandbox, call.ifname) is None:
            return []
        for step in steps:
            if elsewhere and isinstance(step, Reservation) and not Path(step.directory).is_dir():
                continue
            try:
                step.restore(context)
            except CniError as error:
                errors.append(str(error))
            except Exception as error:  # one broken step must not keep the others from being restored
                unexpected = CniError(Code.INTERNAL, f"internal error: {type(error).__name__}", str(error))
                errors.append(str(unexpected))
    return errors


def call_of(contents: Contents, roots: Roots, host: Namespace, env: Mapping[str, str] | None = None) -> Call:
    """The call that steps see: the attachment's identity, and nothing of a runtime but the environment of
    this process (`env`, for who has read it already).
    """
    identity = contents.identity
    return Call(
        verb=Verb.CHECK,
        plugin=str(contents.head["plugin"]),
        network=identity.network,
        container_id=identity.container_id,
        ifname=identity.ifname,
        netns_path=str(contents.head.get("netns", "")),
        args={},
        path=(),
        config=contents.head.get("config", {}),
        version=NEWEST,
        previous=decode(contents.result, NEWEST) if contents.result is not None else None,
        env=dict(os.environ) if env is None else env,
        roots=roots,
        host=host,
        sandbox=None,
        deadline=after(_SECONDS),
    )
