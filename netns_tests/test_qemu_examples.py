"""The examples of plugins whose kind of link is rare, through the tests that all examples go through."""

from __future__ import annotations

import json

import pytest

from cni_plugins.conftest import World, world
from cni_plugins.plugins.tests import test_examples
from cni_plugins.plugins.tests.examples import COMMON, EXAMPLES, HOSTILE
from cni_plugins.plugins.tests.test_every_key import places, put
from cni_plugins.steps.tests import test_registry

__all__ = ["world"]

pytestmark = pytest.mark.timeout(400)
RARE = sorted(set(EXAMPLES) - set(COMMON))
SEEDS = range(12)


@pytest.mark.parametrize("name", RARE)
def test_a_long_life(world: World, name: str) -> None:
    test_examples.test_a_long_life(world, name)


@pytest.mark.parametrize("name", RARE)
def test_a_record_is_read_as_it_was_written(world: World, name: str) -> None:
    test_registry.test_a_record_is_read_as_it_was_written(world, name)


@pytest.mark.parametrize("name", RARE)
def test_add_of_anything_is_refused_without_a_trace_or_undone_by_del(world: World, name: str) -> None:
    tried = test_examples.test_add_of_anything_is_refused_without_a_trace_or_undone_by_del
    for seed in SEEDS:
        tried.hypothesis.inner_test(world, name=name, seed=seed)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", RARE)
def test_del_and_gc_work_with_any_configuration(world: World, name: str) -> None:
    tried = test_examples.test_del_and_gc_work_with_any_configuration
    for seed in SEEDS:
        verb, netns = ("DEL", "GC")[seed % 2], bool(seed & 2)
        tried.hypothesis.inner_test(world, name=name, seed=seed, verb=verb, netns=netns)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", RARE)
def test_no_value_of_any_key_is_an_internal_error(world: World, name: str) -> None:
    """A part of the values, as far as the kernel; test_every_key.py has them all, and it no such link."""
    test_examples.prepared(world)
    conf, count = EXAMPLES[name], 0
    for number, place in enumerate(places(conf)):
        for value in HOSTILE[number % 23 :: 23]:
            changed = json.dumps(put(conf, place, value)).encode()
            answer = world.call("ADD", changed, PLUGIN=conf["type"])
            assert answer.code != 999, (place, value, answer.document)
            gone = world.call("DEL", changed, PLUGIN=conf["type"])
            assert gone.status == 0, gone.document
            count += 1
    assert count > 50, count
