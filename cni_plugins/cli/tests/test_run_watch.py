"""The table of `mesokit run --watch` on a terminal that is written down."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner

from cni_plugins.cli.run import command
from cni_plugins.cli.run_watch import Table, changes_teller
from executor.local_agent.events import ContainerStarted, Note, StatusUpdate

EVIL = "\x1b]0;title\x07\nweb-\u202e" + "x" * 250


class Screen:
    """As much of a terminal as the table uses: lines, the cursor's column is always the first."""

    def __init__(self, columns: int) -> None:
        self.columns, self.lines, self.at, self.wrap = columns, [""], 0, True

    def feed(self, text: str) -> None:
        for part in re.findall(r"\x1b\[[?\d;]*[a-zA-Z]|[^\x1b\n\r]+|[\n\r]|\x1b", text):
            if part == "\n":
                self.at += 1
                self.lines += [""] * (self.at + 1 - len(self.lines))
            elif part == "\x1b[J":
                self.lines[self.at :] = [""]
            elif part == "\x1b[H\x1b[2J":
                self.lines, self.at = [""], 0
            elif up := re.fullmatch(r"\x1b\[(\d+)A", part):
                self.at -= int(up[1])
                assert self.at >= 0
            elif part in {"\x1b[?7l", "\x1b[?7h"}:
                self.wrap = part.endswith("h")
            elif part != "\r" and not re.fullmatch(r"\x1b\[\d*m", part):
                assert "\x1b" not in part and "\x07" not in part and "\u202e" not in part
                assert self.wrap or len(self.lines[self.at] + part) <= self.columns
                self.lines[self.at] += part


@pytest.mark.parametrize("columns", [40, 60, 200])
def test_a_table_over_itself(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", "10")
    now = 100.0
    names = [EVIL, *(f"web-{number}" for number in range(20))]
    table, screen = Table(names, lambda: now), Screen(columns)
    for number, name in enumerate(names):
        table.tell(ContainerStarted(f"c{number}", "e", 1, "/s", (), (name,)))
        table.draw()
        screen.feed(capsys.readouterr().out)
        now += 10
    table.tell(Note("a note\x1b[2J\nof two lines"))
    table.tell(
        StatusUpdate("c20", "web-19", "TASK_RUNNING", "EXECUTOR", healthy=True, addresses=("10.0.0.2/24",))
    )
    table.tell(StatusUpdate("c7", "web-6", "TASK_FAILED", "EXECUTOR", EVIL))
    table.tell(StatusUpdate("c9", "of nobody", "TASK_FAILED", "EXECUTOR"))
    table.draw()
    screen.feed(capsys.readouterr().out)
    assert screen.lines[:2] == ["a note\\x1b[2J", "of two lines"]
    assert len(screen.lines) == 2 + 9 + 1 and screen.lines[2].startswith("TASK")
    assert screen.lines[3].startswith("web-6"), "what failed comes first"
    assert "21 tasks: 19 starting"[:columns] in screen.lines[10]
    if columns == 200:
        assert re.search(r"web-6 +failed +- +2m20s +\\x1b\]0;title", screen.lines[3])
        assert screen.lines[10].endswith("14 not shown")
    table.draw(last=True)
    screen.feed(capsys.readouterr().out)
    assert len(screen.lines) == 2 + 1 + 21 + 1 + 1, "at the end all are there"
    if columns == 200:
        assert any(re.match(r"web-19 +running healthy +10.0.0.2 +10s", line) for line in screen.lines)


def test_nothing_is_written_while_nothing_changes(capsys: pytest.CaptureFixture[str]) -> None:
    now = 5.0
    table = Table(["a"], lambda: now)
    table.draw()
    assert capsys.readouterr().out
    table.draw()
    assert not capsys.readouterr().out
    now = 6.0
    table.draw()
    assert capsys.readouterr().out, "ages go on"


def test_lines_where_no_terminal_is(capsys: pytest.CaptureFixture[str]) -> None:
    tell = changes_teller()
    tell(ContainerStarted("c", "e", 1, "/s", (), ("t",)))
    tell(StatusUpdate("c", "t", "TASK_FAILED", "EXECUTOR", "\x1b[2Joops"))
    told = capsys.readouterr()
    assert told.err == "" and told.out.endswith("TASK_FAILED: \\x1b[2Joops\n") and told.out.count("\n") == 1


@pytest.mark.parametrize("other", ["--json", "--follow"])
def test_it_wants_the_output_alone(other: str) -> None:
    answer = CliRunner().invoke(command, ["-", "--watch", other], input="{}")
    assert answer.exit_code == 2 and f"--watch: not with {other}" in answer.output
