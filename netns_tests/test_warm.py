"""What is forked from the warm process (warm.py) is the program: the same answer, and the same to look at."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_mock import MockerFixture

from netns_tests.node import Node, started, until
from netns_tests.node_init import patiently
from netns_tests.plugins import MESOKIT

CONF = {"cniVersion": "1.0.0", "name": "net", "type": "bridge", "bridge": "br0", "ipam": {"type": "static"}}


def _both(monkeypatch: pytest.MonkeyPatch, look: Callable[[Node], Any]) -> tuple[Any, Any]:
    """What `look` sees on a node whose programs are forked, and on one where they are executed."""
    with Node() as node:
        forked = look(node)
    with monkeypatch.context() as patch, Node() as node:
        patch.setattr(Node, "maker", None)
        with Node() as cold:
            return forked, look(cold)


@pytest.mark.parametrize(
    ("argv", "status"),
    [
        (["--version"], 0),
        (["ls", "--json"], 0),
        (["ls", "--no-such-option"], 2),
        (["inspect", "nobody"], 1),
        (["node", "status"], 1),
    ],
)
def test_a_command(argv: list[str], status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def look(node: Node) -> tuple[int, bytes, bytes]:
        finished = node.run([MESOKIT, *argv], check=False)
        return finished.status, finished.stdout, finished.stderr

    forked, executed = _both(monkeypatch, look)
    assert forked == executed
    assert forked[0] == status


@pytest.mark.parametrize("verb", ["VERSION", "ADD", "DEL", "CHECK", "NONSENSE"])
def test_a_plugin(verb: str, ours: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def look(node: Node) -> tuple[int, bytes, bytes]:
        finished = node.cni(verb, f"{ours}/bridge", CONF, "c1", node.netns("c1")).finished
        return finished.status, finished.stdout, finished.stderr

    forked, executed = _both(monkeypatch, look)
    assert forked == executed


def test_a_plugin_that_is_killed(ours: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for its input when the signal comes."""

    def look(node: Node) -> tuple[int, bytes]:
        node.shell("mkfifo /run/input; sleep 1000 >/run/input &")
        with node.path("/run/input").open("rb") as pipe:
            env = {
                "CNI_COMMAND": "ADD",
                "CNI_CONTAINERID": "c1",
                "CNI_IFNAME": "eth0",
                "CNI_NETNS": "/run/netns/x",
            }
            running = node.popen([f"{ours}/bridge"], stdin=pipe.fileno(), env=env)
            running.kill()
            finished = running.wait()
        return finished.status, finished.stdout

    assert _both(monkeypatch, look) == ((-9, b""), (-9, b""))


def test_how_proc_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def look(node: Node) -> list[object]:
        with started(node.popen([MESOKIT, "node"], env={"COLOUR": "blue"})) as running:
            until(node.path("/run/mesokit/node.sock").is_socket)
            place = node.path(f"/proc/{running.pid}")
            texts = [
                (place / name).read_bytes().rstrip(b"\0").split(b"\0") for name in ("cmdline", "environ")
            ]
            parts = (place / "stat").read_text().rpartition(")")[2].split()
            leads = [parts[3] == str(running.pid), (place / "cwd").readlink()]
            open_now = sorted(
                name for name in ("0", "1", "2") if (place / "fd" / name).readlink().name.startswith("memfd")
            )
            program = Path("/", *(place / "exe").readlink().parts[1:])
            ignored = [
                line for line in (place / "status").read_text().splitlines() if line.startswith("SigIgn")
            ]
            return [
                texts[0],
                sorted(texts[1]),
                (place / "comm").read_text(),
                leads,
                open_now,
                program,
                ignored,
            ]

    forked, executed = _both(monkeypatch, look)
    executed[1] = sorted({*executed[1], b"LC_CTYPE=C.UTF-8"})  # there only for what the interpreter starts
    assert forked == executed


def test_a_machine_that_is_out_of_processes_for_a_moment(mocker: MockerFixture) -> None:
    """The warm process lives on, or all later tests would fail with it."""
    mocker.patch("time.sleep")
    start = mocker.Mock(side_effect=[BlockingIOError(errno.EAGAIN, ""), OSError(errno.ENOMEM, ""), 7])
    assert patiently(start) == 7
    with pytest.raises(FileNotFoundError):
        patiently(mocker.Mock(side_effect=FileNotFoundError(errno.ENOENT, "")))
