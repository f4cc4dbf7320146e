"""The one registry of undo operations, and their replay.

An operation is idempotent: what it removes may be gone, half there, or never made. It takes everything it
needs from its arguments (JSON, out of the record) and the context; it never reads a configuration. To add
one, write a function `(context, args) -> None` in a module of attach/operations and name it here.
"""

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cni_plugins.attach.context import Context
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.values import JsonObject

Operation = Callable[[Context, Mapping[str, Any]], None]

OPERATIONS: Mapping[str, str] = {
    "bridge.release": "cni_plugins.attach.operations.bridges:release",
    "delegate.delete": "cni_plugins.attach.foreign:undo_delete",
    "host-local.release": "cni_plugins.attach.operations.reservations:release",
    "link.delete": "cni_plugins.attach.operations.links:delete",
    "link.restore": "cni_plugins.attach.operations.links:restore",
    "masquerade.delete": "cni_plugins.attach.operations.firewall:delete_masquerade",
    "ports.delete": "cni_plugins.attach.operations.ports:delete",
    "ports.release": "cni_plugins.attach.operations.ports:release",
    "localnet.release": "cni_plugins.attach.operations.ports:release_localnet",
    "shaping.remove": "cni_plugins.attach.operations.shaping:remove",
    "spoof.delete": "cni_plugins.attach.operations.firewall:delete_spoof_check",
    "vlan.release": "cni_plugins.attach.operations.bridges:release_vlan",
    "sysctl.restore": "cni_plugins.attach.operations.sysctls:restore",
}


@dataclass(frozen=True, slots=True)
class Undo:
    """How to take one change back: an operation of the registry and its arguments, which must be JSON."""

    op: str
    args: JsonObject


def operation(op: str) -> Operation:
    """The function behind a name. CniError 999 for a record of a newer version."""
    try:
        module, _, name = OPERATIONS[op].partition(":")
    except KeyError:
        raise CniError(
            Code.INTERNAL,
            f"the attachment record names the undo operation {op!r}, which this version does not know",
        ) from None
    function: Operation = getattr(importlib.import_module(module), name)
    return function


def replay(context: Context, undos: Iterable[JsonObject]) -> list[CniError]:
    """Run recorded undos, newest first; errors are collected and the rest goes on."""
    errors: list[CniError] = []
    for entry in reversed(list(undos)):
        try:
            operation(entry["undo"])(context, entry.get("args", {}))
        except CniError as error:
            errors.append(error)
        except Exception as error:  # one broken undo must not keep the others from running
            errors.append(
                CniError(Code.INTERNAL, f"undo {entry.get('undo')}: {type(error).__name__}", str(error))
            )
    return errors


def joined(what: str, errors: list[CniError]) -> CniError:
    """One error out of several: the first one's code, everybody's words."""
    return CniError(errors[0].code, what, "; ".join(str(error) for error in errors))
