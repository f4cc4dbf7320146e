"""JSON as Mesos writes it, read strictly: an agent ignores unknown names, a person wants to be told."""

from __future__ import annotations

import base64
import binascii
import sys
from typing import TypeVar, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from executor.local_agent.validation import (
    DescriptionError,
    Fault,
    Json,
    fault,
    missing,
    suggestion,
    unknown_key,
)
from executor.protocol.mesos_json import JsonMappingError, fill_message

M = TypeVar("M", bound=Message)

FILLED_IN = frozenset({"mesos.v1.TaskInfo.agent_id"})
"""Required fields that the agent fills in itself."""

_KINDS = {
    FieldDescriptor.CPPTYPE_STRING: "a string",
    FieldDescriptor.CPPTYPE_BOOL: "true or false",
    FieldDescriptor.CPPTYPE_DOUBLE: "a number",
    FieldDescriptor.CPPTYPE_FLOAT: "a number",
    FieldDescriptor.CPPTYPE_INT32: "a whole number of 32 bits",
    FieldDescriptor.CPPTYPE_INT64: "a whole number",
    FieldDescriptor.CPPTYPE_UINT32: "a whole number from 0 to 4294967295",
    FieldDescriptor.CPPTYPE_UINT64: "a whole number from 0",
}
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


def read_message(document: Json, message: M, source: str, key: str = "") -> M:
    """Fill `message` from a parsed document. Raises DescriptionError with every fault in it."""
    faults = _message_faults(document, cast(Descriptor, message.DESCRIPTOR), key)
    if faults:
        raise DescriptionError(source, faults)
    try:
        fill_message(message, document)
    except JsonMappingError as error:
        raise DescriptionError(source, [Fault(key, str(error), message.DESCRIPTOR.full_name)]) from None
    return message


def _message_faults(document: Json, descriptor: Descriptor, key: str) -> list[Fault]:
    if not isinstance(document, dict):
        return [fault(key, document, f"an object ({descriptor.name})")]
    faults: list[Fault] = []
    for name, value in document.items():
        field = descriptor.fields_by_name.get(name)
        if field is None or field.name != name:  # the look-up stops at a zero byte
            faults.append(unknown_key(key, name, descriptor.fields_by_name))
        elif value is not None:
            faults += _field_faults(value, field, _join(key, name))
    faults += [
        missing(_join(key, field.name), _expected(field))
        for field in descriptor.fields
        if field.is_required and document.get(field.name) is None and field.full_name not in FILLED_IN
    ]
    return faults


def _field_faults(value: Json, field: FieldDescriptor, key: str) -> list[Fault]:
    if not field.is_repeated:
        return _value_faults(value, field, key)
    of = field.message_type
    if of is not None and of.GetOptions().map_entry:
        if not isinstance(value, dict):
            return [fault(key, value, "an object")]
        item = of.fields_by_name["value"]
        return [f for name, entry in value.items() for f in _value_faults(entry, item, _join(key, name))]
    if not isinstance(value, list):
        return [fault(key, value, f"a list, each {_expected(field)}")]
    return [f for index, entry in enumerate(value) for f in _value_faults(entry, field, f"{key}[{index}]")]


def _value_faults(value: Json, field: FieldDescriptor, key: str) -> list[Fault]:
    if field.message_type is not None:
        return _message_faults(value, field.message_type, key)
    if field.enum_type is not None:
        names = field.enum_type.values_by_name
        if isinstance(value, str) and value in names and names[value].name == value:
            return []
        return [fault(key, value, suggestion(value if isinstance(value, str) else "", names))]
    if _fits(value, field):
        return []
    return [fault(key, value, _expected(field))]


def _fits(value: Json, field: FieldDescriptor) -> bool:
    kind = field.cpp_type
    if field.type == FieldDescriptor.TYPE_BYTES:
        return isinstance(value, str) and _is_base64(value)
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return isinstance(value, str)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if kind in _INTEGERS:
        low, high = _INTEGERS[kind]
        return isinstance(value, int) and low <= value <= high
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


def _expected(field: FieldDescriptor) -> str:
    if field.message_type is not None:
        return f"an object ({field.message_type.name})"
    if field.enum_type is not None:
        return f"one of {', '.join(field.enum_type.values_by_name)}"
    return "base64 text" if field.type == FieldDescriptor.TYPE_BYTES else _KINDS[field.cpp_type]


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name
