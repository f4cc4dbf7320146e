"""The index of reservations: complete, or made anew."""

import os
from pathlib import Path

from cni_plugins.spec.deadline import after
from cni_plugins.spec.roots import roots_from
from cni_plugins.spec.values import parse_ip
from cni_plugins.store.reservations import Owner, opened

ONE, TWO = Owner("c1", "eth0"), Owner("c2", "eth0")


def test_cost_does_not_grow(tmp_path: Path) -> None:
    """With the index in step, nothing reads the other reservations: it would stumble over this directory."""
    roots, place = roots_from({"MESOKIT_ROOT": str(tmp_path)}), tmp_path / "n"
    with opened(str(place), roots, after(30)) as reservations:
        reservations.owned(ONE)
        reservations.reserve(parse_ip("10.0.0.2"), ONE)
    before = place.stat().st_mtime_ns
    (place / "10.0.0.9").mkdir()
    os.utime(place, ns=(before, before))
    with opened(str(place), roots, after(30)) as reservations:
        assert reservations.owned(ONE) == [parse_ip("10.0.0.2")]
        assert reservations.owned(TWO) == []
        reservations.reserve(parse_ip("10.0.0.3"), TWO)
    with opened(str(place), roots, after(30)) as reservations:
        assert reservations.owned(TWO) == [parse_ip("10.0.0.3")]
        assert reservations.release("10.0.0.3", TWO)
        assert not reservations.release("10.0.0.2", TWO)
        assert reservations.owned(TWO) == []


def test_a_change_by_somebody_else_is_seen(tmp_path: Path) -> None:
    roots, place = roots_from({"MESOKIT_ROOT": str(tmp_path)}), tmp_path / "n"
    for number in range(20):
        with opened(str(place), roots, after(30)) as reservations:
            reservations.owned(ONE)
            reservations.reserve(parse_ip(f"10.0.0.{number}"), ONE)
        (place / f"10.0.1.{number}").write_text("c2\r\neth0")
        with opened(str(place), roots, after(30)) as reservations:
            assert len(reservations.owned(TWO)) == number + 1


def test_an_index_entry_that_a_crash_left_empty_is_made_anew(tmp_path: Path) -> None:
    """A second address of an owner: its entry is cut before it is written, and that is where a process may
    die."""
    roots, place = roots_from({"MESOKIT_ROOT": str(tmp_path)}), tmp_path / "n"
    with opened(str(place), roots, after(30)) as reservations:
        reservations.owned(ONE)
        reservations.reserve(parse_ip("10.0.0.2"), ONE)
    (entry,) = [
        path for path in (roots.run / "host-local").rglob("*") if path.is_file() and path.name != "stamp"
    ]
    entry.write_bytes(b"")
    with opened(str(place), roots, after(30)) as reservations:
        assert reservations.owned(ONE) == [parse_ip("10.0.0.2")]
