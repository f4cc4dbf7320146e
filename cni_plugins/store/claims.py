"""What attachments of one node must not share (a host port) or do share (a setting of an interface).

A claim is a small file `<run>/claims/<subject>/<member>` that holds its owner. All of them change under
one lock, held for a few file operations; only a conflict makes its holder read a network's records. A claim
whose owner has no attachment record any more is the trace of a crash and counts for nothing; an empty file is
one whose writer died.
"""

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from cni_plugins.spec.deadline import Deadline
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.roots import Roots
from cni_plugins.spec.values import JsonObject, dump_json, parse_json
from cni_plugins.store import records
from cni_plugins.store.locks import locked

Members = Mapping[str, JsonObject]


def _place(roots: Roots, subject: str) -> Path:
    return roots.run / "claims" / subject


def guarded(roots: Roots, deadline: Deadline, *, undoing: bool = False) -> AbstractContextManager[None]:
    """The lock that everything below is called under. CniError 5 or 11."""
    return locked(roots.run / "locks" / "claims", deadline, undoing=undoing)


def subjects(roots: Roots, beginning: str) -> list[str]:
    """What is claimed, of the names that begin so."""
    try:
        return [path.name for path in (roots.run / "claims").iterdir() if path.name.startswith(beginning)]
    except OSError:
        return []


def members(roots: Roots, subject: str) -> dict[str, JsonObject]:
    """The claims on a subject, by member; a file that holds no owner is removed."""
    found = {}
    try:
        paths = list(_place(roots, subject).iterdir())
    except OSError:
        return {}
    for path in paths:
        try:
            owner = parse_json(path.read_bytes())
        except (OSError, ValueError):
            owner = None
        if isinstance(owner, dict):
            found[path.name] = owner
        else:
            path.unlink(missing_ok=True)
    return found


def claim(roots: Roots, subject: str, member: str, owner: JsonObject) -> None:
    """Write a claim. CniError 5."""
    place = _place(roots, subject)
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        (place / member).write_text(dump_json(owner))
    except OSError as error:
        raise CniError(Code.IO, f"cannot write the claim {place / member}", str(error)) from error


def release(roots: Roots, subject: str, member: str, identity: Identity) -> None:
    """Drop a claim if it is this attachment's."""
    place = _place(roots, subject)
    held = members(roots, subject)
    if member in held and owner_of(held[member]) == identity:
        (place / member).unlink(missing_ok=True)
    with suppress(OSError):  # others have claims there
        place.rmdir()


def owner(identity: Identity, **more: Any) -> JsonObject:
    return {
        "network": identity.network,
        "containerID": identity.container_id,
        "ifname": identity.ifname,
    } | more


def owner_of(entry: JsonObject) -> Identity:
    return Identity(
        str(entry.get("network", "")), str(entry.get("containerID", "")), str(entry.get("ifname", ""))
    )


def alive(roots: Roots, entry: JsonObject) -> bool:
    """Whether the owner of a claim still has an attachment record. Reads a network's records: for
    conflicts only.
    """
    identity = owner_of(entry)
    return any(contents.identity == identity for _, contents in records.every(roots, identity.network))


def living(
    roots: Roots, subject: str, identity: Identity, matter: Callable[[str], bool]
) -> list[tuple[str, Identity]]:
    """The claims of other attachments that matter and whose owners are alive; those of the dead go."""
    found = []
    for member, entry in members(roots, subject).items():
        if not matter(member) or owner_of(entry) == identity:
            continue
        if alive(roots, entry):
            found.append((member, owner_of(entry)))
        else:
            (_place(roots, subject) / member).unlink(missing_ok=True)
    return found


def sweep(roots: Roots, network: str, keep: Collection[Identity]) -> None:
    """Drop the claims of a network's attachments that are neither to be kept nor recorded."""
    for subject in subjects(roots, ""):
        for member, entry in members(roots, subject).items():
            identity = owner_of(entry)
            if identity.network == network and identity not in keep and not alive(roots, entry):
                release(roots, subject, member, identity)
