"""Progress: found in lines, told in time."""

import itertools
import os
import re
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor.output.directory import Directory
from executor.output.progress import DEFAULT_PATTERN, PatternError, Reading, Scanner, compile_pattern
from executor.output.progress_file import FollowedFile
from executor.output.progress_reporter import Progress, Reporter
from executor.output.progress_watcher import ProgressFile, ProgressWatcher
from executor.process.tests.fixtures import ManualLoop, descriptors, running_loop, turn_for, turn_until

PATTERN = compile_pattern(DEFAULT_PATTERN)


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        (b"progress: 50 half way\n", Reading(50, "half way")),
        (b"noise progress: 12.5\n", Reading(13, "")),
        (b"progress: .4 x\r\n", Reading(0, "x")),
        (b"progress: 100\n", Reading(100, "")),
        (b"progress: 101 too much\n", None),
        (b"progress: 1 one\nprogress: 2 two\nother\n", Reading(2, "two")),
        (b"progress: 1 one\nprogress: 2", Reading(1, "one")),
        (b"progress: 7 \xff\xfe\n", Reading(7, "\ufffd\ufffd")),
        (b"x" * 4096 + b" progress: 5\n", None),
        (b"progress: 5 " + b"m" * 600 + b"\n", Reading(5, "m" * 511 + "…")),
        (b"", None),
    ],
)
def test_readings(text: bytes, reading: Reading | None) -> None:
    assert Scanner(PATTERN).feed(text) == reading


@given(
    lines=st.lists(st.one_of(st.just(b"progress: 42 x"), st.binary(max_size=30)), max_size=8),
    cuts=st.lists(st.integers(0, 300), max_size=8),
)
def test_pieces_make_no_difference(lines: list[bytes], cuts: list[int]) -> None:
    text = b"\n".join(lines)
    whole, pieces = Scanner(PATTERN), Scanner(PATTERN)
    expected = [whole.feed(text), whole.finish()]
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    latest = None
    for start, end in itertools.pairwise(places):
        latest = pieces.feed(text[start:end]) or latest
    assert [latest, pieces.finish()] == expected


def test_a_flood_without_line_ends_is_not_kept() -> None:
    scanner = Scanner(PATTERN)
    for _ in range(1000):
        assert scanner.feed(b"x" * 65536) is None
    assert len(scanner._rest) <= 4097
    assert scanner.feed(b"\nprogress: 3 on again\n") == Reading(3, "on again")


@pytest.mark.parametrize(
    "pattern",
    [
        *("(", "no group", "a{99999999999}"),
        *("^(a+)+b", "(a*?)*b", "(aa?)+b", "(a{1,3}){9}b", "((x|yz)b)*", "(?=(a+)+)(b)", "x|((a+)*)"),
    ],
)
def test_useless_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(PatternError, match=re.escape(pattern)):
        compile_pattern(pattern)


@pytest.mark.parametrize(
    "pattern", [r"(\d+)%( .*)?", r"(?:a++)+([0-9]+)", "(?>a|bc)+(d)", "(a|b)([0-9]|100)", "(?:ab{2})+(c)"]
)
def test_useful_patterns_are_taken(pattern: str) -> None:
    assert compile_pattern(pattern).groups


def test_reports_keep_their_distance_and_the_last_is_told() -> None:
    loop, told = ManualLoop(), list[Progress]()
    reporter = Reporter(loop, 1.0, told.append)
    for percent in range(5):
        reporter.read(Reading(percent, ""))
        loop.advance(0.3)
    assert [(report.sequence, report.percent) for report in told] == [(1, 0), (2, 3)]
    reporter.read(Reading(80, "done"))
    reporter.finish()
    assert told[-1] == Progress(3, 80, "done")
    reporter.read(Reading(90, "late"))
    loop.advance(10)
    assert len(told) == 3


def test_the_same_reading_is_told_once() -> None:
    loop, told = ManualLoop(), list[Progress]()
    reporter = Reporter(loop, 0, told.append)
    for reading in (Reading(1, ""), Reading(1, ""), Reading(2, ""), Reading(1, "")):
        reporter.read(reading)
        loop.advance(0.2)
    assert [report.percent for report in told] == [1, 2, 1]


def test_a_file_is_followed_from_before_it_exists_through_replacement(tmp_path: Path) -> None:
    file, seen = tmp_path / "progress", bytearray()
    before = descriptors()
    with running_loop() as loop:
        followed = FollowedFile(loop, Directory.of(tmp_path), "progress", seen.extend)
        (tmp_path / "other").write_text("not this")
        file.write_text("one\n")
        turn_until(loop, lambda: b"one\n" in seen, "the first line")
        with file.open("a") as stream:
            stream.write("two\n")
            stream.flush()
            turn_until(loop, lambda: b"two\n" in seen, "the second line")
        file.write_text("x\n")
        turn_until(loop, lambda: b"x\n" in seen, "a shorter file")
        (tmp_path / "new").write_text("replaced\n")
        (tmp_path / "new").rename(file)
        turn_until(loop, lambda: b"replaced\n" in seen, "a new file")
        with file.open("a") as stream:
            stream.write("last\n")
        followed.close()
    assert bytes(seen) == b"one\ntwo\nx\nreplaced\nlast\n"
    assert descriptors() <= before


