"""Results: one internal model, that of the newest specification, converted once on the way in and once on the
way out.

Three shapes exist on the wire: 0.1.0 and 0.2.0 (`ip4` and `ip6`, at most one address each), 0.3.0 to 0.4.0
(lists; each address says its `version`) and 1.x (lists). Mesos reads the first shape only, whatever version a
configuration names, and ignores what it does not know: for Mesos the `ip4` and `ip6` objects are printed
beside the lists.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.values import Ip, IpInterface, JsonObject, fold, parse_cidr, parse_ip
from cni_plugins.spec.versions import VERSIONS, at_least

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Interface:
    """`sandbox` is the namespace's path, or empty for an interface of the host; `mtu` 0 is "not told"."""

    name: str
    mac: str = ""
    sandbox: str = ""
    mtu: int = 0
    socket_path: str = ""
    pci_id: str = ""


@dataclass(frozen=True, slots=True)
class Address:
    """`interface` is an index into the result's interfaces."""

    address: IpInterface
    gateway: Ip | None = None
    interface: int | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """`dst` keeps the host bits it was given; `table` and `scope` are the kernel's numbers."""

    dst: IpInterface
    gw: Ip | None = None
    mtu: int | None = None
    advmss: int | None = None
    priority: int | None = None
    table: int | None = None
    scope: int | None = None


@dataclass(frozen=True, slots=True)
class Dns:
    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.nameservers or self.domain or self.search or self.options)


@dataclass(frozen=True, slots=True)
class Result:
    interfaces: tuple[Interface, ...] = ()
    ips: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: Dns = Dns()

    def container_interface(self, name: str) -> Interface:
        """The entry of the container's interface `name`; one without a MAC address when there is none."""
        return next((item for item in self.interfaces if item.name == name and item.sandbox), Interface(name))

    def host_interface(self, *apart: str) -> Interface:
        """The first interface of the host but those named; one without a name when there is none."""
        listed = (item for item in self.interfaces if not item.sandbox and item.name not in apart)
        return next(listed, Interface(""))

    def ips_of(self, name: str) -> tuple[Address, ...]:
        """The addresses of the container's interface `name`, and those that do not say whose they are."""

        def belongs(entry: Address) -> bool:
            if entry.interface is None or entry.interface >= len(self.interfaces):
                return True
            owner = self.interfaces[entry.interface]
            return owner.name == name and bool(owner.sandbox)

        return tuple(entry for entry in self.ips if belongs(entry))


def _refuse(where: str, value: object, expected: str) -> CniError:
    return CniError(Code.DECODING, f"{where} is {value!r}, which is not {expected}")


def _parsed(parse: Callable[[str], T], value: object, where: str, expected: str) -> T:
    if not isinstance(value, str):
        raise _refuse(where, value, expected)
    try:
        return parse(value)
    except ValueError as error:
        raise CniError(Code.DECODING, f"{where} is {value!r}, which is not {expected}", str(error)) from error


def _ip_or_none(value: object, where: str) -> Ip | None:
    return None if value is None or value == "" else _parsed(parse_ip, value, where, "an IP address")


