"""Every operator's command on nodes of different kinds: a terminal of 60 columns, a reader that leaves, a
full disk, Ctrl-C at any moment, JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import termios
import time
from collections.abc import Callable

import pytest

from cni_plugins.cli.main import COMMANDS as commands
from netns_tests.node import Node
from netns_tests.plugins import MESOKIT, TOP
from netns_tests.test_view import POINT, attach, run_of

COMMANDS = (
    "ls", "inspect c1", "ip", "exec c1 -- true", "check", "reload", "gc --dry-run", "doctor",
    "ping c1 10.8.0.1", "trace c1 --duration 300ms", "events", "graph", "web --help", "ps", "node status",
    "policy check", "policy show", "policy explain c1 10.8.0.1 tcp/80", "policy audit",
    "update --dry-run /etc/cni/net.d/p.json", "cni validate /etc/cni/net.d", "ls -n ptp-net", "ip ptp-net",
    "app ls", "cni help bridge", "completion bash", "dhcp --help", "framework --help", "run /nowhere",
)  # fmt: skip
LOOKS = tuple(
    words
    for words in COMMANDS
    if words.split()[0] in {"ls", "inspect", "ip", "check", "gc", "doctor", "graph"}
)
WITHOUT_JSON = ("exec", "web", "completion", "dhcp", "framework", "run", "app", "cni help")
CUT = frozenset({"ls", "ls -n ptp-net", "ip", "ip ptp-net", "graph", "ps"})
"""Those that are tables: no line is longer than the terminal. The others leave wrapping to it."""
EVIL = "task\x1b]0;title\x07\n-\u202e" + "x" * 200


def nothing(_node: Node, _ours: str) -> None:
    """A node as it is after the installation."""


def one_container(node: Node, ours: str) -> None:
    attach(node, ours, POINT, "c1")
    run_of(node, "c1", "executor", "web.1")


def old_records(node: Node, _ours: str) -> None:
    node.netns("c1")
    place = node.path("/run/mesokit/attachments/net")
    place.mkdir(parents=True)
    for name, record in json.loads(
        (TOP / "cni_plugins/steps/tests/records_version1.json").read_text()
    ).items():
        for line in record["lines"]:
            if "containerID" in line and "plugin" in line:
                line |= {"netns": "/run/netns/c1", "netnsID": None, "containerID": "c1"}
        (place / name).write_text("".join(json.dumps(line) + "\n" for line in record["lines"]))


def hostile_names(node: Node, ours: str) -> None:
    """What a task and whoever writes records, reservations and files may call things."""
    attach(node, ours, POINT, "c1")
    run_of(node, "c1", "executor\x1b[2J", EVIL)
    place = node.path("/run/mesokit/attachments/evil")
    place.mkdir()
    head = {"network": EVIL, "containerID": EVIL, "ifname": "eth0\x1b[2J", "plugin": EVIL, "version": 2}
    result = {"interfaces": [{"name": EVIL}], "ips": [{"address": "10.0.0.9/24", "interface": 0}]}
    more = {"netns": f"/run/netns/{EVIL}", "config": {"plugins": [{"type": EVIL}]}}
    (place / "evil").write_text(
        "".join(json.dumps(line) + "\n" for line in (head | more, {"result": result}))
    )
    networks = node.path("/var/lib/cni/networks") / EVIL
    networks.mkdir(parents=True)
    (networks / "10.0.0.9").write_text(EVIL)
    (node.path("/etc/cni/net.d") / f"{EVIL[:100]}.json").write_text(
        '{"name": "\\u001b[2J", "type": "\\u202e"}'
    )
    policies = node.path("/etc/mesokit/policy.d")
    policies.mkdir(parents=True, exist_ok=True)
    (policies / "\x1b[2J\u202e.yaml").write_text('policies: [{name: "\\e[2J", for: {}}]')


def three_hundred(node: Node, ours: str) -> None:
    """By the record of one, whose namespace they share."""
    one_container(node, ours)
    (record,) = node.path("/run/mesokit/attachments/ptp-net").iterdir()
    text = record.read_text()
    for number in range(2, 301):
        record.with_name(f"{number:040x}").write_text(text.replace('"c1"', f'"c{number}"'))


NODES: tuple[Callable[[Node, str], None], ...] = (
    nothing,
    one_container,
    old_records,
    hostile_names,
    three_hundred,
)


def test_every_command_is_here() -> None:
    assert {words.split()[0] for words in COMMANDS} == commands.keys()


def prepare(node: Node, ours: str, kind: Callable[[Node, str], None]) -> None:
    node.path("/etc/cni/net.d").mkdir(parents=True, exist_ok=True)
    node.path("/etc/cni/net.d/p.json").write_text(json.dumps(POINT))
    kind(node, ours)


def harmless(words: str, *texts: bytes) -> list[str]:
    """What a command wrote, of which nothing acts on a terminal."""
    decoded = [text.decode() for text in texts]
    for text in decoded:
        assert "Traceback" not in text and "a mistake in" not in text, (words, text)
        bare = re.sub(r"\x1b\[\d*m", "", text)  # our own colours
        assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202e]", bare), (words, text)
    return decoded


def said(node: Node, words: str) -> tuple[int, str, str]:
    """A command's status and what it wrote."""
    told = node.run([MESOKIT, *words.split()], check=False)
    output, errors = harmless(words, told.stdout, told.stderr)
    return told.status, output, errors


