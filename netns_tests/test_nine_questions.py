"""The nine questions of a night, each answered by one command: the transcript in the README of cli/.

The test prepares the node that the transcript speaks of, runs each command of it and compares what is
printed; what differs from run to run (times, MAC addresses, names of veths) counts as equal.
`python -m netns_tests.test_nine_questions` writes the transcript anew.
"""

from __future__ import annotations

import re
import shlex
import tempfile
from pathlib import Path

from netns_tests.node import Node
from netns_tests.plugins import MESOKIT, TOP, make_folder
from netns_tests.test_view import POINT, WEB, attach, published, run_of

README = TOP / "cni_plugins/cli/README.md"
BEGIN, END = (
    "<!-- transcript: python -m netns_tests.test_nine_questions -->",
    "<!-- end of the transcript -->",
)
QUESTIONS = [
    ("What failed in the last hour, and why?", "mesokit events --since 1h"),
    ("Is this attachment as it was made?", "mesokit check db.0"),
    ("Who drops the packet?", "mesokit ping web.1 192.0.2.1"),
    ("What is attached where, for which task?", "mesokit ls"),
    ("What is stale?", "mesokit gc --dry-run"),
    ("Who has this address?", "mesokit ls 10.9.0.2"),
    ("Who has this port?", "mesokit ls tcp/8080"),
    ("How many addresses are free?", "mesokit ip"),
    ("What is wrong with this node?", "mesokit doctor"),
]
_VOLATILE = [
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"), "TIME"),
    (re.compile(r"\b[0-9a-f]{2}(:[0-9a-f]{2}){5}\b"), "MAC"),
    (re.compile(r"\bveth[0-9a-f]{8}\b"), "veth"),
    (re.compile(r"\(\d+(\.\d+)? ms"), "(MS"),
    (re.compile(r"\d+ packets"), "N packets"),
    (re.compile(r"\b\d+ checks\b"), "N checks"),
]


def prepare(node: Node, folder: str) -> None:
    """Two containers with tasks, one that died without DEL, a call that failed, a firewall that drops, a port
    that has left its bridge.
    """
    node.uplink()
    attach(node, folder, published(WEB, 8080), "4c7f0a52-web")
    attach(node, folder, WEB, "9ab2c3d4-db")
    attach(node, folder, POINT, "deadbeef-old")
    run_of(node, "4c7f0a52-web", "web", "web.1")
    run_of(node, "9ab2c3d4-db", "db", "db.0")
    box = node.netns("5e5e5e5e-new")
    node.cni("ADD", f"{folder}/chain", published(WEB, 8080), "5e5e5e5e-new", box)
    node.shell(
        "ip netns del deadbeef-old; iptables -P FORWARD DROP\n"
        f"ip link set $({MESOKIT} ls db.0 --json | jq -r '.items[0].host_interface') nomaster"
    )


def transcript(node: Node) -> str:
    parts = []
    for question, command in QUESTIONS:
        _, *words = shlex.split(command)
        told = node.run([MESOKIT, *words], check=False, env={"COLUMNS": "110"}).text
        parts.append(f"**{question}**\n\n```console\n$ {command}\n{told}```\n")
    return "\n".join(parts)


def _plain(text: str) -> str:
    for pattern, word in _VOLATILE:
        text = pattern.sub(word, text)
    return re.sub(r"  +", "  ", text)


def test_the_transcript_is_what_the_commands_say(node: Node, ours: str) -> None:
    prepare(node, ours)
    shown = README.read_text().partition(BEGIN)[2].partition(END)[0].strip()
    assert _plain(transcript(node).strip()) == _plain(shown), "write it anew: see the top of this file"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place, Node() as here:
        prepare(here, make_folder(Path(place)))
        before, _, rest = README.read_text().partition(BEGIN)
        README.write_text(f"{before}{BEGIN}\n\n{transcript(here)}\n{END}{rest.partition(END)[2]}")
