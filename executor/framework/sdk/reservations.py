"""What RESERVE and CREATE make of a piece of an offer, and back: each piece as it is before and after.

Only the form after refinement is written: a stack of `reservations`, of which a framework pushes and pops the
last (docs/reservation.md, docs/persistent-volume.md). Labels keep reservations apart; a principal must be the
framework's own where it has one.
"""

from collections.abc import Iterable
from dataclasses import replace

from mesos.v1 import mesos_pb2

from executor.framework.sdk.resources import UNMERGED, Kind

Labels = tuple[tuple[str, str], ...]


def reserved(kind: Kind, role: str, principal: str, labels: Labels) -> Kind:
    """The piece, dynamically reserved to a role on top of what it is."""
    info = mesos_pb2.Resource.ReservationInfo(type=mesos_pb2.Resource.ReservationInfo.DYNAMIC, role=role)
    if principal:
        info.principal = principal
    for key, value in labels:
        info.labels.labels.add(key=key, value=value)
    made = info.SerializeToString(deterministic=True)
    return replace(kind, reservations=(*kind.reservations, made), reserved_to=role, labels=labels)


def unreserved(kind: Kind) -> Kind:
    """The piece without its last reservation."""
    rest = kind.reservations[:-1]
    if not rest:
        return replace(kind, reservations=(), reserved_to="", labels=())
    last = mesos_pb2.Resource.ReservationInfo()
    last.MergeFromString(rest[-1])
    return replace(kind, reservations=rest, reserved_to=last.role, labels=labels_of(last))


def volume(kind: Kind, persistence: str, principal: str, path: str) -> Kind:
    """A persistent volume on a reserved piece of disk, seen at `path` below the sandbox."""
    disk = mesos_pb2.Resource.DiskInfo()
    disk.MergeFromString(kind.disk)
    disk.persistence.id = persistence
    if principal:
        disk.persistence.principal = principal
    disk.volume.container_path = path
    disk.volume.mode = mesos_pb2.Volume.RW
    return replace(kind, disk=disk.SerializeToString(deterministic=True), whole=True, persistence=persistence)


def without_volume(kind: Kind) -> Kind:
    """The reserved piece of disk that a volume lies on."""
    disk = mesos_pb2.Resource.DiskInfo()
    disk.MergeFromString(kind.disk)
    disk.ClearField("persistence")
    disk.ClearField("volume")
    return replace(
        kind,
        disk=disk.SerializeToString(deterministic=True) if disk.HasField("source") else b"",
        whole=disk.source.type in UNMERGED,
        persistence="",
    )


def labels_of(info: mesos_pb2.Resource.ReservationInfo) -> Labels:
    """A reservation's labels."""
    return tuple((label.key, label.value) for label in info.labels.labels)


def labelled(kinds: Iterable[Kind], labels: Labels) -> list[Kind]:
    """Those that are reserved under exactly these labels."""
    return [kind for kind in kinds if kind.labels == labels]
