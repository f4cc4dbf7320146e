"""The keys of `ipam.prefixDelegation`, apart from what it does: every call of host-local reads them."""

from dataclasses import dataclass

from cni_plugins.spec.config import ABSOLUTE_PATH, INTERFACE_NAME, Kind, integer, option
from cni_plugins.spec.errors import CniError, Code

WHERE = "ipam.prefixDelegation"
_SHORTEST, _LONGEST = 32, 120
_SUBNETS = 1 << 32


def _duid(value: object) -> bytes:
    from cni_plugins.dhcp import duid

    if not isinstance(value, str):
        raise ValueError("not a string")
    return duid.parse(value)


DUID = Kind("DUID in hexadecimal digits", _duid, blank=True)


@dataclass(frozen=True, slots=True)
class DelegationConfig:
    uplink: str = option(
        "uplink", INTERFACE_NAME, "", "needed: the link of the host on which routers are asked"
    )
    length: int = option(
        "length",
        integer(_SHORTEST, _LONGEST),
        64,
        "of the prefix that is asked for, in bits; the server may give another",
    )
    subnet: int = option(
        "subnet", integer(0, _SUBNETS - 1), 0, "which /64 of a larger prefix is the network's; the first is 0"
    )
    duid: bytes = option(
        "duid",
        DUID,
        b"",
        "who the host is to servers, default made of the uplink's MAC address; a network needs one of its "
        "own where a server gives one prefix to a DUID, whoever asks",
    )
    daemon_socket: str = option(
        "daemonSocketPath",
        ABSOLUTE_PATH,
        "",
        "where the lease daemon listens; default that of the node service, `/run/mesokit/dhcp.sock`",
    )


def validate(config: DelegationConfig) -> None:
    """CniError 7."""
    if not config.uplink:
        raise CniError(
            Code.INVALID_CONFIG,
            f"{WHERE}.uplink is missing",
            "name the link of this host on which the router is that delegates: "
            '"prefixDelegation": {"uplink": "eth0"}',
        )
