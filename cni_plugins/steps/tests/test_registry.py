"""Steps as JSON: every kind has a class of this layer, and what a record holds is read as it was written."""

import json
from typing import Any

import pytest

from cni_plugins.conftest import World
from cni_plugins.plugins.tests.examples import COMMON, EXAMPLES, LEASE
from cni_plugins.spec.errors import CniError
from cni_plugins.steps import registry
from cni_plugins.steps.step import Step
from cni_plugins.store import records


def test_every_kind_has_a_class_of_this_layer() -> None:
    classes = [registry.load(kind) for kind in registry.Kind]
    assert len(set(classes)) == len(registry.Kind)
    for cls in classes:
        assert issubclass(cls, Step)
        assert cls.__module__.startswith("cni_plugins.steps.")


@pytest.mark.parametrize("name", COMMON)
def test_a_record_is_read_as_it_was_written(world: World, name: str) -> None:
    world.run("ip", "link", "add", "dum0", "type", "veth", "peer", "name", "dum1")
    world.run("ip", "addr", "add", "192.0.2.2/24", "dev", "dum0")
    world.run("ip", "link", "set", "dum0", "up")
    (world.root / "subnet.env").write_text(LEASE)
    world.box("c1")
    conf = EXAMPLES[name]
    answer = world.call("ADD", json.dumps(conf).encode(), PLUGIN=conf["type"])
    assert answer.status == 0, answer.document
    for path in world.records():
        contents = records._parse(path.read_bytes())
        assert contents is not None and contents.version == records.VERSION and contents.revision == 1
        assert contents.head["boot"] and contents.head["began"] and contents.head["hostID"]
        assert contents.steps
        for number, line in enumerate(contents.steps):
            step = registry.decode(line)
            again = records.step_line(registry.kind_of(step), line["id"], registry.encode(step))
            assert again == line and line["id"] > number


def test_fields_of_another_release_are_told() -> None:
    args: Any
    for args in (
        {},
        {"name": 7, "before": "0", "after": "1"},
        {"name": "x", "before": "0", "after": "1", "new": 1},
        [],
    ):
        with pytest.raises(CniError, match="does not understand"):
            registry.decode({"step": "sysctl", "id": 1, "args": args})
    with pytest.raises(CniError, match="does not know"):
        registry.decode({"step": "no-such", "id": 1, "args": {}})
