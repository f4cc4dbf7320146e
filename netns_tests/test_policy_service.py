"""The process of the node service that applies policies: there when it is needed, silent, and replaceable."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from netns_tests.node import Node, started, until
from netns_tests.plugins import MESOKIT, service
from netns_tests.policy_box import Box, conf, write
from netns_tests.policy_lan import lan
from netns_tests.test_policy import DB


def appliers(node: Node) -> list[Path]:
    """In /proc: children of a service that wait for news of files."""
    found = []
    services = {path.parent for path in node.path("/proc").glob("[0-9]*/cmdline") if _is_service(path)}
    for process in services:
        try:
            parent = re.search(r"^PPid:\s+(\d+)", (process / "status").read_text(), re.MULTILINE)
            waits = any("inotify" in str(each.readlink()) for each in (process / "fd").iterdir())
        except OSError:
            continue  # one that has ended meanwhile
        if parent and process.parent / parent[1] in services and waits:
            found.append(process)
    return found


def _is_service(path: Path) -> bool:
    try:
        return b"mesokit\0node\0" in path.read_bytes()
    except OSError:
        return False


def applier(node: Node, gone: Path | None = None) -> Path:
    """The one process of that kind, which is not `gone`. A fork of the service that is about to close what it
    has no use for looks like it for a moment."""
    found: list[Path] = []

    def stays() -> bool:
        before = list(found)
        found[:] = appliers(node)
        time.sleep(0.1)
        return len(found) == 1 and found == before and found[0] != gone

    until(stays, what="the process is there, and alone")
    return found[0]


def judges(web: Box, db: Box, passes: bool) -> bool:
    """Whether what a policy says of a ping is what happens to it."""
    return web.netns.ping(db.four, seconds=0.4) == passes


def wakeups(process: Path) -> list[str]:
    """How often it has waited, and was made to wait."""
    return re.findall(r"ctxt_switches:\s+(\d+)", (process / "status").read_text())


def at_rest(process: Path, seconds: float = 0.3) -> list[str]:
    """Its wake-ups, once there are no more of them."""
    before: list[str] = []

    def rests() -> bool:
        seen = list(before)
        before[:] = wakeups(process)
        time.sleep(seconds)
        return seen == before

    until(rests, what="its first look is over")
    return before


def test_it_looks_into_namespaces_when_something_has_changed_there(node: Node, ours: str) -> None:
    """200 containers that were looked at twice a second took 3 % of a processor. What it mends itself is no
    news, and of one that changes its rules all the time it hears twice a second.
    """
    node.uplink()
    with service(node):
        boxes = [Box(node, ours, name, lan("macvlan", "isolated")) for name in "ab"]
        process = applier(node)
        at_rest(process, 0.8)
        boxes[0].netns.run(["nft", "flush", "ruleset"])
        listed = ["nft", "list", "ruleset"]
        until(lambda: "inside_input" in boxes[0].netns.run(listed).text, what="the rules are back")
        before = sum(map(int, at_rest(process, 0.8)))
        storm = "import subprocess\nwhile True: subprocess.run(['nft', 'add table x; delete table x'])"
        storming = boxes[0].netns.popen(["python3", "-c", storm])
        time.sleep(1.5)
        storming.kill()
        assert 0 < sum(map(int, wakeups(process))) - before < 60
        assert not boxes[0].reaches(boxes[1])


def test_it_comes_with_the_first_container_under_policy_and_goes_with_the_service(
    node: Node, ours: str
) -> None:
    with service(node):
        plain = Box(node, ours, "plain", conf(None))
        time.sleep(0.5)
        assert plain.four and not appliers(node)
        Box(node, ours, "db", conf(), role="db")
        applier(node)
    assert not appliers(node)


def test_it_ends_when_no_container_is_under_policy_and_comes_again(node: Node, ours: str) -> None:
    """Some seconds after the last has gone, so that one that comes anew finds it. What was edited meanwhile
    holds for the next container from its first packet on.
    """
    with service(node):
        first = Box(node, ours, "c1", conf(), role="db")
        process = applier(node)
        first.call("DEL").ok()
        again = Box(node, ours, "c2", conf(), role="db")
        assert not appliers(node) or applier(node) == process
        again.call("DEL").ok()
        until(lambda: not appliers(node), what="it has ended")
        web = Box(node, ours, "plain", conf(None, name="plain"))
        write(node, [DB | {"ingress": []}])
        state = node.path("/run/mesokit/policy/state.json")
        until(lambda: '"db"' in state.read_text(), what="the files are read without a container")
        until(lambda: not appliers(node), what="it has ended again")
        db = Box(node, ours, "c3", conf(), role="db")
        assert not web.netns.ping(db.four, seconds=0.4)
        applier(node)
        write(node, [])
        until(partial(judges, web, db, True), what="it applies what is edited")


def test_it_waits_without_waking_and_attachments_do_not_wake_it(node: Node, ours: str) -> None:
    with service(node):
        Box(node, ours, "db", conf(), role="db")
        process = applier(node)
        before = at_rest(process)
        web = Box(node, ours, "web", conf(), role="web")
        web.call("DEL").ok()
        time.sleep(1)
        assert wakeups(process) == before


def test_a_change_counts_what_was_attached_since(node: Node, ours: str) -> None:
    """What it remembers of endpoints is of an earlier change: those that came meanwhile are judged too."""
    db = Box(node, ours, "db", conf(), role="db")
    with service(node):
        web = Box(node, ours, "web", conf(), role="web")
        write(node, [DB | {"ingress": []}])
        until(lambda: not web.netns.ping(db.four, seconds=0.4), what="the policy holds")
        late = Box(node, ours, "late", conf(), role="db")
        other = Box(node, ours, "x", conf(), role="x")
        assert not web.reaches(late)
        web.call("DEL").ok()
        rule = {"allow": ["icmp"], "from": [{"labels": {"role": "x"}}]}
        write(node, [DB | {"ingress": [rule]}])
        until(lambda: other.netns.ping(late.six, seconds=0.4), what="the edited policy holds")
        assert other.reaches(db)
    answer = node.run([MESOKIT, "policy", "show"]).text
    assert "missing" not in answer, answer


def test_another_takes_the_place_of_one_that_is_killed(node: Node, ours: str) -> None:
    db, web = (Box(node, ours, name, conf(), role=name) for name in ("db", "web"))
    with service(node):
        process = applier(node)
        for number in range(3):
            node.run(["busybox", "kill", "-KILL", process.name])
            process = applier(node, process)
            write(node, [DB | {"ingress": []}] if number % 2 == 0 else [])
            until(partial(judges, web, db, number % 2 == 1), what="the policy holds")


LOCK = "/run/mesokit/locks/policy"


@contextmanager
def lock_held(node: Node) -> Iterator[None]:
    """By another one, while the block runs."""
    script = "rm -f /run/go; touch /run/held; until test -e /run/go; do sleep 0.02; done; rm /run/held"
    holder = node.popen(["flock", LOCK, "sh", "-c", script])
    until(node.path("/run/held").exists, what="the lock is held")
    yield
    node.path("/run/go").touch()
    holder.wait()


def awaits_lock(process: Path) -> bool:
    return any(str(each.readlink()).endswith(LOCK) for each in (process / "fd").iterdir())


def test_what_holds_is_what_lies_there_when_its_turn_has_come(node: Node, ours: str) -> None:
    """Who reads the files and then waits for another one's change must not take that back."""
    Box(node, ours, "db", conf(), role="db")
    with lock_held(node):
        write(node, [DB])
        applying = node.popen([MESOKIT, "policy", "apply"])
        until(partial(awaits_lock, node.path(f"/proc/{applying.pid}")), what="it waits for the lock")
        write(node, [])
    assert applying.wait().text.startswith("0 policies hold")
    with started(node.popen([MESOKIT, "node"])) as running:
        process = applier(node)
        at_rest(process)
        with lock_held(node):
            write(node, [DB])
            until(partial(awaits_lock, process), what="it waits for the lock")
            write(node, [])
        at_rest(process)
        assert b"policies applied" not in running.errors()
