"""What doctor and check say, as lines: to a terminal, to a pipe, and of the dead that an agent awaits."""

from __future__ import annotations

import pytest

from netns_tests.node import Node
from netns_tests.plugins import MESOKIT
from netns_tests.test_fault_lab import ENV
from netns_tests.test_view import POINT, WEB, attach

COMMANDS = ("doctor", "check")


def words(text: str) -> str:
    return " ".join(text.split())


def test_sentences_fit_a_terminal_and_are_one_line_in_a_pipe(node: Node, ours: str) -> None:
    attach(node, ours, WEB, "a-container-with-a-rather-long-name")
    node.shell("ip link set web0 down; nft flush ruleset; sysctl -qw net.ipv4.ip_forward=0")
    for command in COMMANDS:
        piped = node.run([MESOKIT, command], check=False, env=ENV).text
        assert max(map(len, piped.splitlines())) > 80, "a line for each sentence, for grep"
        narrow = node.run([MESOKIT, command], check=False, env=ENV | {"COLUMNS": "60"}).text
        line = f"stty cols 60; {MESOKIT} {command}"
        terminal = node.run(["script", "-qec", line, "/dev/null"], check=False, env=ENV | {"NO_COLOR": "1"})
        for shown in (narrow, terminal.text.replace("\r", "")):
            assert words(shown) == words(piped)
            sentences = [each for each in shown.splitlines() if "remedy:" not in each]
            assert max(map(len, sentences)) <= 60 < max(map(len, shown.splitlines()))
        remedies = [each for each in piped.splitlines() if "remedy:" in each]
        assert [each for each in narrow.splitlines() if "remedy:" in each] == remedies, "to be pasted"


@pytest.mark.parametrize("running", [True, False])
def test_the_dead_that_an_agent_awaits(node: Node, ours: str, running: bool) -> None:
    box = node.netns("c1")
    place = "/run/mesos/isolators/network/cni/c1"
    node.shell(f"mkdir -p {place}/ptp-net/eth0; touch {place}/ns; mount --bind {box.path} {place}/ns")
    node.cni("ADD", f"{ours}/ptp", POINT, "c1", f"{place}/ns").ok()
    node.shell(f"umount {place}/ns; ip netns del c1")
    if running:
        node.shell("cp /usr/bin/sleep /run/mesos-agent")
        node.popen(["/run/mesos-agent", "600"])
    told = node.run([MESOKIT, "check"], check=False, env=ENV)
    assert told.status == 1
    for text in (place, f"rm -r {place}; mesokit gc", "restart" if running else "none runs here"):
        assert text in told.text, told
    remedy = next(line for line in told.text.splitlines() if "remedy: " in line).partition(
        "will come back for it: "
    )[2]
    node.run(["sh", "-ec", remedy], env=ENV)
    assert node.run([MESOKIT, "check"], env=ENV).text == "0 attachments as made, 0 not\n"


def test_the_dead_that_nobody_awaits(node: Node, ours: str) -> None:
    attach(node, ours, POINT, "c1")
    node.shell("ip netns del c1")
    told = node.run([MESOKIT, "check"], check=False, env=ENV)
    assert "remedy: mesokit gc\n" in told.text and "/run/netns/c1" in told.text and "agent" not in told.text