def test_only_the_end_of_a_huge_file_is_read(tmp_path: Path) -> None:
    file, seen = tmp_path / "progress", bytearray()
    with file.open("wb") as stream:
        stream.truncate(1 << 40)
        stream.seek(0, os.SEEK_END)
        stream.write(b"\nprogress: 9\n")
    with running_loop() as loop:
        FollowedFile(loop, Directory.of(tmp_path), "progress", seen.extend).close()
    assert len(seen) <= 1 << 20
    assert seen.endswith(b"progress: 9\n")


def test_a_directory_in_the_files_place_is_no_matter(tmp_path: Path) -> None:
    (tmp_path / "progress").mkdir()
    with running_loop() as loop:
        FollowedFile(loop, Directory.of(tmp_path), "progress", lambda _: None).close()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("progress: 10\n")
    (tmp_path / "progress").symlink_to("secret")
    seen: list[bytes] = []
    with running_loop() as loop:
        FollowedFile(loop, Directory.of(tmp_path), "progress", seen.append).close()
    assert not seen


def test_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    with running_loop() as loop, pytest.raises(OSError, match="gone"):
        FollowedFile(loop, Directory.of(tmp_path / "gone"), "progress", lambda _: None)


def test_output_streams_do_not_mix_and_the_file_counts_too(tmp_path: Path) -> None:
    told: list[Progress] = []
    with running_loop() as loop:
        place = ProgressFile(Directory.of(tmp_path), "file")
        watcher = ProgressWatcher(loop, PATTERN, 0.1, told.append, place)
        out, err = watcher.tap(), watcher.tap()
        out(b"progress: 1")
        err(b"noise\n")
        out(b"0 from output\n")
        turn_until(loop, lambda: bool(told), "the report")
        (tmp_path / "file").write_text("progress: 20 from file")
        turn_for(loop, 0.05)
        watcher.finish()
        out(b"progress: 99 late\n")
        turn_for(loop, 0.2)
    assert [(report.percent, report.message) for report in told] == [(10, "from output"), (20, "from file")]
    assert watcher.latest == told[-1]


def test_a_flood_of_progress_waits_once_on_the_loop() -> None:
    told: list[Progress] = []
    with running_loop() as loop:
        watcher = ProgressWatcher(loop, PATTERN, 0.1, told.append)
        tap = watcher.tap()
        for number in range(10_000):
            tap(b"progress: %d\n" % (number % 100))
        assert len(loop._posted) == 1
        watcher.finish()
    assert [report.percent for report in told] == [99]


@pytest.mark.parametrize("pattern", [DEFAULT_PATTERN, r"([0-9]*)([0-9]*)([0-9]*)x"])
def test_lines_made_for_a_slow_search_cost_a_budget_and_no_more(pattern: str) -> None:
    scanner = Scanner(compile_pattern(pattern))
    hostile = b"progress: " + b"0" * 4000 + b"x\n" if pattern == DEFAULT_PATTERN else b"0" * 4000 + b"\n"
    began = time.thread_time()
    for _ in range(20):
        scanner.feed(hostile * 16)
    assert time.thread_time() - began < 20 * 0.5
    if pattern == DEFAULT_PATTERN:
        assert scanner.feed(hostile * 16 + b"progress: 6 on time\n") == Reading(6, "on time")


def test_a_long_line_that_costs_nothing_is_searched_to_the_limit() -> None:
    assert Scanner(PATTERN).feed(b"x" * 4000 + b" progress: 5\n") == Reading(5, "")


def test_a_file_with_another_name_or_of_another_user_is_not_read(tmp_path: Path) -> None:
    """A hard link may lead to what the task's user must not read."""
    (tmp_path / "hidden").write_text("progress: 10\n")
    (tmp_path / "progress").hardlink_to(tmp_path / "hidden")
    seen: list[bytes] = []
    with running_loop() as loop:
        FollowedFile(loop, Directory.of(tmp_path), "progress", seen.append).close()
        (tmp_path / "hidden").unlink()
        os.chown(tmp_path / "progress", 54321, -1)
        FollowedFile(loop, Directory.of(tmp_path), "progress", seen.append).close()
        assert not seen
        FollowedFile(loop, Directory.of(tmp_path), "progress", seen.append, 54321).close()
    assert b"".join(seen) == b"progress: 10\n"


def test_a_file_that_grows_while_it_is_read_is_read_another_time(tmp_path: Path) -> None:
    file, pieces = tmp_path / "progress", list[int]()

    def grow(data: bytes) -> None:
        pieces.append(len(data))
        assert len(pieces) < 100, "it never ends"
        with file.open("ab") as stream:
            stream.write(b"x" * 131072)

    file.write_bytes(b"x")
    with running_loop() as loop:
        followed = FollowedFile(loop, Directory.of(tmp_path), "progress", grow)
        assert pieces == [1]
        followed.close()
    assert pieces == [1, 65536]


def test_a_reading_that_comes_while_another_is_taken_is_told() -> None:
    """Appended when the owner has looked for the last time: it must be called once more."""
    told: list[Progress] = []
    with running_loop() as loop:
        watcher = ProgressWatcher(loop, PATTERN, 0.1, told.append)
        tap = watcher.tap()
        stop, last = threading.Event(), list[int]()

        def write() -> None:
            number = 0
            while not stop.is_set():
                number = (number + 1) % 100
                tap(b"progress: %d\n" % number)
                last[:] = [number]

        thread = threading.Thread(target=write)
        thread.start()
        turn_for(loop, 1.0)
        stop.set()
        thread.join()
        turn_until(loop, lambda: bool(told) and told[-1].percent == last[0], "the last reading")
        watcher.finish()
