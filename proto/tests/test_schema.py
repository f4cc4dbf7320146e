"""The schema against the published message numbers, and the committed classes against the schema."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from mesos.v1 import mesos_pb2, offers_pb2, operator_pb2, statistics_pb2
from mesos.v1.agent import agent_pb2
from mesos.v1.allocator import allocator_pb2
from mesos.v1.executor import executor_pb2
from mesos.v1.maintenance import maintenance_pb2
from mesos.v1.master import master_pb2
from mesos.v1.quota import quota_pb2
from mesos.v1.scheduler import scheduler_pb2

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

FILES: tuple[Any, ...] = (
    mesos_pb2,
    offers_pb2,
    operator_pb2,
    statistics_pb2,
    agent_pb2,
    allocator_pb2,
    executor_pb2,
    maintenance_pb2,
    master_pb2,
    quota_pb2,
    scheduler_pb2,
)

_PACKAGE = "mesos.v1."
_LABELS = {
    descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL: "opt",
    descriptor_pb2.FieldDescriptorProto.LABEL_REQUIRED: "req",
    descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED: "rep",
}


def render_all() -> dict[str, str]:
    """Every message and enum of proto/, by its name without the common package."""
    lines: dict[str, str] = {}
    for module in FILES:
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        prefix = f"{file.package}.".removeprefix(_PACKAGE)
        for message in file.message_type:
            _add_message(lines, prefix, message)
        for enum in file.enum_type:
            _add_enum(lines, prefix, enum)
    return lines


def _add_message(lines: dict[str, str], prefix: str, message: descriptor_pb2.DescriptorProto) -> None:
    name = prefix + message.name
    lines[name] = "; ".join(_field(field, message) for field in message.field)
    for nested in message.nested_type:
        if not nested.options.map_entry:
            _add_message(lines, f"{name}.", nested)
    for enum in message.enum_type:
        _add_enum(lines, f"{name}.", enum)


def _add_enum(lines: dict[str, str], prefix: str, enum: descriptor_pb2.EnumDescriptorProto) -> None:
    values = ", ".join(f"{value.name}={value.number}" for value in enum.value)
    lines[f"enum {prefix}{enum.name}"] = values


def _field(field: descriptor_pb2.FieldDescriptorProto, message: descriptor_pb2.DescriptorProto) -> str:
    entry = next(
        (
            nested
            for nested in message.nested_type
            if nested.options.map_entry and field.type_name.endswith(f".{message.name}.{nested.name}")
        ),
        None,
    )
    if entry is not None:
        return f"{field.number} {field.name} map<{_type(entry.field[0])},{_type(entry.field[1])}>"
    default = f" [={field.default_value}]" if field.HasField("default_value") else ""
    deprecated = " (deprecated)" if field.options.deprecated else ""
    return f"{field.number} {field.name} {_type(field)} {_LABELS[field.label]}{default}{deprecated}"


def _type(field: descriptor_pb2.FieldDescriptorProto) -> str:
    if field.type_name:
        return field.type_name.removeprefix(f".{_PACKAGE}").removeprefix(".")
    name: str = descriptor_pb2.FieldDescriptorProto.Type.Name(field.type)
    return name.removeprefix("TYPE_").lower()


def read_table() -> dict[str, str]:
    """The published schema, in the form of `render_all`."""
    lines = (HERE / "messages.txt").read_text().splitlines()
    parts = (line.partition("|") for line in lines)
    return {name.strip(): rest.strip() for name, _, rest in parts}


TABLE = read_table()
RENDERED = render_all()


def test_nothing_is_missing_and_nothing_is_invented() -> None:
    assert set(RENDERED) == set(TABLE)


@pytest.mark.parametrize("name", sorted(TABLE))
def test_numbers_names_types_labels_and_defaults(name: str) -> None:
    assert RENDERED.get(name) == TABLE[name]


def test_classes_are_those_of_the_schema(tmp_path: Path) -> None:
    subprocess.run([ROOT / "packaging" / "proto", tmp_path], check=True, timeout=120)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*_pb2.py*"))
    assert len(made) == 2 * len(FILES)
    for path in made:
        committed = (ROOT / "proto" / path).read_text()
        assert (tmp_path / path).read_text() == committed, f"{path} is stale: run packaging/proto"


def test_an_executor_reads_no_container_statistics() -> None:
    """Their classes cost memory that only agents need to spend; so do those of schedulers."""
    program = (
        "import sys, mesos.v1.executor.executor_pb2; names = ('statistics', 'offers', 'operator'); "
        "sys.exit(any(f'mesos.v1.{name}_pb2' in sys.modules for name in names))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
