"""What the options of a lease mean for an interface (RFC 2132, 3397, 3442).

A server may send anything: what cannot be, such as a gateway in option 121 that is cut off or a mask with
holes, is left out, and never makes a lease unusable that has an address.
"""

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv4Interface, ip_interface

from cni_plugins.dhcp.packet import Option
from cni_plugins.spec.result import Dns, Route

_LINK_SCOPE = 253
_LONGEST_NAME = 255
_MOST = 64  # routes or names of one lease
_EVERYWHERE = IPv4Interface("0.0.0.0/0")
_SMALLEST_MTU = 68

#: Names that the reference plugin knows for options; any other is a number.
NAMES: Mapping[str, int] = {
    "dhcp-client-identifier": Option.CLIENT_ID,
    "subnet-mask": Option.SUBNET_MASK,
    "routers": Option.ROUTERS,
    "host-name": Option.HOST_NAME,
    "user-class": Option.USER_CLASS,
    "vendor-class-identifier": Option.VENDOR_CLASS,
}


def number_of(name: str) -> int:
    """An option by name or number, 1 to 254. ValueError."""
    found = NAMES.get(name)
    if found is None and name.isascii() and name.isdecimal() and len(name) <= 3:
        found = int(name)
    if found is None or not 0 < found < Option.END:
        raise ValueError(f"not an option: a number from 1 to 254, or {', '.join(NAMES)}")
    return int(found)


def addresses(value: bytes) -> list[IPv4Address]:
    """A list of addresses; what is left over is no address."""
    return [IPv4Address(value[at : at + 4]) for at in range(0, len(value) - 3, 4)]


def seconds(value: bytes) -> int | None:
    return int.from_bytes(value, "big") if len(value) == 4 else None


def interface_of(address: IPv4Address, options: Mapping[int, bytes]) -> IPv4Interface:
    """The address with its subnet: option 1, else that of the address' class (RFC 950)."""
    mask = int.from_bytes(options.get(Option.SUBNET_MASK, b""), "big")
    length = mask.bit_count()
    if len(options.get(Option.SUBNET_MASK, b"")) != 4 or mask != (0xFFFFFFFF << (32 - length)) & 0xFFFFFFFF:
        length = _class_length(address)
    return IPv4Interface((address, length or 32))


def _class_length(address: IPv4Address) -> int:
    first = address.packed[0]
    return 8 if first < 128 else 16 if first < 192 else 24


def gateway_of(options: Mapping[int, bytes]) -> IPv4Address | None:
    """The first router of option 3."""
    listed = [item for item in addresses(options.get(Option.ROUTERS, b"")) if int(item)]
    return listed[0] if listed else None


def routes_of(options: Mapping[int, bytes], priority: int | None = None) -> tuple[Route, ...]:
    """Option 121 alone where it is there (RFC 3442), else option 33 and the default route by option 3."""
    found = list(_classless(options.get(Option.CLASSLESS_ROUTES, b"")))
    if not found:
        found = list(_classful(options.get(Option.STATIC_ROUTES, b"")))
        gateway = gateway_of(options)
        if gateway is not None:
            found.append((_EVERYWHERE, gateway))
    listed = (
        Route(dst, gw, priority=priority) if int(gw) else Route(dst, priority=priority, scope=_LINK_SCOPE)
        for dst, gw in found[:_MOST]
    )
    return tuple(dict.fromkeys(listed))


def _classless(value: bytes) -> Iterator[tuple[IPv4Interface, IPv4Address]]:
    at = 0
    while at < len(value):
        length = value[at]
        size = (length + 7) // 8
        end = at + 1 + size + 4
        if length > 32 or end > len(value):
            return
        network = IPv4Address(value[at + 1 : at + 1 + size].ljust(4, b"\0"))
        yield IPv4Interface(IPv4Interface((network, length)).network), IPv4Address(value[end - 4 : end])
        at = end


def _classful(value: bytes) -> Iterator[tuple[IPv4Interface, IPv4Address]]:
    for at in range(0, len(value) - 7, 8):
        dst, gw = IPv4Address(value[at : at + 4]), IPv4Address(value[at + 4 : at + 8])
        if not int(dst) or not int(gw):
            continue  # the default route is not for this option
        host = any(dst.packed[_class_length(dst) // 8 :])
        yield IPv4Interface((dst, 32 if host else _class_length(dst))), gw


def dns_of(options: Mapping[int, bytes]) -> Dns:
    """Options 6, 15 and 119."""
    servers = tuple(str(item) for item in addresses(options.get(Option.NAME_SERVERS, b"")) if int(item))
    domain = _host(options.get(Option.DOMAIN, b"").rstrip(b"\0")) or ""
    return Dns(tuple(dict.fromkeys(servers)), domain, tuple(search_of(options.get(Option.SEARCH, b""))))


def search_of(value: bytes) -> list[str]:
    """The domain names of option 119, which are compressed as in DNS (RFC 1035 section 4.1.4)."""
    names: list[str] = []
    at = 0
    while at < len(value) and len(names) < _MOST:
        labels, at = _labels(value, at)
        if labels is None:
            break
        name = _host(b".".join(labels))
        if name and name not in names:
            names.append(name)
    return names


def _labels(value: bytes, start: int) -> tuple[list[bytes] | None, int]:
    """One name and where the next begins; None for one that is not whole. Pointers go back only."""
    labels: list[bytes] = []
    at, after = start, 0
    while at < len(value):
        length = value[at]
        if length == 0:
            return labels, after or at + 1
        if length & 0xC0:
            if length < 0xC0 or at + 1 >= len(value):
                return None, at
            target = (length & 0x3F) << 8 | value[at + 1]
            after = after or at + 2
            if target >= start:
                return None, at
            start, at = target, target
            continue
        labels.append(value[at + 1 : at + 1 + length])
        at += 1 + length
        if len(labels[-1]) != length or sum(map(len, labels)) + len(labels) > _LONGEST_NAME:
            return None, at
    return None, at


def _host(raw: bytes) -> str | None:
    """A domain name that is safe to stand in a resolv.conf: letters, digits, '-', '_' and '.'."""
    text = raw.decode("ascii", "replace")
    fine = text and len(text) <= _LONGEST_NAME and all(char.isalnum() or char in "-_." for char in text)
    return text if fine and text.isascii() else None


def mtu_of(options: Mapping[int, bytes]) -> int | None:
    """Option 26, None when it is missing or less than IPv4 can do with."""
    raw = options.get(Option.MTU, b"")
    value = int.from_bytes(raw, "big")
    return value if len(raw) == 2 and value >= _SMALLEST_MTU else None


def network(text: str) -> IPv4Interface:
    """An address with its length, as a lease's file has it. ValueError."""
    found = ip_interface(text)
    if not isinstance(found, IPv4Interface):
        raise ValueError(f"{text} is not IPv4")
    return found
