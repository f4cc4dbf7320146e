"""Mesos' own mapping between protobuf messages and JSON, which is not the canonical one of proto3.

Names are the proto's (snake_case) and unknown ones are ignored; bytes are standard base64; 64-bit integers
are numbers, and numeric strings are taken too; an enum is its name, where an unrecognised one leaves an
optional field unset and fails a required one; a map is an object; an agent also writes unset optional fields
that have an explicit default. protobuf's json_format does none of these and is slow to import: not used.
"""

import binascii
import math
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

MAX_DEPTH = 100
"""Nested messages accepted, as in protobuf's own parsers: ContainerID.parent is a ContainerID."""

Json = Any

_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_FLOATS = (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT)


class JsonMappingError(ValueError):
    """A JSON document that does not describe the message; says which field and what stands there."""


def to_json(message: Message, *, explicit_defaults: bool = False) -> dict[str, Json]:
    """The JSON document of a message; with `explicit_defaults`, as an agent writes it."""
    document: dict[str, Json] = {}
    field: Any
    for field, value in message.ListFields():
        if is_map(field):
            of = field.message_type.fields_by_name["value"]
            document[field.name] = {
                str(key): _value_to_json(of, value[key], explicit_defaults) for key in sorted(value)
            }
        elif field.is_repeated:
            document[field.name] = [_value_to_json(field, item, explicit_defaults) for item in value]
        else:
            document[field.name] = _value_to_json(field, value, explicit_defaults)
    if explicit_defaults:
        for field in message.DESCRIPTOR.fields:
            if field.has_default_value and field.name not in document and not field.GetOptions().deprecated:
                document[field.name] = _value_to_json(field, field.default_value, explicit_defaults)
    return document


def fill_message(message: Message, document: Json, path: str = "", depth: int = 0) -> None:
    """Set the message's fields from a parsed JSON document. Raises JsonMappingError."""
    if not isinstance(document, dict):
        raise JsonMappingError(f"{path or 'the document'} must be an object, not {_brief(document)}")
    if depth > MAX_DEPTH:
        raise JsonMappingError(f"{path[:60]}… is nested more than {MAX_DEPTH} deep")
    fields: Any = message.DESCRIPTOR.fields_by_name
    for name, value in document.items():
        field = fields.get(name)
        # The descriptors' look-up stops at a zero byte: `value\0` would be found as `value`.
        if field is None or field.name != name or value is None:
            continue
        where = f"{path}.{name}" if path else name
        if is_map(field):
            _fill_map(getattr(message, name), field, value, where, depth)
        elif field.is_repeated:
            _fill_list(getattr(message, name), field, value, where, depth)
        elif field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            child = getattr(message, name)
            child.SetInParent()
            fill_message(child, value, where, depth + 1)
        else:
            scalar = _scalar(field, value, where)
            if scalar is not None:
                setattr(message, name, scalar)


def _fill_list(target: Any, field: Any, value: Json, where: str, depth: int) -> None:
    if not isinstance(value, list):
        raise JsonMappingError(f"{where} must be an array, not {_brief(value)}")
    for index, item in enumerate(value):
        if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            fill_message(target.add(), item, f"{where}[{index}]", depth + 1)
        else:
            scalar = _scalar(field, item, f"{where}[{index}]")
            if scalar is not None:
                target.append(scalar)


def _fill_map(target: Any, field: Any, value: Json, where: str, depth: int) -> None:
    if not isinstance(value, dict):
        raise JsonMappingError(f"{where} must be an object, not {_brief(value)}")
    key_field = field.message_type.fields_by_name["key"]
    value_field = field.message_type.fields_by_name["value"]
    for name, item in value.items():
        key = _scalar(key_field, name, where)
        if value_field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            fill_message(target[key], item, f"{where}[{name}]", depth + 1)
        else:
            target[key] = _scalar(value_field, item, f"{where}[{name}]")


def _value_to_json(field: Any, value: Any, explicit_defaults: bool) -> Json:
    if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        return to_json(value, explicit_defaults=explicit_defaults)
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return field.enum_type.values_by_number[value].name
    if field.type == FieldDescriptor.TYPE_BYTES:
        return binascii.b2a_base64(value, newline=False).decode("ascii")
    return value


def _scalar(field: Any, value: Json, where: str) -> Any:
    """The field's Python value; None for an unrecognised enum name where the field may stay unset."""
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return _bytes(value, where) if field.type == FieldDescriptor.TYPE_BYTES else _text(value, where)
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return _enum_number(field, value, where)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        if isinstance(value, bool):
            return value
        if value in ("true", "false"):
            return value == "true"
        raise JsonMappingError(f"{where} must be true or false, not {_brief(value)}")
    if kind in _FLOATS:
        return _float(value, where)
    return _integer(kind, value, where)


def _text(value: Json, where: str) -> str:
    if not isinstance(value, str):
        raise JsonMappingError(f"{where} must be a string, not {_brief(value)}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise JsonMappingError(f"{where} holds half a surrogate pair") from None
    return value


def _bytes(value: Json, where: str) -> bytes:
    if isinstance(value, str):
        try:
            return binascii.a2b_base64(value, strict_mode=True)
        except (binascii.Error, ValueError):
            pass
    raise JsonMappingError(f"{where} must be base64, not {_brief(value)}")


def _float(value: Json, where: str) -> float:
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        # JSON has no other numbers: one that got in could not be sent back in SUBSCRIBE.
        if math.isfinite(number):
            return number
    raise JsonMappingError(f"{where} must be a number, not {_brief(value)}")


def _integer(kind: int, value: Json, where: str) -> int:
    low, high = _INTEGERS[kind]
    number: int | None = None
    if isinstance(value, str):
        digits = value.removeprefix("-")
        number = int(value) if digits.isascii() and digits.isdigit() and len(digits) <= 20 else None
    elif isinstance(value, float):
        number = int(value) if value.is_integer() else None
    elif not isinstance(value, bool) and isinstance(value, int):
        number = value
    if number is None or not low <= number <= high:
        raise JsonMappingError(f"{where} must be an integer from {low} to {high}, not {_brief(value)}")
    return number


def _enum_number(field: Any, value: Json, where: str) -> int | None:
    known = field.enum_type
    if isinstance(value, str):
        member = known.values_by_name.get(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        member = known.values_by_number.get(value)
    else:
        raise JsonMappingError(f"{where} must be the name of a {known.full_name}, not {_brief(value)}")
    if member is not None and value in (member.name, member.number):
        return int(member.number)
    if field.is_required:
        raise JsonMappingError(f"{where}: there is no {known.full_name} {_brief(value)}")
    return None


def is_map(field: Any) -> bool:
    """Whether the field (a FieldDescriptor) is a map, which protobuf presents as a repeated entry message."""
    return bool(
        field.is_repeated
        and field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE
        and field.message_type.GetOptions().map_entry
    )


def _brief(value: Json) -> str:
    """What stands there, without showing text that may be a secret."""
    if isinstance(value, str):
        return "text"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    return repr(value) if not isinstance(value, int) or value.bit_length() < 128 else "a huge number"