def shown(node: Node, words: str) -> tuple[int, str]:
    """The same in a terminal of 60 columns, whose two streams are one."""
    screen, end = os.openpty()
    termios.tcsetwinsize(end, (24, 60))
    with os.fdopen(screen, "rb", buffering=0) as reading:
        try:
            running = node.popen(
                [MESOKIT, *words.split()], env={"TERM": "xterm"}, stdin=end, stdout=end, stderr=end
            )
        finally:
            os.close(end)
        found = b""
        with contextlib.suppress(OSError):  # EIO: nobody has the terminal any more
            while chunk := reading.read(1 << 16):
                found += chunk
        status = running.wait().status
    (text,) = harmless(words, found)
    return status, text


def begun(node: Node, words: str) -> tuple[int, str, str]:
    """The same for a reader that leaves after the first line."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as first:
        try:
            running = node.popen([MESOKIT, *words.split()], stdout=writing)
        finally:
            os.close(writing)
        found = first.readline()
    told = running.wait()
    output, errors = harmless(words, found, told.stderr)
    return told.status, output, errors


@pytest.mark.parametrize("kind", NODES, ids=lambda kind: kind.__name__)
def test_in_a_terminal_piped_and_as_json(node: Node, ours: str, kind: Callable[[Node, str], None]) -> None:
    prepare(node, ours, kind)
    wrong: list[str] = []
    for words in COMMANDS if kind is not three_hundred else LOOKS:
        try:
            status, screen = shown(node, words)
            assert status in {0, 1, 2}
            bare = re.sub(r"\x1b\[\d*m", "", screen)
            if words in CUT:
                assert max(map(len, bare.splitlines()), default=0) <= 60, screen
            if kind in {one_container, hostile_names}:  # what a reader that leaves does is the same elsewhere
                status, output, errors = begun(node, words)
                assert status in {0, 1, 2, 141}
                sentences = [line for line in errors.splitlines() if line.startswith("Error: ")]
                told = output or sentences or "refused: " in errors
                assert len(sentences) <= 1 and (status in {0, 141} or told), errors
            if not words.startswith(WITHOUT_JSON):
                status, output, errors = said(node, f"{words} --json")
                assert status in {0, 1, 2} and (output or errors or words == "events")
                if words.partition(" ")[0] in {"events", "trace", "ps"}:
                    list(map(json.loads, output.splitlines()))
                elif output:
                    json.loads(output)
        except (AssertionError, ValueError) as error:
            wrong.append(f"{words}: {str(error)[:600]}")
    assert not wrong, "\n".join(wrong)


def test_a_full_disk_is_one_sentence(node: Node, ours: str) -> None:
    prepare(node, ours, one_container)
    wrong: list[str] = []
    for words in COMMANDS:
        whole = node.run(["bash", "-c", f"{MESOKIT} {words}"], check=False)
        if not whole.stdout:
            continue  # nothing to write, nothing lost
        full = node.run(["bash", "-c", f"{MESOKIT} {words} > /dev/full"], check=False)
        status, (errors,) = full.status, harmless(words, full.stderr)
        lines = [line for line in errors.splitlines() if line not in whole.stderr.decode()]
        if status in {0, 70} or len(lines) != 1 or "No space left on device" not in lines[0]:
            wrong.append(f"{words}: status {status}: {errors}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("seed", range(3))
def test_ctrl_c_at_any_moment(node: Node, ours: str, seed: int) -> None:
    prepare(node, ours, one_container)
    chance = random.Random(seed)
    wrong: list[str] = []
    for words in (*COMMANDS, "events --follow", "ls --watch"):
        running = node.popen(["bash", "-c", f"exec {MESOKIT} {words}"])
        time.sleep(chance.uniform(0.05, 0.5))
        running.kill(2)
        told = running.wait()
        # Before our first line the interpreter starts, and says of an interrupt what it likes.
        if re.search(rb'File "\S*/(cni_plugins|executor)/', told.stderr) or told.status not in {
            0,
            1,
            2,
            130,
            -2,
        }:
            wrong.append(f"{words}: status {told.status}: {told.stderr.decode()[-400:]}")
    assert not wrong, "\n".join(wrong)
