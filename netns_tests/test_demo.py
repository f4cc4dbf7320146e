"""packaging/demo: succeeds with our plugins and with the reference's, and cleans up when interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from netns_tests.node import Node, until
from netns_tests.plugins import TOP
from netns_tests.snapshot import residue, snapshot

DEMO = str(TOP / "packaging/demo")
ON_HOST = [sys.executable, str(TOP / "packaging/demo.py"), "--on-host"]
SEEN = "things were seen."


@pytest.mark.parametrize("options", [(), ("--plugin-dir", "/usr/lib/cni")], ids=["ours", "reference"])
def test_everything_is_seen(options: tuple[str, ...]) -> None:
    done = subprocess.run([DEMO, *options], capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert SEEN in done.stdout
    assert "✘" not in done.stdout
    assert ("which never removes one; removed here" in done.stdout) == bool(options)


def test_on_a_host_twice_and_nothing_is_left(node: Node) -> None:
    before = snapshot(node)
    for _ in range(2):
        done = node.run(ON_HOST, check=False, timeout=150)
        assert done.status == 0, done.text + done.stderr.decode()
        assert SEEN in done.text
    assert residue(node, before) == []


def test_a_failure_is_told_and_the_status_says_so(node: Node) -> None:
    node.run(["ip", "link", "add", "data0", "type", "veth"])
    done = node.run(ON_HOST, check=False, timeout=150)
    assert done.status == 1
    assert "not seen: the task is running" in done.text
    assert "data0" in done.text


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("A task starts", signal.SIGINT),
        ("CNI ADD", signal.SIGTERM),
        ("TASK_STARTING", signal.SIGINT),
        ("visitor TASK", signal.SIGTERM),
        ("The kill", signal.SIGINT),
    ],
)
def test_an_interrupt_at_any_moment_cleans_up(node: Node, moment: str, number: signal.Signals) -> None:
    before = snapshot(node)
    demo = node.popen(ON_HOST)
    until(lambda: moment.encode() in demo.output(), what=moment)
    demo.kill(number)
    done = demo.wait(60)
    assert done.status == 130, done
    assert "Traceback" not in done.stderr.decode()
    assert residue(node, before) == []


def test_ctrl_c_at_the_terminal_ends_the_private_node() -> None:
    demo = subprocess.Popen([DEMO], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert demo.stdout is not None
    assert any("TASK_RUNNING" in line for line in demo.stdout)
    os.killpg(demo.pid, signal.SIGINT)
    rest = demo.stdout.read()
    assert demo.wait(60) == 130
    assert "interrupted; everything was cleaned up" in rest
    assert "All" not in rest
