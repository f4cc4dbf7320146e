"""What an operator wants changed of attachments that are there: read from `KEY=VALUE`, typed.

mtu=1400                                  routes+=10.8.0.0/16@10.50.0.9   routes-=10.8.0.0/16
addresses+=10.50.0.77/16                  addresses-=10.50.0.77           gateway=10.50.0.254
dns.nameservers=10.0.0.2,10.0.0.3         dns.search=a.example            sysctl.net.core.somaxconn=500
ingressRate=50000000 ingressBurst=800000  ports+=8080:80/tcp              ports-=8080/tcp
macspoofchk=true  portIsolation=true  hairpinMode=false                   groups=web,db  labels.tier=front
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cni_plugins.spec.config import BOOL, integer, mtu
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Route
from cni_plugins.spec.values import Ip, IpInterface, parse_cidr, parse_ip

FLAGS = ("macspoofchk", "portIsolation", "hairpinMode")
LIMITS = ("ingressRate", "ingressBurst", "egressRate", "egressBurst", "latency")
LISTS = ("routes", "addresses", "ports")
DNS = ("nameservers", "search", "options", "domain")

#: Why a key of a configuration cannot be changed under a running container.
FIXED: Mapping[str, str] = {
    "type": "another kind of interface is another interface: attach the container anew",
    "bridge": "moving a port to another bridge cuts every flow: attach the container anew",
    "master": "a link stays on the link that it was made on: attach the container anew",
    "vlan": "the kernel makes a new interface for another VLAN: attach the container anew",
    "vlanTrunk": "membership of VLANs is part of the port as it was made: attach the container anew",
    "mode": "all containers of one master share what a mode means: attach the containers anew",
    "mac": "every neighbour has the old address in its table: attach the container anew",
    "hostInterface": "programs and rules know the interface by its name: attach the container anew",
    "isGateway": "whether the bridge is the gateway is the network's, not one container's",
    "isDefaultGateway": "change the route itself: gateway=ADDRESS",
    "ipMasqBackend": "rules of two backends would translate twice: attach the container anew",
    "backend": "rules of two backends would translate twice: attach the container anew",
    "ipMasq": "translated flows would break, others begin untranslated: attach the container anew",
    "nptv6": "each flow would go on with an address that its peer does not know: attach the container anew",
    "policy": "the default is the network's, for all its containers: edit its file, and attach them anew; "
    "`mesokit policy` changes what a container may do",
    "policyLabels": "which labels count is the network's: edit its file",
    "plugins": "the list is the network's: edit its file",
    "ipam": "an address that a container has is kept: see addresses+= and addresses-=",
}


@dataclass(frozen=True, slots=True)
class PortMap:
    """A published port; `container_port` 0 when it is only named, to be removed. `family` is 0 for both; a
    `host_ip` of None is every address of it.
    """

    protocol: str
    host_port: int
    container_port: int = 0
    host_ip: Ip | None = None
    family: int = 0

    @property
    def key(self) -> tuple[str, int, Ip | None]:
        return self.protocol, self.host_port, self.host_ip


@dataclass(frozen=True, slots=True)
class Changes:
    """None and empty leave things alone. `keys` are those that were named, in their order."""

    keys: tuple[str, ...] = ()
    mtu: int | None = None
    routes: tuple[Route, ...] = ()
    no_routes: tuple[IpInterface, ...] = ()
    addresses: tuple[IpInterface, ...] = ()
    no_addresses: tuple[Ip, ...] = ()
    gateways: tuple[Ip, ...] = ()
    dns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sysctls: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    flags: Mapping[str, bool] = field(default_factory=dict)
    ports: tuple[PortMap, ...] = ()
    no_ports: tuple[PortMap, ...] = ()
    groups: tuple[str, ...] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def inside(self) -> bool:
        """Whether something of the container's interface is to be changed."""
        listed = (self.routes, self.no_routes, self.addresses, self.no_addresses, self.gateways)
        return self.mtu is not None or any(listed)


