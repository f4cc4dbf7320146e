"""JSON, and the address types that configurations and results are made of."""

import json
import re
from _socket import AF_INET, AF_INET6, inet_pton
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
)
from typing import Any, TypeAlias

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
JsonObject: TypeAlias = dict[str, Any]
Ip: TypeAlias = IPv4Address | IPv6Address
IpInterface: TypeAlias = IPv4Interface | IPv6Interface
IpNetwork: TypeAlias = IPv4Network | IPv6Network
#: A network as bytes in network order and the length of its prefix: for who compares many.
Network: TypeAlias = tuple[bytes, int]

_SEPARATORS = str.maketrans("", "", ":-.")
_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

_MAC = re.compile(r"[0-9a-f]{2}((:[0-9a-f]{2}){5}|(-[0-9a-f]{2}){5})|[0-9a-f]{4}(\.[0-9a-f]{4}){2}")


class DuplicateKeys(dict[str, Any]):
    """A JSON object in which a key stood more than once: the last value wins, and `duplicates` names the
    keys.
    """

    duplicates: tuple[str, ...] = ()


def _pairs(pairs: list[tuple[str, Any]]) -> JsonObject:
    plain = dict(pairs)
    if len(plain) == len(pairs):
        return plain
    marked = DuplicateKeys(plain)
    seen: set[str] = set()
    again: set[str] = set()
    for key, _ in pairs:
        (again if key in seen else seen).add(key)
    marked.duplicates = tuple(sorted(again))
    return marked


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number - number != 0:
        raise ValueError(f"the number {text[:40]} is too large")
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_refuse_constant, parse_float=_finite)
_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _well_formed(value: Any) -> Any:
    r"""Half a surrogate pair (`\ud800`), which no name or file can hold, becomes U+FFFD, as in Go."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_well_formed(item) for item in value]
    if isinstance(value, dict):
        renewed = _pairs([(_well_formed(key), _well_formed(item)) for key, item in value.items()])
        if isinstance(value, DuplicateKeys):
            renewed = DuplicateKeys(renewed)
            renewed.duplicates = value.duplicates
        return renewed
    return value


def parse_json(text: bytes) -> Any:
    """One JSON document of UTF-8 text; ValueError for anything else, whatever the depth or size of the
    input.
    """
    try:
        document = _DECODER.decode(text.decode("utf-8"))
        return _well_formed(document) if _ESCAPED_SURROGATE.search(text) else document
    except RecursionError:
        raise ValueError("nested too deeply") from None


def dump_json(value: Any) -> str:
    """One line of ASCII JSON."""
    return _ENCODER.encode(value)


def parse_mac(text: str) -> str:
    """An Ethernet address in any of the forms that Go's `net.ParseMAC` reads (`0a:58:…`, `0A-58-…`,
    `0a58.0a01.0002`), as the first of them. ValueError if it is none.
    """
    plain = text.lower()
    if not _MAC.fullmatch(plain):
        raise ValueError("not a MAC address like 0a:58:0a:01:00:02")
    return bytes.fromhex(plain.translate(_SEPARATORS)).hex(":")


def parse_ip(text: str) -> Ip:
    """An address; an IPv4-mapped IPv6 address is IPv4, as in the reference plugins. ValueError if it is
    none.
    """
    if "%" in text:
        raise ValueError(f"{text!r} has a zone, which an address of a configuration cannot have")
    try:  # a quarter of what ip_address takes, whose sentences are for what is no address
        if ":" not in text:
            return IPv4Address(inet_pton(AF_INET, text))
        address: Ip = IPv6Address(inet_pton(AF_INET6, text))
    except (OSError, ValueError):
        address = ip_address(text)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


@lru_cache(maxsize=512)
def parse_cidr(text: str) -> IpInterface:
    """An address with its prefix length, host bits kept as given. ValueError if it is none."""
    if "/" not in text or "%" in text:
        raise ValueError(f"{text!r} is not an address with a prefix length, like 10.1.0.5/24")
    plain, _, length = text.rpartition("/")
    if not (length.isascii() and length.isdigit()):
        raise ValueError(f"{text!r} does not end in a prefix length, like /24")
    try:
        if ":" not in plain:
            return interface_of(inet_pton(AF_INET, plain), int(length))
        address = interface_of(inet_pton(AF_INET6, plain), int(length))
    except (OSError, ValueError):
        address = ip_interface(text)
    if isinstance(address, IPv6Interface) and address.ip.ipv4_mapped is not None and int(length) >= 96:
        return IPv4Interface((address.ip.ipv4_mapped, int(length) - 96))
    return address


@lru_cache(maxsize=512)
def packed_network(text: str) -> Network:
    """The network of an address with its prefix length. ValueError if it is none."""
    found = parse_cidr(text).network
    return found.network_address.packed, found.prefixlen


@lru_cache(maxsize=2048)
def packed_cidr(text: str) -> tuple[bytes, int]:
    """What `parse_cidr` finds, as bytes in network order and the length of the prefix, at a tenth of the
    cost: for who compares many. ValueError if it is none.
    """
    plain, _, length = text.rpartition("/")
    if length.isascii() and length.isdigit():
        try:
            if ":" not in plain:
                if int(length) <= 32:
                    return inet_pton(AF_INET, plain), int(length)
            elif int(length) <= 128:
                raw = inet_pton(AF_INET6, plain)
                if any(raw[:10]):  # else it may stand for an IPv4 address
                    return raw, int(length)
        except (OSError, ValueError):
            pass
    found = parse_cidr(text)
    return found.packed, found.network.prefixlen


@lru_cache(maxsize=512)
def interface_of(raw: bytes, length: int) -> IpInterface:
    """The address of four or sixteen bytes, with its prefix length. Of a node's containers most have the same
    routes, and making one costs more than the kernel's answer.
    """
    return IPv4Interface((raw, length)) if len(raw) == 4 else IPv6Interface((raw, length))


def first_host(address: IpInterface) -> Ip:
    """The first address of a network that a host may have: what stands for a gateway that nobody named."""
    first = address.network.network_address
    return first if address.network.num_addresses <= 2 else first + 1


def fold(mapping: Mapping[str, Any], key: str) -> Any:
    """The value of `key` in a JSON object, found as Go's decoder does: case ignored, the last one wins."""
    found = None
    length = len(key)
    for name, value in mapping.items():
        if len(name) == length and (name == key or name.casefold() == key.casefold()):
            found = value
    return found
