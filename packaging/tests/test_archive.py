"""Archives are the same bytes for the same content."""

from __future__ import annotations

import os
import sys
import tarfile
from pathlib import Path

import pytest

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"


@pytest.fixture(autouse=True)
def on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(os.fspath(BUNDLE))
    for name in ("archive", "manual"):
        sys.modules.pop(name, None)


def fill(folder: Path, names: list[str]) -> None:
    (folder / "sub").mkdir(parents=True)
    for name in names:
        (folder / name).write_text(name)
    (folder / "a").chmod(0o755)
    (folder / "twin").hardlink_to(folder / "a")
    (folder / "link").symlink_to("sub/c")


def test_order_times_and_owners_do_not_matter(tmp_path: Path) -> None:
    import archive  # noqa: PLC0415 - found by the fixture

    for name, order in (("one", ["a", "b", "sub/c"]), ("two", ["sub/c", "b", "a"])):
        fill(tmp_path / name, order)
        os.utime(tmp_path / name / "b", (len(order) + ord(name[0]), 1))
        archive.write(
            tmp_path / f"{name}.tar.gz", archive.tree(tmp_path / name), 1_700_000_000, prefix="top/"
        )
    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "two.tar.gz").read_bytes()
    with tarfile.open(tmp_path / "one.tar.gz") as opened:
        members = {member.name: member for member in opened}
    assert members["top/twin"].islnk()
    assert members["top/link"].issym()
    assert members["top/a"].mode == 0o755
    assert {member.uid for member in members.values()} == {0}


def test_a_manual_page_of_a_help_text() -> None:
    import manual  # noqa: PLC0415 - found by the fixture

    text = "Usage: mesokit node [OPTIONS]\n\n  Answer plugin calls.\n\n"
    text += "Options:\n  -v, --verbose  Log\\more.\n  .odd\n"
    page = manual.roff(manual.Page("mesokit-node", text), "1.0")
    assert page.startswith(
        '.TH MESOKIT-NODE 1 "" "mesokit 1.0" "mesokit"\n.SH NAME\nmesokit\\-node \\- Answer'
    )
    assert ".SH OPTIONS" in page
    assert "\\-v, \\-\\-verbose  Log\\\\more." in page
    assert "\\&.odd" in page
