"""Configurations that would give a network that is dead without a word.

What cannot be meant is refused. What may be on purpose, or may be somebody else's key, is a warning: on the
program's standard error and in the service's log, of an ADD only, so that it is told once an attachment.
Unknown keys are everybody's right (runtimes and other plugins have their own), so a key is only remarked on
when it says almost what a key of this plugin says, or when a key of that name belongs to another place.
"""

import re
from typing import Any

from cni_plugins.attach.plugin import Kind
from cni_plugins.spec.call import Call, Verb
from cni_plugins.spec.config import COMMON_KEYS, keys_of, shown
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.values import fold

TOP = "beside 'type'"
IPAM = "inside 'ipam'"
_ELSEWHERE = {
    TOP: (
        IPAM,
        frozenset(
            (
                "subnet",
                "rangestart",
                "rangeend",
                "ranges",
                "addresses",
                "resolvconf",
                "sticky",
                "prefixdelegation",
            )
        ),
    ),
    IPAM: (
        TOP,
        frozenset(
            ("bridge", "isgateway", "isdefaultgateway", "ipmasq", "nptv6", "mtu", "master", "mode", "vlan")
        ),
    ),
}
_WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")


def refuse(call: Call, kind: Kind, name: str) -> None:
    """CniError 7 for keys that have no meaning where they stand, and that were meant to have one."""
    if kind is Kind.IPAM:
        return
    members = fold(call.config, "plugins")
    if members and name != "chain":
        raise CniError(
            Code.INVALID_CONFIG,
            f"key 'plugins' has no meaning for type {name!r}: its members would never run",
            "make the type 'chain', or let a runtime that knows lists (a .conflist) call them one by one",
        )
    ipam = fold(call.config, "ipam")
    if name != "flannel" and isinstance(ipam, dict) and not fold(ipam, "type") and _says_something(ipam):
        raise CniError(
            Code.INVALID_CONFIG,
            f"ipam.type is missing, so ipam ({shown(ipam)}) would give no address",
            'name the plugin: "type": "host-local"; or leave ipam out for a network of layer 2',
        )


def _says_something(value: Any) -> bool:
    """Whether any part of a value is more than what Go writes for nothing."""
    if isinstance(value, dict):
        return any(_says_something(item) for item in value.values())
    if isinstance(value, list):
        return any(_says_something(item) for item in value)
    return value not in (None, "", 0, False)


def unknown(call: Call, schema: type[Any], key: str, place: str) -> None:
    """Remark on an unknown key of an ADD that stands at `place` (TOP or IPAM), if it is likely a mistake."""
    if call.verb is not Verb.ADD or key in COMMON_KEYS or key.startswith("cni.dev/"):
        return
    other, keys = _ELSEWHERE[place]
    if key.casefold() in keys:
        call.warn(f"key {key!r} is ignored {place}; it belongs {other}")
        return
    for known in keys_of(schema):
        if _alike(key, known.key):
            call.warn(f"unknown key {key!r} is ignored; is {known.key!r} meant?")
            return


def _alike(key: str, known: str) -> bool:
    """Whether one name is within the other, or both begin with the same word (`rangeBegin`, `rangeStart`)."""
    short, long = sorted((key.casefold(), known.casefold()), key=len)
    if len(short) >= 5 and short in long:
        return True
    mine, theirs = _WORD.findall(key), _WORD.findall(known)
    return len(mine) == len(theirs) > 1 and len(mine[0]) >= 4 and mine[0].casefold() == theirs[0].casefold()
