"""Files that start afresh at a size."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor.output.directory import Directory
from executor.output.rotating_file import RotatingFile


def written(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def fill(sink: RotatingFile) -> None:
    """Put what is always full in the place of a file."""
    with Path("/dev/full").open("wb") as full:
        os.dup2(full.fileno(), sink.fileno())


def test_sizes_and_names(tmp_path: Path) -> None:
    sink = RotatingFile(Directory.of(tmp_path), "stdout", 4, 2)
    sink.write(memoryview(b"aaaabbbbccccddd"))
    sink.close()
    assert written(tmp_path) == {"stdout.2": b"bbbb", "stdout.1": b"cccc", "stdout": b"ddd"}


def test_without_backups_it_begins_again(tmp_path: Path) -> None:
    sink = RotatingFile(Directory.of(tmp_path), "stdout", 4, 0)
    sink.write(memoryview(b"aaaabb"))
    sink.close()
    assert written(tmp_path) == {"stdout": b"bb"}


def test_a_fifo_in_the_files_place_is_an_error_and_no_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "stdout")
    with pytest.raises(OSError, match="stdout"):
        RotatingFile(Directory.of(tmp_path), "stdout", 4, 2)


def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "stdout").write_bytes(b"aaa")
    sink = RotatingFile(Directory.of(tmp_path), "stdout", 4, 1)
    sink.write(memoryview(b"ab"))
    sink.close()
    assert written(tmp_path) == {"stdout.1": b"aaaa", "stdout": b"b"}


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "stdout").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        RotatingFile(Directory.of(tmp_path), "stdout", 4, 1)


def test_a_full_disk_loses_bytes_and_says_so(tmp_path: Path) -> None:
    sink = RotatingFile(Directory.of(tmp_path), "stdout", 1 << 20, 0)
    fill(sink)
    sink.write(memoryview(b"abc"))
    sink.close()
    assert (sink.lost, sink.problem) == (3, "stdout: No space left on device")


@given(pieces=st.lists(st.binary(max_size=50)), size=st.integers(1, 20), backups=st.integers(0, 4))
def test_what_is_kept_is_the_end_of_what_was_written(
    pieces: list[bytes], size: int, backups: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("rotation")
    sink = RotatingFile(Directory.of(folder), "out", size, backups)
    for piece in pieces:
        sink.write(memoryview(piece))
    sink.close()
    names = [f"out.{number}" for number in range(backups, 0, -1)] + ["out"]
    kept = [(folder / name).read_bytes() for name in names if (folder / name).exists()]
    everything = b"".join(pieces)
    assert everything.endswith(b"".join(kept))
    assert all(len(piece) <= size for piece in kept)
    assert len(b"".join(kept)) >= min(len(everything), size * backups)
    assert len(written(folder)) == len(kept)
