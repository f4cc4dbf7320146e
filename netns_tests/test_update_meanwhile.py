"""`mesokit update` while something else happens: other updates, reloads, GC, a DEL, a disk that fills, a
container whose namespace goes; and of what an older release attached."""

from __future__ import annotations

import json

from netns_tests.node import Node
from netns_tests.plugins import MESOKIT
from netns_tests.snapshot import assert_clean, snapshot
from netns_tests.test_update import CHAIN, NET, PTP, attached, record, update

KEPT = [r"file /run/mesokit/(attachments|host-local)/"]


def test_many_at_once_all_hold(node: Node, ours: str) -> None:
    words = ("mtu=1400", "routes+=10.40.0.0/16", "addresses+=10.9.0.77/24", "ports+=9090:90", "mtu=1400")
    with attached(node, ours, CHAIN) as (box, told):
        running = [node.popen([MESOKIT, "update", "c1", word]) for word in words]
        running += [node.popen([MESOKIT, *other]) for other in (["reload"], ["gc"])]
        done = [each.wait() for each in running]
        assert [each.status for each in done] == [0] * len(done), done
        node.cni("CHECK", f"{ours}/chain", told, "c1", box).ok()
        assert record(node)["revision"] == len(words)  # one of them asked for what was there
        assert "mtu 1400" in box.run(["ip", "link", "show", "eth0"]).text
        assert "10.40.0.0/16 via 10.9.0.1" in box.run(["ip", "route"]).text


def test_a_del_among_many_updates_leaves_nothing(node: Node, ours: str) -> None:
    box = node.netns("c1")
    before = snapshot(node, [box])
    node.cni("ADD", f"{ours}/chain", CHAIN, "c1", box).ok()
    words = ("mtu=1400", "addresses+=10.9.0.77/24,fd00:9::77/64", "ports+=9090:90", "routes+=10.40.0.0/16")
    running = [node.popen([MESOKIT, "update", "c1", word]) for word in words]
    node.cni("DEL", f"{ours}/chain", CHAIN, "c1", box).ok()
    for each in running:
        done = each.wait()
        assert done.status == 0 or b"detached meanwhile" in done.stderr or b"c1" in done.stderr, done
    assert_clean(node, before, "after DEL", boxes=[box])


FILL = "dd if=/dev/zero of=/run/mesokit/fill bs=4096 2>/dev/null || true"


def test_a_disk_that_is_full_leaves_the_old_or_the_new(node: Node, ours: str) -> None:
    """From no room at all to room for everything, a page at a time; DEL needs none."""
    box = node.netns("c1")
    before = snapshot(node, [box])
    node.shell("mkdir -p /run/mesokit; mount -t tmpfs -o size=256k tmpfs /run/mesokit")
    words = ["mtu=1400", "routes+=10.40.0.0/16", "addresses+=10.9.0.77/24", "ports+=9090:90"]
    allowed = [*KEPT, r"file /run/mesokit/fill"]
    outcomes = set()
    for pages in range(5):
        result = node.cni("ADD", f"{ours}/chain", CHAIN, "c1", box).ok()
        there = snapshot(node, [box])
        node.shell(f"{FILL}\ntruncate -s -{pages * 4096} /run/mesokit/fill")
        done = node.run([MESOKIT, "update", "c1", *words, "--json"], check=False)
        (outcome,) = json.loads(done.text)
        outcomes.add(outcome["changed"])
        assert outcome["changed"] or "No space left on device" in outcome["problems"][0], outcome
        if not outcome["changed"]:
            assert_clean(node, there, f"room for {pages} pages", boxes=[box], allowed=allowed)
        node.shell("rm /run/mesokit/fill")
        node.cni("CHECK", f"{ours}/chain", CHAIN | {"prevResult": result}, "c1", box).ok()
        node.shell(FILL)
        node.cni("DEL", f"{ours}/chain", CHAIN, "c1", box).ok()
        node.shell("rm /run/mesokit/fill")
    assert outcomes == {False, True}
    node.shell("umount /run/mesokit")
    assert_clean(node, before, "after DEL", boxes=[box])


def test_of_several_containers_one_dies_and_one_is_of_an_older_release(node: Node, ours: str) -> None:
    boxes = [node.netns(f"c{number}") for number in range(1, 4)]
    for box in boxes:
        node.cni("ADD", f"{ours}/ptp", PTP, box.name, box).ok()
    (old,) = [
        path
        for path in node.path("/run/mesokit/attachments/net").iterdir()
        if b'"containerID":"c2"' in path.read_bytes()
    ]
    old.write_bytes(old.read_bytes().replace(b'"version":2', b'"version":1', 1))
    boxes[2].delete()
    done = {item["containerID"]: item for item in update(node, "--network", "net", "mtu=1400", status=3)}
    assert done["c1"]["changed"]
    assert "an older release attached it" in done["c2"]["problems"][0]
    assert "network namespace is gone" in done["c3"]["problems"][0]
    file = node.path("/etc/cni/net.d/net.conf")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(NET | PTP | {"mtu": 1300}))
    rows = {row["container_id"]: row for row in json.loads(node.run([MESOKIT, "ls", "--json"]).text)["items"]}
    assert rows["c1"]["update"] and not rows["c2"]["update"]
    assert "an older release attached it" in rows["c2"]["differs"][-1]