def _bad(key: str, value: object, expected: str) -> CniError:
    return CniError(Code.INVALID_CONFIG, f"{key} is {value!r}, which is not {expected}")


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _named(key: str, text: str) -> tuple[str, ...]:
    """The words of a list that must name something. CniError 7."""
    words = _words(text)
    if not words:
        raise CniError(Code.INVALID_CONFIG, f"{key} names nothing")
    twice = sorted({word for word in words if words.count(word) > 1})
    if twice:
        raise CniError(Code.INVALID_CONFIG, f"{key} has {twice[0]!r} twice")
    return words


def _read(key: str, text: str, parse: Callable[[str], Any], expected: str) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        raise _bad(key, text, expected) from error


def _route(text: str) -> Route:
    destination, at, gateway = text.partition("@")
    if at and not gateway:
        raise _bad("routes", text, "a route with its gateway behind '@'")
    where = "::/0" if destination == "default" and ":" in gateway else destination
    dst = _read("routes", "0.0.0.0/0" if where == "default" else where, parse_cidr, "a network")
    if dst.ip.is_loopback:
        raise _bad("routes", text, "a network beyond the container itself")
    gw = _read("routes", gateway, parse_ip, "an address behind '@'") if gateway else None
    if gw is not None and (gw.is_unspecified or gw.is_multicast or gw.is_loopback):
        raise _bad("routes", text, "a route whose gateway can be one")
    if gw is not None and gw.version != dst.version:
        raise _bad("routes", text, "a route whose gateway is of its destination's family")
    return Route(dst, gw)


def _port(text: str, *, named: bool) -> PortMap:
    body, _, protocol = text.partition("/")
    protocol = protocol or "tcp"
    expected = "a port like 8080/tcp" if named else "a mapping like 8080:80/tcp or 10.0.0.1:8080:80/udp"
    if protocol not in {"tcp", "udp", "sctp"}:
        raise _bad("ports", text, expected)
    words = body.rsplit(":", 1 if named else 2)
    numbers = words[-1:] if named else words[-2:]
    host = words[: -len(numbers)]
    ports = [int(item) for item in numbers if item.isascii() and item.isdigit() and 0 < int(item) < 65536]
    if len(ports) != (1 if named else 2):
        raise _bad("ports", text, expected)
    try:
        address = parse_ip(host[0].strip("[]")) if host else None
    except ValueError as error:
        raise _bad("ports", text, expected) from error
    family = address.version if address is not None else 0
    address = None if address is not None and address.is_unspecified else address
    return PortMap(protocol, ports[0], 0 if named else ports[1], address, family)


