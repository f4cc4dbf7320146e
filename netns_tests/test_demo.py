"""packaging/demo: succeeds with our plugins and with the reference's, and cleans up when interrupted."""

from __future__ import annotations

import os
import shlex
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


REFERENCE = ("--plugin-dir", "/usr/lib/cni")


@pytest.mark.parametrize(
    "options",
    [(), REFERENCE, ("--ipv6-only",), ("--ipv6-only", *REFERENCE)],
    ids=["ours", "reference", "ours, IPv6 only", "reference, IPv6 only"],
)
def test_everything_is_seen(options: tuple[str, ...]) -> None:
    done = subprocess.run([DEMO, *options], capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert SEEN in done.stdout
    assert "✘" not in done.stdout
    assert ("which never removes one; removed here" in done.stdout) == ("--plugin-dir" in options)


def test_on_a_host_twice_and_nothing_is_left(node: Node) -> None:
    before = snapshot(node)
    for _ in range(2):
        done = node.run(ON_HOST, check=False, timeout=150)
        assert done.status == 0, done.text + done.stderr.decode()
        assert SEEN in done.text
    assert residue(node, before) == []


def test_ipv6_only_has_no_ipv4_anywhere_and_says_what_cannot_be(node: Node) -> None:
    """The executor's check, the published port and an agent on TCP over IPv6; [::1] with the reason."""
    before = snapshot(node)
    done = node.run([*ON_HOST, "--ipv6-only"], check=False, timeout=150)
    assert done.status == 0, done.text + done.stderr.decode()
    for seen in (
        "the executor's health check has asked over IPv6",
        "this node was given no IPv4 address",
        "the container has none",
        "the published port answers",
        "an executor has subscribed by TCP and IPv6",
        "its task got the answer of the published port",
        "[::1]:8080 is refused at once, which is all it can be",
    ):
        assert f"✔ {seen}" in done.text
    assert "IPv6 has no route_localnet" in done.text
    assert SEEN in done.text
    assert "had some before" not in done.text
    assert "inet " not in done.text.replace("inet 127.0.0.1/8 scope host lo", "")
    assert residue(node, before) == []


def test_ipv6_only_on_a_host_with_ipv4_leaves_its_addresses(node: Node) -> None:
    node.uplink()
    before = snapshot(node)
    done = node.run([*ON_HOST, "--ipv6-only"], check=False, timeout=150)
    assert done.status == 0, done.text + done.stderr.decode()
    assert "this host had some before: eth0 192.0.2.2/24" in done.text
    assert residue(node, before) == []


def test_ipv6_only_where_ipv6_is_off_says_so(node: Node) -> None:
    node.run(["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"])
    done = node.run([*ON_HOST, "--ipv6-only"], check=False)
    assert (done.status, done.text) == (2, "")
    assert b"net.ipv6.conf.all.disable_ipv6" in done.stderr


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


def test_output_that_nobody_reads_or_that_has_no_room_ends_it_in_order(node: Node) -> None:
    before = snapshot(node)
    demo = f"{sys.executable} {TOP / 'packaging/demo.py'} --on-host"
    for script, status in (
        (f"({demo}; echo $? > /run/status) | head -n 4", 141),
        (f"{demo} > /dev/full; echo $? > /run/status", 1),
    ):
        done = node.run(["sh", "-c", script], check=False, timeout=150)
        assert b"Traceback" not in done.stderr
        assert node.path("/run/status").read_text() == f"{status}\n"
        node.path("/run/status").unlink()
    assert residue(node, before) == []


def test_colours_are_for_terminals_that_take_them(node: Node) -> None:
    demo = shlex.join([*ON_HOST, "--plugin-dir", "/nothing"])
    for env, coloured in (({"TERM": "xterm"}, True), ({"TERM": "dumb"}, False), ({"NO_COLOR": "1"}, False)):
        done = node.run(["script", "-qec", demo, "/dev/null"], env={"TERM": "xterm", **env}, check=False)
        assert ("\x1b[" in done.text) == coloured, env


def test_an_ordinary_user_is_told_that_it_needs_root() -> None:
    capability = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *capability]
    done = subprocess.run([*nobody, *ON_HOST], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "demo: run me as root: containers and network namespaces need it\n"
