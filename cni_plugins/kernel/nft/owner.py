"""Whose element it is: the comment that names an attachment within nf_tables' 128 bytes."""

import hashlib
import re
from functools import lru_cache

from cni_plugins.kernel.nft.elements import COMMENT_BYTES
from cni_plugins.spec.identity import Identity

_UNSPEAKABLE = re.compile(r"[^A-Za-z0-9_.\-]")


def _hash(text: str) -> str:
    return hashlib.sha512(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@lru_cache(maxsize=64)
def network_tag(network: str) -> str:
    """What the comment of every element of a network begins with."""
    return f"{_hash(network)}-"


def tag(identity: Identity) -> str:
    """What the comment of every element of an attachment begins with, in the reference plugins' own form."""
    return network_tag(identity.network) + _hash(f"{identity.ifname}:{identity.container_id}")


def comment(identity: Identity) -> str:
    """The tag, and as much of the names as fits, for people who read the ruleset."""
    readable = f", net: {identity.network}, if: {identity.ifname}, id: {identity.container_id}"
    return (tag(identity) + _UNSPEAKABLE.sub(_plain, readable))[:COMMENT_BYTES]


def _plain(match: re.Match[str]) -> str:
    return match[0] if match[0] in " ,:" else "?"


def holder(text: str) -> str:
    """The names in a comment, for an error sentence."""
    _, _, names = text.partition(", net: ")
    network, _, rest = names.partition(", if: ")
    ifname, _, container = rest.partition(", id: ")
    return (
        f"container {container} (network {network}, interface {ifname})"
        if container
        else text or "somebody else"
    )
