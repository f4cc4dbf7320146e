"""Manual pages and completions, made from what the programs say about themselves."""

from __future__ import annotations

import gzip
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_SECTION = re.compile(r"^([A-Z][A-Za-z ]*):\s*(.*)$")
_SHELLS = {
    "bash": "usr/share/bash-completion/completions/mesokit",
    "zsh": "usr/share/zsh/vendor-completions/_mesokit",
    "fish": "usr/share/fish/vendor_completions.d/mesokit.fish",
}


@dataclass(frozen=True, slots=True)
class Page:
    """`name` is the program with its subcommands, joined by hyphens."""

    name: str
    help: str


def pages(program: Path, name: str) -> Iterator[Page]:
    """The help of a program and, for the ones in its list of commands, of each subcommand."""
    yield from _pages(program, [], name)


def _pages(program: Path, words: Sequence[str], name: str) -> Iterator[Page]:
    text = run(program, *words, "--help")
    yield Page("-".join((name, *words)), text)
    listed = text.partition("\nCommands:\n")[2]
    for line in listed.splitlines():
        found = re.match(r"  (\S+)", line)
        if found is None:
            if line.strip():
                continue
            break
        yield from _pages(program, [*words, found[1]], name)


def run(program: Path, *arguments: str) -> str:
    return subprocess.run(
        [program, *arguments],
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        check=True,
    ).stdout.decode()


def roff(page: Page, version: str) -> str:
    """A manual page of the help: its usage as synopsis, its prose as description, its lists as they are."""
    lines = page.help.splitlines()
    usage = lines[0].partition("sage: ")[2] if lines else page.name
    lines = lines[1:]
    about = _first_sentence(lines) or page.name
    made = [f'.TH {page.name.upper()} 1 "" "mesokit {version}" "mesokit"', ".SH NAME"]
    made += [f"{_escape(page.name)} \\- {_escape(about)}", ".SH SYNOPSIS", f".B {_escape(usage)}"]
    made += [".SH DESCRIPTION", ".nf"]
    for line in lines:
        section = _SECTION.match(line)
        if section:
            made += [".fi", f".SH {section[1].upper()}", ".nf", *filter(None, [_escape(section[2])])]
        else:
            made.append(_escape(line.removeprefix("  ")))
    return "\n".join([*made, ".fi", ""])


def _first_sentence(lines: Sequence[str]) -> str:
    """Of the first paragraph, whole and on one line, without its full stop."""
    words = "\n".join(lines).strip().partition("\n\n")[0].split()
    end = next((number for number, word in enumerate(words, 1) if word[-1] in ".!?:"), len(words))
    return " ".join(words[:end]).rstrip(".:")


def _escape(text: str) -> str:
    text = text.replace("\\", "\\\\").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text


def write(page: Page, version: str, root: Path) -> None:
    path = root / "usr/share/man/man1" / f"{page.name}.1.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(roff(page, version).encode(), mtime=0))


def completions(program: Path, root: Path) -> None:
    for shell, place in _SHELLS.items():
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(run(program, "completion", shell))
