"""VLANs in the bridge plugin's configuration."""

from collections.abc import Iterable
from dataclasses import dataclass

from cni_plugins.kernel import bridges
from cni_plugins.kernel.links import Link
from cni_plugins.spec.config import integer, option
from cni_plugins.spec.errors import CniError, Code


@dataclass(frozen=True, slots=True)
class Trunk:
    vid: int | None = option("id", integer(1, 4094), None, "one VLAN")
    low: int | None = option("minID", integer(1, 4094), None, "the first VLAN of a range")
    high: int | None = option("maxID", integer(1, 4094), None, "the last VLAN of a range")


def validate(trunks: Iterable[Trunk]) -> None:
    """CniError 7 for an entry that says neither a VLAN nor a range."""
    for trunk in trunks:
        if trunk.low is None and trunk.high is None and trunk.vid is not None:
            continue
        if trunk.low is None or trunk.high is None:
            missing = "minID" if trunk.low is None else "maxID"
            raise CniError(
                Code.INVALID_CONFIG,
                f"minID and maxID should be configured simultaneously, {missing} is missing"
                if trunk.low != trunk.high
                else "incorrect trunk id parameter",
                "vlanTrunk has an entry without id, or without one of minID and maxID",
            )
        if trunk.low > trunk.high:
            raise CniError(
                Code.INVALID_CONFIG,
                "minID is greater than maxID in trunk parameter",
                f"vlanTrunk has minID {trunk.low} above maxID {trunk.high}",
            )


def ranges(trunks: Iterable[Trunk]) -> tuple[tuple[int, int], ...]:
    """The first and last VLAN of each entry."""
    found = []
    for trunk in trunks:
        if trunk.vid is not None:
            found.append((trunk.vid, trunk.vid))
        if trunk.low is not None and trunk.high is not None:
            found.append((trunk.low, trunk.high))
    return tuple(found)


def require_filtering(bridge: Link) -> None:
    """CniError 7 for a bridge that would let every VLAN through."""
    if not bridges.filters_vlans(bridge):
        raise CniError(
            Code.INVALID_CONFIG,
            f"bridge {bridge.name} does not filter VLANs, so vlan and vlanTrunk would have no effect",
            f"ip link set {bridge.name} type bridge vlan_filtering 1",
        )
