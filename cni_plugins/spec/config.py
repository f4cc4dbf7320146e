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
from cni_plugins.spec.values import MAC, JsonObject, parse_cidr, parse_ip

T = TypeVar("T")

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
    """

    name: str
    parse: Callable[[Any], Any]
    schema: type[Any] | None = None


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
    if not isinstance(value, str) or not MAC.fullmatch(value):
        raise ValueError("not a MAC address like 0a:58:0a:01:00:02")
    if int(value[:2], 16) & 1:
        raise ValueError("a multicast MAC address, which no interface can have")
    return value.lower()


def _interface_name(value: Any) -> str:
    text = _text(value)
    if not is_interface_name(text):
        raise ValueError("not an interface name (1 to 15 bytes, no '/', ':' or space)")
    return text


def _object(value: Any) -> JsonObject:
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


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
MAC_ADDRESS = Kind("MAC address", _mac)
INTERFACE_NAME = Kind("interface name", _interface_name)
OBJECT = Kind("object", _object)
IP = Kind("IP address", _ip)
CIDR = Kind("address/length", _cidr)
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


def one_of(*values: str) -> Kind:
    def parse(value: Any) -> str:
        if value not in values:
            raise ValueError(f"not one of {', '.join(values)}")
        return str(value)

    return Kind(" or ".join(f"`{value}`" for value in values), parse)


def list_of(item: Kind) -> Kind:
    def parse(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ValueError("not a list")
        parsed = []
        for number, entry in enumerate(value):
            try:
                parsed.append(item.parse(entry))
            except ValueError as error:
                raise ValueError(f"[{number}]: {error}") from error
        return tuple(parsed)

    return Kind(f"list of {item.name}", parse, item.schema)


def map_of(item: Kind) -> Kind:
    def parse(value: Any) -> dict[str, Any]:
        parsed = {}
        for key, entry in _object(value).items():
            try:
                parsed[key] = item.parse(entry)
            except ValueError as error:
                raise ValueError(f"{key!r}: {error}") from error
        return parsed

    return Kind(f"object of {item.name}", parse)


def nested(schema: type[Any]) -> Kind:
    """An object with keys of its own, declared by another dataclass."""
    return Kind("object", lambda value: decode(schema, _object(value)), schema)


def parsed_by(name: str, parse: Callable[[Any, str], Any]) -> Kind:
    """A kind from a decoder of `spec.result` (which raises CniError naming the place)."""
    return Kind(name, lambda value: parse(value, name))


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


def keys_of(schema: type[Any]) -> tuple[Key, ...]:
    """The keys of a configuration dataclass, in the order they were declared."""

    def describe(item: Field[Any]) -> Key:
        default = None if item.default is MISSING else item.default
        return Key(item.name, item.metadata["key"], item.metadata["kind"], default, item.metadata["about"])

    if schema not in _described:
        _described[schema] = tuple(describe(item) for item in fields(schema) if "key" in item.metadata)
    return _described[schema]


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


def decode(schema: type[T], doc: Mapping[str, Any], *, lenient: bool = False) -> T:
    """Make a `schema` of the JSON object `doc`.

    CniError 7 or 2 names the key and the value. With `lenient` (DEL, which needs no valid configuration) a
    bad value is its default and nothing is refused.
    """
    known = {key.key.casefold(): key for key in keys_of(schema)}
    values: dict[str, Any] = {}
    for name, value in doc.items():
        key = known.get(name.casefold())
        if key is None:
            if not lenient:
                _refuse_near_miss(name, value, known.values())
            continue
        if value is None:
            values.pop(key.attribute, None)
            continue
        try:
            values[key.attribute] = key.kind.parse(value)
        except ValueError as error:
            if not lenient:
                raise CniError(Code.INVALID_CONFIG, f"{key.key} is {_shown(value)}: {error}") from error
        except CniError as error:
            if not lenient:
                raise CniError(error.code, f"{key.key}: {error.msg}", error.details) from error
    return schema(**values)


def _refuse_near_miss(name: str, value: Any, known: Iterable[Key]) -> None:
    if name in COMMON_KEYS or name.startswith("cni.dev/"):
        return
    near = _near(name, [key.key for key in known])
    if near is not None:
        raise CniError(
            Code.UNSUPPORTED_FIELD, f"unknown key {name!r} (value {_shown(value)}): is {near!r} meant?"
        )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
