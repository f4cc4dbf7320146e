"""What main plugins read of a call beside their own keys."""

from collections.abc import Sequence
from typing import Any

from cni_plugins.spec.call import Call
from cni_plugins.spec.config import INTERFACE_NAME, MAC_ADDRESS
from cni_plugins.spec.result import Address, Dns, decode_dns
from cni_plugins.spec.values import fold


def requested_mac(call: Call, configured: str | None = None) -> str | None:
    """The container's MAC address: the configuration's, CNI_ARGS MAC, args.cni.mac, runtimeConfig.mac; the
    last one given wins. CniError 7 naming the place of a bad one.
    """
    places: tuple[tuple[str, Any], ...] = (
        ("CNI_ARGS MAC", call.args.get("MAC")),
        ("args.cni.mac", call.cni_args("mac")),
        ("runtimeConfig.mac", call.runtime("mac")),
    )
    chosen = configured
    for place, value in places:
        if value is None or value == "":
            continue
        chosen = MAC_ADDRESS.at(value, place)
    return chosen


def mac_of_address(ips: Sequence[Address]) -> str | None:
    """The MAC address that `macFromIP` makes of the first address: 0a:58 and its last four bytes."""
    return "0a:58:" + ips[0].address.ip.packed[-4:].hex(":") if ips else None


def requested_host_interface(call: Call, configured: str) -> str:
    """The name of the host's end of a veth pair: the configuration's, args.cni.hostInterface,
    runtimeConfig.hostInterface; the last one given wins, "" is a random one. CniError 7.
    """
    chosen = configured
    for place, value in (
        ("args.cni.hostInterface", call.cni_args("hostInterface")),
        ("runtimeConfig.hostInterface", call.runtime("hostInterface")),
    ):
        if value is None or value == "":
            continue
        chosen = INTERFACE_NAME.at(value, place)
    return chosen


def configured_dns(call: Call, found: Dns) -> Dns:
    """The configuration's `dns` if it says anything, else what IPAM found."""
    document = fold(call.config, "dns")
    return decode_dns(document, "dns") if document else found