def _number(kind: Any, key: str, text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise _bad(key, text, "a whole number")
    number: int = kind.at(int(text), key)
    return number


def _flag(key: str, text: str) -> bool:
    if text not in {"true", "false"}:
        raise _bad(key, text, "true or false")
    return bool(BOOL.at(text == "true", key))


def _added(key: str, text: str, changes: Changes) -> Changes:
    words = _named(f"{key}+=", text) if key in LISTS else ()
    if key == "routes":
        return replace(changes, routes=changes.routes + tuple(map(_route, words)))
    if key == "addresses":
        made = tuple(
            _read(key, word, parse_cidr, "an address with its prefix length") if "/" in word else _bare(word)
            for word in words
        )
        return replace(changes, addresses=changes.addresses + made)
    if key == "ports":
        return replace(changes, ports=changes.ports + tuple(_port(word, named=False) for word in words))
    raise CniError(Code.INVALID_CONFIG, f"{key} is one value: write {key}=, not {key}+=")


def _bare(word: str) -> IpInterface:
    raise _bad("addresses", word, "an address with its prefix length, like 10.50.0.77/16")


def _removed(key: str, text: str, changes: Changes) -> Changes:
    words = _named(f"{key}-=", text) if key in LISTS else ()
    if key == "routes":
        return replace(changes, no_routes=changes.no_routes + tuple(_route(word).dst for word in words))
    if key == "addresses":
        found = tuple(_read(key, word.partition("/")[0], parse_ip, "an address") for word in words)
        return replace(changes, no_addresses=changes.no_addresses + found)
    if key == "ports":
        return replace(changes, no_ports=changes.no_ports + tuple(_port(word, named=True) for word in words))
    raise CniError(Code.INVALID_CONFIG, f"{key} is one value: there is no {key}-=")


def _set(key: str, text: str, changes: Changes) -> Changes:
    if key == "mtu":
        if text.strip("0") == "":
            raise _bad(key, text, "an MTU: the smallest is 68, with IPv6 1280")
        return replace(changes, mtu=_number(mtu(65535), key, text))
    if key == "gateway":
        found = tuple(_read(key, word, parse_ip, "an address") for word in _named(key, text))
        if len({item.version for item in found}) < len(found):
            raise _bad(key, text, "one address of each family")
        return replace(changes, gateways=found)
    if key in FLAGS:
        return replace(changes, flags={**changes.flags, key: _flag(key, text)})
    if key in LIMITS:
        return replace(changes, limits={**changes.limits, key: _number(integer(0, 2**63 - 1), key, text)})
    if key == "groups":
        return replace(changes, groups=_words(text))
    return _set_part(key, text, changes)


def _set_part(key: str, text: str, changes: Changes) -> Changes:
    first, _, rest = key.partition(".")
    if first == "dns" and rest in DNS:
        return replace(changes, dns={**changes.dns, rest: _words(text)})
    if first == "sysctl" and rest:
        if not text.strip():
            raise _bad(key, text, "a value")
        return replace(changes, sysctls={**changes.sysctls, rest: text.strip()})
    if first == "labels" and rest:
        return replace(changes, labels={**changes.labels, rest: text})
    if key in LISTS:
        raise CniError(Code.INVALID_CONFIG, f"{key} is a list: write {key}+= or {key}-=")
    if first in FIXED:
        raise CniError(Code.INVALID_CONFIG, f"{key} cannot be changed in place: {FIXED[first]}")
    raise CniError(
        Code.INVALID_CONFIG,
        f"{key!r} is no key that can be changed",
        "mtu, routes+=/-=, addresses+=/-=, gateway, dns.nameservers, dns.search, dns.options, dns.domain, "
        f"sysctl.NAME, {', '.join(LIMITS)}, ports+=/-=, {', '.join(FLAGS)}, groups, labels.NAME",
    )


def parse(words: Sequence[str]) -> Changes:
    """`KEY=VALUE`, `KEY+=VALUE` and `KEY-=VALUE`. CniError 7 naming the key and the value."""
    changes = Changes()
    keys: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise CniError(Code.INVALID_CONFIG, f"{word!r} is not KEY=VALUE")
        key = name[:-1] if name.endswith(("+", "-")) else name
        how = {"+": _added, "-": _removed}.get(name[len(key) :], _set)
        changes = how(key, value, changes)
        if how is _set and key in keys:
            raise CniError(Code.INVALID_CONFIG, f"{key} is given twice: {key}={value} is the second")
        keys.append(key)
    _require_once(changes)
    return replace(changes, keys=tuple(dict.fromkeys(keys)))


def _require_once(changes: Changes) -> None:
    """CniError 7 for what several words name."""
    named: Mapping[str, list[object]] = {
        "routes": [*(item.dst.network for item in changes.routes), *(n.network for n in changes.no_routes)],
        "addresses": [*(item.ip for item in changes.addresses), *changes.no_addresses],
    }
    for key, items in named.items():
        for item in items:
            if items.count(item) > 1:
                raise CniError(Code.INVALID_CONFIG, f"{key}: {item} is given twice")
