"""The watch of the networks' directory hears of the directories in it, whatever becomes of them."""

import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni_plugins.node.policy_watch import PolicyWatch


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "net.d" / "n").mkdir(parents=True)
    return tmp_path / "net.d"


@pytest.fixture
def watch(place: Path) -> Iterator[PolicyWatch]:
    made = PolicyWatch(place, below=True)
    yield made
    made.close()


def told(watch: PolicyWatch) -> bool:
    select.select([watch], [], [], 5)
    return watch.changed()


def test_an_edit_in_a_directory_of_a_network_is_heard_of(place: Path, watch: PolicyWatch) -> None:
    (place / "n" / "a.conf").write_text("{}")
    assert told(watch)
    (place / "n" / "a.conf").unlink()
    assert told(watch)


def test_a_directory_that_comes_goes_or_is_replaced_is_heard_of(place: Path, watch: PolicyWatch) -> None:
    (place / "m").mkdir()
    assert told(watch)
    (place / "m" / "a.conf").write_text("{}")
    assert told(watch)
    other = place.parent / "other"
    other.mkdir()
    (place / "n").rename(place.parent / "old")
    other.rename(place / "n")
    assert told(watch)
    (place / "n" / "a.conf").write_text("{}")
    assert told(watch)
    (place / "n" / "a.conf").unlink()
    (place / "n").rmdir()
    assert told(watch)


def test_the_directories_of_a_directory_that_comes_later_are_heard_of(tmp_path: Path) -> None:
    watch = PolicyWatch(tmp_path / "net.d", below=True)
    (tmp_path / "net.d" / "n").mkdir(parents=True)
    assert told(watch)
    (tmp_path / "net.d" / "n" / "a.conf").write_text("{}")
    assert told(watch)
    watch.close()
