"""The kinds of steps, and steps as JSON.

A kind's name stands in records: it never changes, and neither do the fields of its class, but for new ones
with a default. The JSON is made from the dataclass: numbers, strings, booleans and null stand for themselves,
addresses and enumerations for their text, tuples for lists, dataclasses for objects.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum, StrEnum
from functools import cache, partial
from types import UnionType
from typing import Any, Union, get_args, get_origin

from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.values import Ip, IpInterface, JsonObject, parse_cidr, parse_ip
from cni_plugins.steps.step import Step


class Kind(StrEnum):
    """Of a step, as records name it."""

    ADDED_ADDRESSES = "added-addresses"
    ADDED_HOST_ROUTES = "added-host-routes"
    ADDED_ROUTES = "added-routes"
    ADDRESSES = "addresses"
    ADMIT = "admit"
    ADVERTISED_ROUTERS = "advertised-routers"
    BRIDGE = "bridge"
    BRIDGE_PORT = "bridge-port"
    BUCKET_CHANGE = "bucket-change"
    CHILD_LINK = "child-link"
    DNS_FILE = "dns-file"
    DELEGATE = "delegate"
    DHCP_LEASE = "dhcp-lease"
    DELEGATE_FILE = "delegate-file"
    FENCE = "fence"
    FORWARDING = "forwarding"
    GATEWAY = "gateway"
    HOST_DEVICE = "host-device"
    HOST_ROUTES = "host-routes"
    LIMIT_RECEIVING = "limit-receiving"
    LIMIT_SENDING = "limit-sending"
    LINK_SETTINGS = "link-settings"
    LOCALNET = "localnet"
    MASQUERADE = "masquerade"
    NPTV6 = "nptv6"
    POLICY_CHANGE = "policy-change"
    POLICY_ENDPOINT = "policy-endpoint"
    PORT_FLAGS = "port-flags"
    PORT_CLAIMS = "port-claims"
    PORTS = "ports"
    PORTS_CHANGE = "ports-change"
    PREFIX_LEASE = "prefix-lease"
    REPLACED_ROUTE = "replaced-route"
    RESERVATION = "reservation"
    SOURCE_ROUTING = "source-routing"
    SPOOF_CHECK = "spoof-check"
    SYSCTL = "sysctl"
    TAP = "tap"
    VETH = "veth"
    VLAN_GATEWAY = "vlan-gateway"
    VRF_PORT = "vrf-port"


#: Module (of this package) and class. Imported when first needed: a call needs a few of them.
_CLASSES: Mapping[Kind, tuple[str, str]] = {
    Kind.ADDED_ADDRESSES: ("change", "AddedAddresses"),
    Kind.ADDED_HOST_ROUTES: ("change", "AddedHostRoutes"),
    Kind.ADDED_ROUTES: ("change", "AddedRoutes"),
    Kind.ADDRESSES: ("addresses", "Addresses"),
    Kind.ADMIT: ("firewall", "Admit"),
    Kind.ADVERTISED_ROUTERS: ("forwarding", "AdvertisedRouters"),
    Kind.BRIDGE: ("bridge", "Bridge"),
    Kind.BRIDGE_PORT: ("bridge", "BridgePort"),
    Kind.BUCKET_CHANGE: ("change", "BucketChange"),
    Kind.CHILD_LINK: ("child_link", "ChildLink"),
    Kind.DELEGATE: ("delegate", "Delegate"),
    Kind.DHCP_LEASE: ("dhcp_lease", "DhcpLease"),
    Kind.DELEGATE_FILE: ("delegate_file", "DelegateFile"),
    Kind.FENCE: ("firewall", "Fence"),
    Kind.DNS_FILE: ("dns_file", "DnsFile"),
    Kind.FORWARDING: ("forwarding", "Forwarding"),
    Kind.GATEWAY: ("bridge", "Gateway"),
    Kind.HOST_DEVICE: ("host_device", "HostDevice"),
    Kind.HOST_ROUTES: ("host_routes", "HostRoutes"),
    Kind.LIMIT_RECEIVING: ("shaping", "LimitReceiving"),
    Kind.LIMIT_SENDING: ("shaping", "LimitSending"),
    Kind.LINK_SETTINGS: ("link_settings", "LinkSettings"),
    Kind.LOCALNET: ("localnet", "Localnet"),
    Kind.MASQUERADE: ("masquerade", "Masquerade"),
    Kind.NPTV6: ("nptv6", "Nptv6"),
    Kind.POLICY_CHANGE: ("policy", "PolicyChange"),
    Kind.POLICY_ENDPOINT: ("policy", "PolicyEndpoint"),
    Kind.PORT_FLAGS: ("change", "PortFlags"),
    Kind.PORT_CLAIMS: ("ports", "PortClaims"),
    Kind.PORTS: ("ports", "Ports"),
    Kind.PORTS_CHANGE: ("ports", "PortsChange"),
    Kind.PREFIX_LEASE: ("prefix_lease", "PrefixLease"),
    Kind.REPLACED_ROUTE: ("change", "ReplacedRoute"),
    Kind.RESERVATION: ("reservation", "Reservation"),
    Kind.SOURCE_ROUTING: ("source_routing", "SourceRouting"),
    Kind.SPOOF_CHECK: ("spoof", "SpoofCheck"),
    Kind.SYSCTL: ("sysctl", "Sysctl"),
    Kind.TAP: ("tap", "Tap"),
    Kind.VETH: ("veth", "Veth"),
    Kind.VLAN_GATEWAY: ("vlan", "VlanGateway"),
    Kind.VRF_PORT: ("vrf", "VrfPort"),
}
_KINDS: Mapping[tuple[str, str], Kind] = {place: kind for kind, place in _CLASSES.items()}


@cache
def load(kind: Kind) -> type[Step]:
    """The class of a kind."""
    module, name = _CLASSES[kind]
    found: type[Step] = getattr(importlib.import_module(f"cni_plugins.steps.{module}"), name)
    return found


def kind_of(step: Step) -> Kind:
    """The kind of a step."""
    cls = type(step)
    return _KINDS[cls.__module__.rpartition(".")[2], cls.__name__]


def encode(step: Step) -> JsonObject:
    """A step's fields as JSON."""
    return _fields_of(step)