def _text(value: object, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _refuse(where, value, "a string")
    return value


def _number(value: object, where: str, high: int = 2**32 - 1) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= high:
        raise _refuse(where, value, f"a whole number from 0 to {high}")
    return value


def _items(value: object, where: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise _refuse(where, value, "a list")
    return value


def _object(value: object, where: str) -> JsonObject:
    if not isinstance(value, dict):
        raise _refuse(where, value, "an object")
    return value


def decode_route(value: object, where: str) -> Route:
    """One route of a configuration or a result. CniError 6 naming `where`."""
    doc = _object(value, where)
    return Route(
        dst=_parsed(parse_cidr, fold(doc, "dst"), f"{where}.dst", "a network like 10.0.0.0/8"),
        gw=_ip_or_none(fold(doc, "gw"), f"{where}.gw"),
        mtu=_number(fold(doc, "mtu"), f"{where}.mtu") or None,
        advmss=_number(fold(doc, "advmss"), f"{where}.advmss") or None,
        priority=_number(fold(doc, "priority"), f"{where}.priority") or None,
        table=_number(fold(doc, "table"), f"{where}.table"),
        scope=_number(fold(doc, "scope"), f"{where}.scope", 255),
    )


def configured_route(value: object, where: str) -> Route:
    """One route of a configuration, whose gateway must be able to stand for it. CniError 7 naming `where`."""
    try:
        route = decode_route(value, where)
    except CniError as error:
        raise CniError(Code.INVALID_CONFIG, error.msg, error.details) from error
    if route.gw is not None and route.gw.version != route.dst.version:
        raise CniError(
            Code.INVALID_CONFIG, f"{where}.gw is {route.gw}, which is of another family than dst {route.dst}"
        )
    if route.gw is not None and route.gw.is_multicast:
        raise CniError(
            Code.INVALID_CONFIG, f"{where}.gw is {route.gw}, a multicast address: no router has one"
        )
    # 0.0.0.0 is Linux's way to say that the destination is on the link; :: is not.
    if route.gw is not None and (route.gw.is_loopback or (route.gw.version == 6 and route.gw.is_unspecified)):
        raise CniError(
            Code.INVALID_CONFIG,
            f"{where}.gw is {route.gw}, which no router has: leave it out for what is on the link",
        )
    return route


def decode_dns(value: object, where: str) -> Dns:
    """A `dns` object of a configuration or a result. CniError 6 naming `where`."""
    if value is None:
        return Dns()
    doc = _object(value, where)

    def texts(key: str) -> tuple[str, ...]:
        return tuple(_text(item, f"{where}.{key}") for item in _items(fold(doc, key), f"{where}.{key}"))

    return Dns(
        texts("nameservers"), _text(fold(doc, "domain"), f"{where}.domain"), texts("search"), texts("options")
    )


def _decode_interface(value: object, where: str) -> Interface:
    doc = _object(value, where)
    return Interface(
        name=_text(fold(doc, "name"), f"{where}.name"),
        mac=_text(fold(doc, "mac"), f"{where}.mac"),
        sandbox=_text(fold(doc, "sandbox"), f"{where}.sandbox"),
        mtu=_number(fold(doc, "mtu"), f"{where}.mtu") or 0,
        socket_path=_text(fold(doc, "socketPath"), f"{where}.socketPath"),
        pci_id=_text(fold(doc, "pciID"), f"{where}.pciID"),
    )


def _decode_address(value: object, where: str, interfaces: int) -> Address:
    doc = _object(value, where)
    index = _number(fold(doc, "interface"), f"{where}.interface")
    # One beyond the list is an interface that a plugin did not tell of; the reference takes it as nobody's.
    if index is not None and (index < 0 or (index > 0 and not interfaces)):
        raise CniError(
            Code.DECODING, f"{where}.interface is {index}, but the result has {interfaces} interfaces"
        )
    return Address(
        address=_parsed(parse_cidr, fold(doc, "address"), f"{where}.address", "an address like 10.1.0.5/24"),
        gateway=_ip_or_none(fold(doc, "gateway"), f"{where}.gateway"),
        interface=index,
    )


def _decode_oldest(doc: JsonObject, where: str) -> Result:
    ips: list[Address] = []
    routes: list[Route] = []
    for key in ("ip4", "ip6"):
        value = fold(doc, key)
        if value is None:
            continue
        entry = _object(value, f"{where}.{key}")
        address = _parsed(parse_cidr, fold(entry, "ip"), f"{where}.{key}.ip", "an address like 10.1.0.5/24")
        ips.append(Address(address, _ip_or_none(fold(entry, "gateway"), f"{where}.{key}.gateway")))
        listed = _items(fold(entry, "routes"), f"{where}.{key}.routes")
        routes += [decode_route(item, f"{where}.{key}.routes[{n}]") for n, item in enumerate(listed)]
    return Result(ips=tuple(ips), routes=tuple(routes), dns=decode_dns(fold(doc, "dns"), f"{where}.dns"))


def decode(value: object, version: str, where: str = "prevResult") -> Result:
    """A result of wire shape `version` (the document's own cniVersion wins). CniError 1 or 6 naming
    `where`.
    """
    if value is None:
        return Result()
    doc = _object(value, where)
    own = _text(fold(doc, "cniVersion"), f"{where}.cniVersion") or version
    if own not in VERSIONS:
        raise CniError(
            Code.INCOMPATIBLE_VERSION,
            f"{where}.cniVersion is {own!r}",
            f"supported are {', '.join(VERSIONS)}",
        )
    if not at_least(own, "0.3.0"):
        return _decode_oldest(doc, where)
    interfaces = _items(fold(doc, "interfaces"), f"{where}.interfaces")
    ips = _items(fold(doc, "ips"), f"{where}.ips")
    routes = _items(fold(doc, "routes"), f"{where}.routes")
    return Result(
        interfaces=tuple(
            _decode_interface(item, f"{where}.interfaces[{n}]") for n, item in enumerate(interfaces)
        ),
        ips=tuple(_decode_address(item, f"{where}.ips[{n}]", len(interfaces)) for n, item in enumerate(ips)),
        routes=tuple(decode_route(item, f"{where}.routes[{n}]") for n, item in enumerate(routes)),
        dns=decode_dns(fold(doc, "dns"), f"{where}.dns"),
    )


def encode_dns(dns: Dns) -> JsonObject:
    fields: tuple[tuple[str, Any], ...] = (
        ("nameservers", list(dns.nameservers)),
        ("domain", dns.domain),
        ("search", list(dns.search)),
        ("options", list(dns.options)),
    )
    return {key: value for key, value in fields if value}


def _encode_route(route: Route, *, brief: bool = False) -> JsonObject:
    doc: JsonObject = {"dst": str(route.dst)}
    if route.gw is not None:
        doc["gw"] = str(route.gw)
    if not brief:
        for key in ("mtu", "advmss", "priority", "table", "scope"):
            value = getattr(route, key)
            if value is not None:
                doc[key] = value
    return doc


def _encode_oldest(result: Result) -> JsonObject:
    doc: JsonObject = {}
    for key, family in (("ip4", 4), ("ip6", 6)):
        first = next((entry for entry in result.ips if entry.address.version == family), None)
        if first is None:
            continue
        entry: JsonObject = {"ip": str(first.address)}
        if first.gateway is not None:
            entry["gateway"] = str(first.gateway)
        routes = [_encode_route(route, brief=True) for route in result.routes if route.dst.version == family]
        if routes:
            entry["routes"] = routes
        doc[key] = entry
    return doc


def _encode_interface(interface: Interface, version: str) -> JsonObject:
    fields: tuple[tuple[str, Any], ...] = (("mac", interface.mac), ("sandbox", interface.sandbox))
    if at_least(version, "1.1.0"):
        fields += (("mtu", interface.mtu), ("socketPath", interface.socket_path), ("pciID", interface.pci_id))
    return {"name": interface.name} | {key: value for key, value in fields if value}


def _encode_address(entry: Address, version: str) -> JsonObject:
    doc: JsonObject = {}
    if not at_least(version, "1.0.0"):
        doc["version"] = str(entry.address.version)
    if entry.interface is not None:
        doc["interface"] = entry.interface
    doc["address"] = str(entry.address)
    if entry.gateway is not None:
        doc["gateway"] = str(entry.gateway)
    return doc


def encode(result: Result, version: str, *, mesos: bool = False) -> JsonObject:
    """The JSON object of `version`; with `mesos`, `ip4` and `ip6` stand beside the lists of any version."""
    doc: JsonObject = {"cniVersion": version}
    if at_least(version, "0.3.0"):
        if result.interfaces:
            doc["interfaces"] = [_encode_interface(interface, version) for interface in result.interfaces]
        if result.ips:
            doc["ips"] = [_encode_address(entry, version) for entry in result.ips]
        if result.routes:
            doc["routes"] = [_encode_route(route) for route in result.routes]
        if mesos:
            doc |= _encode_oldest(result)
    else:
        doc |= _encode_oldest(result)
    if result.dns or not at_least(version, "1.0.0"):
        doc["dns"] = encode_dns(result.dns)
    return doc
