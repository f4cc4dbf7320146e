"""The index of reservations: complete, or made anew."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.spec import files
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


@pytest.mark.parametrize("harm", ["no room at all", "no room for an entry", "out of step"])
def test_what_is_reserved_is_released_without_an_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    """A full or read-only /run, as after a boot whose index is yet to be made: DEL comes through."""
    roots, place = roots_from({"MESOKIT_ROOT": str(tmp_path)}), tmp_path / "n"
    with opened(str(place), roots, after(30)) as reservations:
        reservations.owned(ONE)
        for owner, address in ((ONE, "10.0.0.2"), (ONE, "10.0.0.3"), (TWO, "10.0.0.4")):
            reservations.reserve(parse_ip(address), owner)
    (place / "10.0.0.5").write_text("c1")  # of the oldest format
    if harm == "no room at all":
        shutil.rmtree(roots.run / "host-local")
        (roots.run / "host-local").write_text("where the directory would be")
    write = files.write

    def full(path: str, content: bytes, **more: Any) -> None:
        if "host-local" in path:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content, **more)

    with monkeypatch.context() as patched:
        patched.setattr(files, "write", full)
        with opened(str(place), roots, after(30)) as reservations:
            if harm != "out of step":
                held = {str(address) for address in reservations.owned(ONE)}
                assert held == {"10.0.0.2", "10.0.0.3", "10.0.0.5"}
            assert reservations.release("10.0.0.2", ONE)
            assert not reservations.release("10.0.0.4", ONE)
    (roots.run / "host-local").unlink() if harm == "no room at all" else None
    with opened(str(place), roots, after(30)) as reservations:
        assert {str(address) for address in reservations.owned(ONE)} == {"10.0.0.3", "10.0.0.5"}
        assert reservations.owned(TWO) == [parse_ip("10.0.0.4")]
