"""Typed configurations: a frozen dataclass per plugin, whose fields carry all that is known of each key.

`option()` declares a key; `decode()` makes the dataclass of a JSON object; the documentation is printed from
the same metadata. Keys are matched as Go's decoder does: case ignored, the last of several spellings wins;
null means the default. Unknown keys belong to somebody else and pass, but one that is a slip of the pen away
from a known one is refused, because a plugin that silently ignores `isGatway` is worse than one that fails.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, TypeVar

from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.values import JsonObject, dump_json, parse_cidr, parse_ip, parse_mac

T = TypeVar("T")

MINIMUM_MTU = 68

COMMON_KEYS = frozenset(
    [
        "cniVersion",
        "cniVersions",
        "name",
        "type",
        "ipam",
        "dns",
        "args",
        "runtimeConfig",
        "prevResult",
        "capabilities",
        "disableCheck",
        "disableGC",
        "loadOnlyInlinedPlugins",
        "delegate",
        "plugins",
        "networkInfoLabels",
    ]
)


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of value: what the documentation calls it, and how it is made of JSON (ValueError: what is
    wrong).

    A kind with parts (a list, an object) has `within`, which is also told where the value stands and names
    the part that is wrong (CniError). With `blank`, an empty string means that there is none: Go writes one
    for an address or a name that was never set.
    """

    name: str
    parse: Callable[[Any], Any]
    schema: type[Any] | None = None
    within: Callable[[Any, str], Any] | None = None
    blank: bool = False

    def at(self, value: Any, where: str) -> Any:
        """The value that stands at `where` in a configuration. CniError 7 naming the place and the value."""
        if self.within is not None:
            return self.within(value, where)
        try:
            return self.parse(value)
        except ValueError as error:
            raise CniError(Code.INVALID_CONFIG, f"{where} is {shown(value)}: {error}") from error


def _structure(name: str, within: Callable[[Any, str], Any], schema: type[Any] | None = None) -> Kind:
    return Kind(name, lambda value: within(value, name), schema, within)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("not a string")
    if "\0" in value:
        raise ValueError("it has a NUL character")
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("not true or false")
    return value


def _mac(value: Any) -> str:
    mac = parse_mac(_text(value))
    if int(mac[:2], 16) & 1:
        raise ValueError("a multicast MAC address, which no interface can have")
    if mac == "00:00:00:00:00:00":
        raise ValueError("the MAC address of nobody, which no interface can have")
    return mac


def _interface_name(value: Any) -> str:
    text = _text(value)
    if not is_interface_name(text):
        raise ValueError("not an interface name (1 to 15 bytes, no '/', ':' or space)")
    return text


def _object(value: Any) -> JsonObject:
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def _absolute_path(value: Any) -> str:
    text = _text(value)
    if not text.startswith("/"):
        raise ValueError(
            "not an absolute path: a service and a program of its own would take it from different places"
        )
    return text


def _ip(value: Any) -> Any:
    return parse_ip(_text(value))


def _cidr(value: Any) -> Any:
    return parse_cidr(_text(value))


def is_interface_name(text: str) -> bool:
    """Whether the kernel takes `text` as an interface's name (dev_valid_name in net/core/dev.c)."""
    return (
        0 < len(text.encode("utf-8", "replace")) <= 15
        and text not in {".", ".."}
        and not any(char in "/:\0" or char.isspace() or "\ud800" <= char <= "\udfff" for char in text)
    )


TEXT = Kind("string", _text)
BOOL = Kind("boolean", _boolean)
MAC_ADDRESS = Kind("MAC address", _mac, blank=True)
INTERFACE_NAME = Kind("interface name", _interface_name, blank=True)
OBJECT = Kind("object", _object)
IP = Kind("IP address", _ip, blank=True)
CIDR = Kind("address/length", _cidr, blank=True)
ABSOLUTE_PATH = Kind("absolute path", _absolute_path, blank=True)
ANY = Kind("any", lambda value: value)


