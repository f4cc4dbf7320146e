"""Policy files that are not there, not right, not to be read, or meant to do harm: what holds, holds on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from netns_tests.node import Node, Running, started, until
from netns_tests.plugins import MESOKIT
from netns_tests.policy_box import Box, apply, conf, write
from netns_tests.test_policy import DB

FOLDER = "/etc/mesokit/policy.d"
CLOSED = DB | {"ingress": []}
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}]\n"
    for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


def two(node: Node, ours: str) -> tuple[Box, Box]:
    db, web = (Box(node, ours, name, conf(), role=name) for name in ("db", "web"))
    return db, web


def says(running: Running, sentence: str, since: int = 0) -> None:
    """It comes to say so, after so many bytes."""
    until(lambda: sentence.encode() in running.errors()[since:], what=sentence)


def test_a_bad_file_changes_nothing_through_restarts(node: Node, ours: str) -> None:
    """Of the service, which says what is wrong and applies what is right again."""
    db, web = two(node, ours)
    apply(node, [CLOSED])
    (node.path(FOLDER) / "bad.yaml").write_text("policies:\n  - name: n\n    for: {}\n    ingres: []\n")
    for _ in range(2):
        with started(node.popen([MESOKIT, "node"])) as running:
            says(running, "what was applied before holds on")
            assert b"bad.yaml:4: policies[0].ingres: unknown key" in running.errors()
            assert not web.reaches(db)
        node.path("/run/mesokit/node.sock").unlink(missing_ok=True)
    assert not web.reaches(db) and not db.call("CHECK").error


def _file(text: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / "bad.yaml").write_bytes(text)


def _link(folder: Path) -> None:
    (folder / "bad.yaml").symlink_to("bad.yaml")


def _folder_that_is_a_file(folder: Path) -> None:
    folder.rename(folder.with_name("kept"))
    folder.write_text("")


def _folder_that_is_a_circle(folder: Path) -> None:
    folder.rename(folder.with_name("kept"))
    folder.symlink_to("policy.d")


#: What is done to the directory, and what is said of it.
HARMS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a link in a circle": (_link, "bad.yaml: Too many levels of symbolic links"),
    "a fifo": (lambda folder: os.mkfifo(folder / "bad.yaml"), "bad.yaml: not a regular file"),
    "10 MB": (_file(b"policies: []\n" + b"# x\n" * (10 << 18)), "bad.yaml: larger than 1048576 bytes"),
    "a bomb of aliases": (_file(BOMB.encode()), "bad.yaml:2: aliases (*name) are not taken"),
    "a deep nest": (_file(b"policies: " + b"[" * 100_000), "bad.yaml:1: nested too deeply"),
    "no text": (_file(b"\xff\xfe"), "bad.yaml: 'utf-8' codec can't decode"),
    "a file in its place": (_folder_that_is_a_file, "policy.d: Not a directory"),
    "a directory in a circle": (_folder_that_is_a_circle, "policy.d: Too many levels of symbolic links"),
}


def harmed(node: Node, harm: str) -> str:
    """The directory with CLOSED and the harm; what is said of it."""
    folder = node.path(FOLDER)
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
        folder.with_name("kept").rename(folder)
    (folder / "bad.yaml").unlink(missing_ok=True)
    do, said = HARMS[harm]
    do(folder)
    return said


def test_what_cannot_be_read_changes_nothing(node: Node, ours: str) -> None:
    """In bounded time, with one sentence that names it and one that says that nothing is changed."""
    db, web = two(node, ours)
    apply(node, [CLOSED])
    before = node.path("/run/mesokit/policy/state.json").read_bytes()
    for harm in HARMS:
        said = harmed(node, harm)
        told = node.run([MESOKIT, "policy", "apply"], check=False, timeout=60)
        lines = told.stderr.decode().splitlines()
        assert told.status == 2 and said in lines[0], (harm, lines)
        assert lines[1:] == ["refused: 1 problem, nothing is changed"] and not told.stdout, (harm, lines)
        assert node.run([MESOKIT, "policy", "check"], check=False, timeout=60).status == 2
    harmed(node, "no text")
    (node.path(FOLDER) / "bad.yaml").write_text("{}")
    (node.path(FOLDER) / "bad.yaml").chmod(0)
    powerless = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", MESOKIT, "policy", "apply"]
    told = node.run(powerless, check=False)
    assert told.status == 2 and b"bad.yaml: Permission denied" in told.stderr, told
    node.path(FOLDER).chmod(0)
    told = node.run(powerless, check=False)
    assert told.status == 2 and b"policy.d: Permission denied" in told.stderr, told
    assert node.path("/run/mesokit/policy/state.json").read_bytes() == before
    assert not web.reaches(db) and not db.call("CHECK").error


def test_the_service_says_what_it_cannot_read(node: Node, ours: str) -> None:
    """Once for each change, and what was applied before holds; it does not try again and again."""
    db, web = two(node, ours)
    apply(node, [CLOSED])
    with started(node.popen([MESOKIT, "node"])) as running:
        until(node.path("/run/mesokit/node.sock").is_socket, what="the node service listens")
        for harm in HARMS:
            before = len(running.errors())
            says(running, harmed(node, harm), before)
        assert not web.reaches(db)
        before = len(running.errors())
        time.sleep(0.5)
        assert running.errors()[before:].count(b"holds on") <= 1
        harmed(node, "no text")
        (node.path(FOLDER) / "bad.yaml").unlink()
        write(node, [DB])
        until(lambda: web.netns.ping(db.four, seconds=0.4), what="what is right is applied")


def test_a_directory_that_is_empty_or_not_there_is_no_policies(node: Node, ours: str) -> None:
    """As before the first; another one that was named has to be there."""
    db, web = two(node, ours)
    for harm in ("rm /etc/mesokit/policy.d/*", "rm -r /etc/mesokit/policy.d"):
        apply(node, [CLOSED])
        assert not web.reaches(db)
        told = node.run([MESOKIT, "policy", "apply", "--from", "/etc/mesokit/none"], check=False)
        assert told.status == 2 and b"No such file or directory: nothing is read or changed" in told.stderr
        node.shell(harm)
        assert node.run([MESOKIT, "policy", "apply"]).text.startswith("0 policies hold for 2 endpoints")
        assert web.reaches(db)
