"""However a command is used wrongly, it says one clear sentence and ends with the right status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

PROGRAM = [sys.executable, "-m", "cni_plugins.cli.start"]
TASK = '{"name": "x", "command": {"cmd": "true"}}'
ON_A_NETWORK = '{"name": "x", "command": {"cmd": "true"}, "container": {"network": [{"name": "n"}]}}'
TOP = Path(__file__).resolve().parents[3]


def environment(**more: str) -> Mapping[str, str]:
    return {**os.environ, "PYTHONPATH": f"{TOP}:{TOP / 'proto'}", **more}


def shell(script: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A script in which $M is the program."""
    return subprocess.run(
        ["bash", "-c", script],
        env=environment(M=" ".join(PROGRAM), **env),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def said(done: subprocess.CompletedProcess[str]) -> str:
    """Standard error, which holds no traceback."""
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("script", "status", "sentence"),
    [
        ("$M cni help >/dev/full", 1, "Error: standard output: No space left on device\n"),
        ("$M --help >/dev/full", 1, "Error: standard output: No space left on device\n"),
        ("(sleep 1; exec $M cni help --markdown) | true; exit ${PIPESTATUS[0]}", 141, ""),
        ("(sleep 1; exec $M --help) | true; exit ${PIPESTATUS[0]}", 141, ""),
        ("$M run - <&-", 2, "Error: standard input is closed: give a TASK.json, or pipe one in\n"),
        ("$M cni help >&-", 0, ""),
        ("$M cni help 2>&-", 0, ""),
        (f"echo '{TASK}' | $M run - --runtime-dir /etc/passwd", 2, "--runtime-dir: /etc/passwd: File exists"),
        (
            f"echo '{TASK}' | $M run - --work-dir /etc/passwd/x",
            2,
            "--work-dir: /etc/passwd/x: Not a directory",
        ),
        (
            f"echo '{ON_A_NETWORK}' | $M run - --network-config-dir /nothing",
            2,
            "--network-config-dir: network configuration directory /nothing: No such file or directory",
        ),
        (
            f"echo '{ON_A_NETWORK}' | $M run - --network-config-dir /tmp --plugin-dir /nothing",
            2,
            "--plugin-dir: '/nothing': no such directory",
        ),
        (
            "MESOKIT_ROOT=/nothing $M node status",
            1,
            "no node service listens on /nothing/run",
        ),
        ("$M ps 999999999", 1, "process 999999999 is gone"),
        ("$M bogus", 2, "no command named 'bogus'"),
    ],
)
def test_one_sentence_and_the_right_status(script: str, status: int, sentence: str) -> None:
    done = shell(script)
    assert done.returncode == status, done.stderr
    if sentence:
        assert sentence in said(done)
    else:
        assert said(done) == ""


@pytest.mark.parametrize("command", ["ps", "node", "node status", "node failures", "run -", "cni help"])
def test_a_user_who_is_not_root_is_told_so(command: str, tmp_path: Path) -> None:
    """He may read all files here, since the checkout may lie where only its owner can."""
    tmp_path.chmod(0o755)
    capability = "--inh-caps=+dac_read_search --ambient-caps=+dac_read_search"
    nobody = f"setpriv --reuid=65534 --regid=65534 --clear-groups {capability}"
    done = shell(f"echo '{TASK}' | {nobody} $M {command}", MESOKIT_ROOT=str(tmp_path / "root"))
    said(done)
    assert done.returncode in (0, 1, 2)
    if command == "run -":
        assert "run me as root" in done.stderr
    if command == "ps":
        assert "root sees every executor" in done.stderr


def test_a_mistake_of_ours_is_said_to_be_one() -> None:
    program = (
        "import sys; from cni_plugins.cli import start, main\n"
        "def broken(*_, **__): raise TypeError('oh')\n"
        "main.main.main = broken\n"
        "start.main()"
    )
    for more, traceback in (({}, False), ({"MESOKIT_TRACEBACK": "1"}, True)):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment(**more),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 70
        assert "this is a mistake in mesokit: TypeError: oh" in done.stderr
        assert ("Traceback" in done.stderr) == traceback


def test_an_interrupt_while_it_starts_shows_nothing_of_its_insides() -> None:
    program = (
        "import os, signal, sys; from cni_plugins.cli import start\n"
        "class Slow:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'click': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Slow())\n"
        "start.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGINT
    assert done.stderr == ""


@pytest.mark.parametrize("columns", [60, 80, 100])
def test_help_fits_the_terminal(columns: int) -> None:
    for command in ("--help", "run --help", "node --help", "cni help", "cni help portmap"):
        done = shell(f"$M {command}", COLUMNS=str(columns))
        prose = [line for line in done.stdout.splitlines() if not line.startswith(("    ", "  mesokit"))]
        assert max(map(len, prose)) <= columns, command


def test_a_stopped_executor_is_waited_for_two_seconds_and_others_meanwhile(tmp_path: Path) -> None:
    """A socket that takes connections and never answers, as a stopped process's does."""
    import socket  # noqa: PLC0415

    began = time.monotonic()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "mesokit.sock"))
        listening.listen()
        done = shell(f"$M ps {tmp_path}")
    assert done.returncode == 1
    assert "does not come to the end of its answer" in said(done)
    assert time.monotonic() - began < 30, "it is waited for at most"
