"""The executor's own log: rotated, and given up rather than in the way."""

import logging
import os
from pathlib import Path

from executor.logs import RotatingLog
from executor.output.directory import Directory


def logger(handler: logging.Handler) -> logging.Logger:
    made = logging.Logger("test")
    handler.setFormatter(logging.Formatter("%(message)s"))
    made.addHandler(handler)
    return made


def test_it_is_rotated_at_its_size_and_keeps_so_many(tmp_path: Path) -> None:
    handler = RotatingLog(Directory.of(tmp_path), "log", 100, 2)
    log = logger(handler)
    for number in range(50):
        log.info("line %03d", number)
    handler.close()
    files = [tmp_path / name for name in ("log.2", "log.1", "log")]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert all(file.stat().st_size <= 100 for file in files)
    lines = "".join(file.read_text() for file in files).split("\n")[:-1]
    assert lines == [f"line {number:03}" for number in range(50 - len(lines), 50)]


def test_what_a_task_puts_in_its_place_neither_blocks_nor_misleads(tmp_path: Path) -> None:
    other = tmp_path / "other"
    for place in (os.mkfifo, lambda path: path.symlink_to(other)):
        path = tmp_path / "log"
        place(path)
        handler = RotatingLog(Directory.of(tmp_path), "log", 100, 0)
        logger(handler).info("line")
        handler.close()
        path.unlink()
    assert not other.exists()


def test_it_goes_on_where_an_earlier_one_ended(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("before\n")
    handler = RotatingLog(Directory.of(tmp_path), "log", 100, 0)
    logger(handler).info("after")
    handler.close()
    assert path.read_text() == "before\nafter\n"


def test_without_backups_it_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "log"
    handler = RotatingLog(Directory.of(tmp_path), "log", 20, 0)
    log = logger(handler)
    for number in range(9):
        log.info("line %03d", number)
    handler.close()
    assert path.read_text() == "line 008\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_line_longer_than_the_size_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    handler = RotatingLog(Directory.of(tmp_path), "log", 10, 1)
    logger(handler).info("a line longer than that")
    handler.close()
    assert path.read_text() == "a line longer than that\n"


def test_what_cannot_be_written_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    handler = RotatingLog(Directory.of(tmp_path / "gone"), "log", 100, 1)
    (tmp_path / "gone").rmdir()
    logger(handler).info("nowhere to go")
    handler.close()


def test_any_text_can_be_logged(tmp_path: Path) -> None:
    path = tmp_path / "log"
    handler = RotatingLog(Directory.of(tmp_path), "log", 100, 1)
    logger(handler).info("half a pair: %s", "\ud800")
    handler.close()
    assert path.read_bytes() == b"half a pair: \\ud800\n"