def _fields_of(value: Any) -> JsonObject:
    found = {name: getattr(value, name) for name in type(value).__dataclass_fields__}
    for name, item in found.items():
        if type(item) not in _PLAIN:
            found[name] = _plain(item)
    return found


_PLAIN = frozenset((type(None), bool, int, str))


def _plain(value: Any) -> Any:
    if type(value) in _PLAIN:
        return value
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if is_dataclass(value):
        return _fields_of(value)
    return str(value)


@cache
def _load(name: str) -> type[Step]:
    return load(Kind(name))


def class_of(line: JsonObject) -> type[Step]:
    """The class of the step of a record's line. CniError 999 for a kind that this release does not know."""
    name = line.get("step")
    try:
        return _load(str(name))
    except ValueError:
        raise CniError(
            Code.INTERNAL,
            f"the attachment record has a step {name!r}, which this release does not know",
            "a newer release wrote it: install that again and repeat the call; the record was left as it is",
        ) from None


def decode(line: JsonObject) -> Step:
    """The step of a record's line. CniError 999 for a kind or a field that this release does not know, or for
    what is no step.
    """
    name, cls = line.get("step"), class_of(line)
    try:
        step: Step = _object(cls, line["args"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CniError(
            Code.INTERNAL,
            f"the attachment record has a step {name!r} whose fields this release does not understand",
            f"{type(error).__name__}: {error}; the record was left as it is",
        ) from error
    return step


def _object(cls: type[Any], values: Mapping[str, Any]) -> Any:
    readers = _readers(cls)
    return cls(**{key: readers[key](value) for key, value in values.items()})


def _readers(cls: type[Any]) -> Mapping[str, Callable[[Any], Any]]:
    found = _known_readers.get(cls)
    if found is None:
        found = _known_readers[cls] = {item.name: _reader(item.type) for item in fields(cls)}
    return found


_known_readers: dict[type[Any], Mapping[str, Callable[[Any], Any]]] = {}
_PARSED: Mapping[Any, Callable[[Any], Any]] = {IpInterface: parse_cidr, Ip: parse_ip}


def _reader(kind: Any) -> Callable[[Any], Any]:
    """What makes a value of the type `kind` from JSON; TypeError or ValueError when it cannot."""
    origin, inside = get_origin(kind), get_args(kind)
    read: Callable[[Any], Any]
    if kind in _PARSED:
        read = _PARSED[kind]
    elif kind in (str, int, bool):
        read = _same(kind)
    elif origin in (Union, UnionType):
        read = _optional(inside)
    elif origin is tuple:
        read = _several(inside)
    elif origin is dict:
        read = dict
    elif is_dataclass(kind) and isinstance(kind, type):
        read = partial(_object, kind)
    elif isinstance(kind, type) and issubclass(kind, Enum):
        read = kind
    else:
        raise TypeError(f"steps cannot have a field of type {kind}")
    return read


def _several(inside: tuple[Any, ...]) -> Callable[[Any], Any]:
    """Of a tuple: any number of one type, or so many of these."""
    if len(inside) == 2 and inside[1] is Ellipsis:
        each = _reader(inside[0])
        return lambda value: tuple(each(item) for item in value)
    readers = tuple(_reader(item) for item in inside)
    return lambda value: tuple(read(item) for read, item in zip(readers, value, strict=True))


def _same(kind: type[Any]) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if type(value) is not kind:
            raise TypeError(f"{value!r} is no {kind.__name__}")
        return value

    return read


def _optional(inside: tuple[Any, ...]) -> Callable[[Any], Any]:
    """Of a union with None; of two addresses, or of plain types."""
    rest = tuple(item for item in inside if item is not type(None))
    if rest == get_args(Ip):
        read: Callable[[Any], Any] = parse_ip
    elif rest == get_args(IpInterface):
        read = parse_cidr
    elif len(rest) == 1:
        read = _reader(rest[0])
    else:

        def read(value: Any) -> Any:
            if type(value) not in rest:
                raise TypeError(f"{value!r} is none of {rest}")
            return value

    return lambda value: None if value is None else read(value)