def integer(low: int, high: int) -> Kind:
    """A whole number from `low` to `high`, both included; never made of a string, a boolean or a fraction."""

    def parse(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError("not a whole number")
        if not low <= value <= high:
            raise ValueError(f"not within {low} to {high}")
        return value

    return Kind(f"integer {low} to {high}", parse)


def mtu(high: int) -> Kind:
    """A maximum transmission unit of at most `high` bytes; 0 stands for "not given", and below 68 no
    interface carries IPv4 (RFC 791; ETH_MIN_MTU in linux/if_ether.h)."""

    def parse(value: Any) -> int:
        number: int = integer(0, high).parse(value)
        if 0 < number < MINIMUM_MTU:
            raise ValueError(f"less than {MINIMUM_MTU}, the smallest that the kernel takes")
        return number

    return Kind(f"0 or {MINIMUM_MTU} to {high}", parse)


def one_of(*values: str) -> Kind:
    def parse(value: Any) -> str:
        if value not in values:
            raise ValueError(f"not one of {', '.join(values)}")
        return str(value)

    return Kind(" or ".join(f"`{value}`" for value in values), parse, blank=True)


def list_of(item: Kind) -> Kind:
    def within(value: Any, where: str) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise CniError(Code.INVALID_CONFIG, f"{where} is {shown(value)}: not a list")
        return tuple(item.at(entry, f"{where}[{number}]") for number, entry in enumerate(value))

    return _structure(f"list of {item.name}", within, item.schema)


def map_of(item: Kind) -> Kind:
    def within(value: Any, where: str) -> dict[str, Any]:
        entries: JsonObject = OBJECT.at(value, where)
        return {key: item.at(entry, f"{where}[{key!r}]") for key, entry in entries.items()}

    return _structure(f"object of {item.name}", within)


def nested(schema: type[Any]) -> Kind:
    """An object with keys of its own, declared by another dataclass."""
    return _structure(
        "object", lambda value, where: decode(schema, OBJECT.at(value, where), where=f"{where}."), schema
    )


def parsed_by(name: str, parse: Callable[[Any, str], Any]) -> Kind:
    """A kind from a decoder of `spec.result` (which raises CniError naming the place)."""
    return _structure(name, parse)


def option(key: str, kind: Kind, default: Any, about: str) -> Any:
    """A field of a configuration: the JSON key, its kind, its default, and one line for the documentation."""
    return field(default=default, metadata={"key": key, "kind": kind, "about": about})


@dataclass(frozen=True, slots=True)
class Key:
    """What `option()` was told, for the decoder and the documentation."""

    attribute: str
    key: str
    kind: Kind
    default: Any
    about: str


_described: dict[type[Any], tuple[Key, ...]] = {}
_by_folded: dict[type[Any], Mapping[str, Key]] = {}


def keys_of(schema: type[Any]) -> tuple[Key, ...]:
    """The keys of a configuration dataclass, in the order they were declared."""

    def describe(item: Field[Any]) -> Key:
        default = None if item.default is MISSING else item.default
        return Key(item.name, item.metadata["key"], item.metadata["kind"], default, item.metadata["about"])

    if schema not in _described:
        _described[schema] = tuple(describe(item) for item in fields(schema) if "key" in item.metadata)
    return _described[schema]


def _folded(schema: type[Any]) -> Mapping[str, Key]:
    """The keys of a configuration dataclass by their names without case."""
    if schema not in _by_folded:
        _by_folded[schema] = {key.key.casefold(): key for key in keys_of(schema)}
    return _by_folded[schema]


def _near(unknown: str, known: Iterable[str]) -> str | None:
    """The known key that `unknown` is a slip away from: punctuation, or one letter added, lost, changed or
    swapped.
    """
    plain = unknown.casefold().replace("_", "").replace("-", "")
    for key in known:
        target = key.casefold()
        if plain == target or (len(target) >= 6 and _one_slip(plain, target)):
            return key
    return None


def _one_slip(a: str, b: str) -> bool:
    if abs(len(a) - len(b)) > 1 or a == b:
        return False
    start = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    rest_a, rest_b = a[start:], b[start:]
    return (
        rest_a[1:] == rest_b
        or rest_a == rest_b[1:]
        or rest_a[1:] == rest_b[1:]
        or (rest_a[:2] == rest_b[1::-1] and len(rest_b) > 1 and rest_a[2:] == rest_b[2:])
    )


def decode(
    schema: type[T],
    doc: Mapping[str, Any],
    *,
    lenient: bool = False,
    where: str = "",
    unknown: Callable[[str], None] | None = None,
) -> T:
    """Make a `schema` of the JSON object `doc`, which stands at `where` (`ipam.`) in the configuration.

    CniError 7 or 2 names the key and the value. With `lenient` (DEL, which needs no valid configuration) a
    bad value is its default and nothing is refused. `unknown` is told of each key that the schema has not.
    """
    known = _folded(schema)
    values: dict[str, Any] = {}
    for name, value in doc.items():
        key = known.get(name.casefold())
        if key is None:
            if not lenient:
                _refuse_near_miss(name, value, known.values(), where)
            if unknown is not None:
                unknown(name)
            continue
        if value is None or (key.kind.blank and value == ""):
            values.pop(key.attribute, None)
            continue
        try:
            values[key.attribute] = key.kind.at(value, f"{where}{key.key}")
        except CniError:
            if not lenient:
                raise
    return schema(**values)


def _refuse_near_miss(name: str, value: Any, known: Iterable[Key], where: str) -> None:
    if name in COMMON_KEYS or name.startswith("cni.dev/"):
        return
    near = _near(name, [key.key for key in known])
    if near is not None:
        of = f" of {where.rstrip('.')}" if where else ""
        raise CniError(
            Code.UNSUPPORTED_FIELD,
            f"unknown key {name!r}{of} (value {shown(value)}): is {near!r} meant?",
        )


def shown(value: Any) -> str:
    """A value of a configuration as an error quotes it: not all of what may be megabytes."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def quoted(text: str) -> str:
    """A text as the reference plugins quote it in their errors (Go's %q), cut like any other value."""
    return dump_json(text if len(text) <= 80 else text[:77] + "...")
