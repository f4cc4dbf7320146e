"""Small files."""

import errno
import os
from pathlib import Path

import pytest

from cni_plugins.spec import files


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 300_000])
def test_all_of_it(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    files.write(path, b"longer than before" * 20_000)
    files.write(path, bytes(size))
    assert path.stat().st_size == size
    assert files.read(path) == bytes(size)
    assert path.stat().st_mode & 0o777 == 0o644


def test_below_a_directory(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_PATH)
    try:
        files.write("file", b"1", directory=descriptor, mode=0o600)
        assert files.read("file", directory=descriptor) == b"1"
    finally:
        os.close(descriptor)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


def test_a_full_disk() -> None:
    with pytest.raises(OSError) as caught:
        files.write("/dev/full", b"1", flags=0)
    assert caught.value.errno == errno.ENOSPC


def test_absent() -> None:
    with pytest.raises(FileNotFoundError):
        files.read("/nowhere/file")
    with pytest.raises(FileNotFoundError):
        files.write("/nowhere/file", b"")
