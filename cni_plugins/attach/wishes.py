"""What a runtime wishes of an attachment, beside the plugin's own keys.

A wish may come by four ways; the last that says something wins: the configuration, CNI_ARGS, `args.cni`,
`runtimeConfig` (a Mesos task's network_info is part of that by then: spec/mesos.py).
"""

from collections.abc import Sequence
from enum import Enum
from typing import Any

from cni_plugins.spec.call import Call
from cni_plugins.spec.config import INTERFACE_NAME, MAC_ADDRESS, Kind
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Address, Dns, Result, decode_dns
from cni_plugins.spec.values import fold
from cni_plugins.steps.addresses import MINIMUM_MTU_OF_IPV6


class Source(Enum):
    """A way that a wish comes by."""

    CNI_ARGS = "CNI_ARGS "
    ARGS = "args.cni."
    RUNTIME = "runtimeConfig."


_ORDER = (Source.CNI_ARGS, Source.ARGS, Source.RUNTIME)


def wish(
    call: Call,
    key: str,
    kind: Kind,
    configured: Any = None,
    *,
    argument: str = "",
    order: Sequence[Source] = _ORDER,
) -> Any:
    """The value of a wish, or what is `configured`. `argument` is its name in CNI_ARGS, if it has one there.
    CniError 7 naming the place of a bad one.
    """
    chosen = configured
    for source in order:
        name = argument if source is Source.CNI_ARGS else key
        value = _given(call, source, name) if name else None
        if value is None or value == "":
            continue
        chosen = kind.at(value, f"{source.value}{name}")
    return chosen


def _given(call: Call, source: Source, name: str) -> Any:
    if source is Source.CNI_ARGS:
        return call.args.get(name)
    return call.cni_args(name) if source is Source.ARGS else call.runtime(name)


def mac(call: Call, configured: str | None = None, *, order: Sequence[Source] = _ORDER) -> str | None:
    """The container's MAC address (`MAC`, `mac`). CniError 7."""
    chosen: str | None = wish(call, "mac", MAC_ADDRESS, configured, argument="MAC", order=order)
    return chosen


def mac_of_address(ips: Sequence[Address]) -> str | None:
    """The MAC address that `macFromIP` makes of the first address: 0a:58 and its last four bytes."""
    return "0a:58:" + ips[0].address.ip.packed[-4:].hex(":") if ips else None


def host_interface(call: Call, configured: str) -> str:
    """The name of the host's end of a veth pair (`hostInterface`); "" is a random one. CniError 7."""
    chosen: str = wish(call, "hostInterface", INTERFACE_NAME, configured)
    return chosen


def dns(call: Call, found: Dns) -> Dns:
    """The configuration's `dns` if it says anything, else what IPAM found."""
    document = fold(call.config, "dns")
    return decode_dns(document, "dns") if document else found


def validate(call: Call, *, mac_address: str | None = None, host_name: str = "") -> None:
    """Refuse bad wishes before anything is changed. CniError 6 or 7."""
    mac(call, mac_address)
    host_interface(call, host_name)
    dns(call, Dns())


def require_ipv6_mtu(mtu: object, ips: Sequence[Address]) -> None:
    """CniError 7 for an MTU with which the kernel takes IPv6 away from an interface that is to have it."""
    if not isinstance(mtu, int) or not 0 < mtu < MINIMUM_MTU_OF_IPV6:
        return
    for entry in ips:
        if entry.address.version == 6:
            raise CniError(
                Code.INVALID_CONFIG,
                f"mtu is {mtu}, and below {MINIMUM_MTU_OF_IPV6} (RFC 8200) the interface cannot have "
                f"the IPv6 address {entry.address}",
                "raise it, or give the network no IPv6 range",
            )


def require_granted(call: Call, result: Result) -> None:
    """Fail a task whose NetworkInfo asked for what it did not get: addresses, or ports that no plugin of the
    network publishes. CniError 7.
    """
    info = call.network_info
    if info is None:
        return
    if info.ports and "portMappings" not in call.served:
        listed = ", ".join(str(port) for port in info.ports)
        raise CniError(
            Code.INVALID_CONFIG,
            f"the task asked for network_info.port_mappings (host port {listed}), and network {call.network} "
            "has no plugin that publishes ports",
            "make the network's type 'chain' with 'portmap' after its plugin, or 'portmap' with that plugin "
            "as its 'delegate'; or leave port_mappings out of the task",
        )
    got = {entry.address.ip for entry in result.ips}
    for address in info.addresses:
        if address not in got:
            raise CniError(
                Code.INVALID_CONFIG,
                f"the task asked for address {address}, which network {call.network} did not give",
            )
    for family in info.families:
        if not any(entry.address.version == family for entry in result.ips):
            raise CniError(
                Code.INVALID_CONFIG,
                f"the task asked for an IPv{family} address, which network {call.network} has not",
            )
