"""No room, or nothing that may be written, where we keep what we know: ADD says so, DEL comes through where
there is nothing to take back; what there is to take back is not lost.

A file system of a few files is mounted where reservations or records are, larger by one file each time until
an ADD succeeds. So each place where ADD makes a file is met by one that cannot.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from netns_tests.case import Conf
from netns_tests.node import Answer, Netns, Node
from netns_tests.snapshot import assert_clean, snapshot

RESERVATIONS, STATE, RUN = "/var/lib/cni", "/var/lib/mesokit", "/run/mesokit"
DUAL: Conf = {
    "type": "host-local",
    "ranges": [[{"subnet": "10.9.0.0/24"}], [{"subnet": "fd00:9::/64"}]],
}
HEAD: Conf = {"cniVersion": "1.1.0", "name": "n"}
PORTS = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]
LIST: list[Conf] = [
    {"type": "bridge", "bridge": "b0", "isDefaultGateway": True, "ipMasq": True, "ipam": DUAL},
    {"type": "tuning", "mtu": 1300, "dataDir": "/var/lib/cni/tuning"},
    {"type": "bandwidth", "ingressRate": 8_000_000, "ingressBurst": 8_000_000},
    {"type": "firewall"},
    {"type": "portmap", "runtimeConfig": {"portMappings": PORTS}},
]
NETWORKS: dict[str, Conf] = {
    "bridge": {**HEAD, **LIST[0]},
    "host-local": {**HEAD, "type": "host-local", "ipam": DUAL},
    "chain": {**HEAD, "type": "chain", "plugins": LIST},
}
PLACES = [
    ("bridge", RESERVATIONS), ("host-local", RESERVATIONS), ("chain", RUN), ("chain", STATE),
]  # fmt: skip


def remount(node: Node, place: str, options: str, *, again: bool = False) -> None:
    """A new file system, in the place of the one before if there was one."""
    before = f"umount {place}; " if again else ""
    node.shell(f"mkdir -p {place}; {before}mount -t tmpfs -o {options} tmpfs {place}")


def left(node: Node, place: str) -> list[str]:
    """Records and reservations."""
    found = node.path(place).rglob("*")
    return [
        str(path)
        for path in found
        if path.name.startswith("10.9.") or path.parent.parent.name == "attachments"
    ]


class Two:
    """Calls for two containers of a network."""

    def __init__(self, node: Node, folder: str, network: Conf) -> None:
        self.node, self.network = node, network
        self.plugin = f"{folder}/{network['type']}"
        self.boxes: dict[str, Netns] = {name: node.netns(name) for name in ("c1", "c2")}

    def __call__(self, verb: str, name: str) -> Answer:
        return self.node.cni(verb, self.plugin, self.network, name, self.boxes[name])


def _sizes(place: str) -> Iterator[str]:
    yield "ro"
    yield from (f"nr_inodes={files}" for files in range(1, 40))
    if place == RESERVATIONS:
        yield from (f"size={4096 * pages}" for pages in range(1, 10))


@pytest.mark.parametrize(("network", "place"), PLACES)
def test_what_an_add_without_room_left_is_detached_at_once(
    node: Node, ours: str, network: str, place: str
) -> None:
    node.uplink()
    call = Two(node, ours, NETWORKS[network])
    before = snapshot(node, call.boxes.values())
    done = ""
    for options in _sizes(place):
        if done and options.startswith(done):
            continue
        remount(node, place, options, again=options != "ro")
        added = call("ADD", "c1")
        assert added.code in {0, 5}, (options, added.error)
        deleted = call("DEL", "c1")
        assert deleted.code == 0, (options, added.error, deleted.error)
        assert not left(node, place), options
        if added.code == 0 and "=" in options:
            done = options.partition("=")[0]
    assert done
    node.shell(f"umount {place}")
    assert_clean(node, before, boxes=call.boxes.values())


@pytest.mark.parametrize("options", ["ro", "size={}", "nr_inodes={}"])
@pytest.mark.parametrize(("network", "place"), PLACES)
def test_what_is_there_to_take_back_is_taken_back_or_kept(
    node: Node, ours: str, network: str, place: str, options: str
) -> None:
    """One container is attached, then there is no room any more."""
    node.uplink()
    call = Two(node, ours, NETWORKS[network])
    before = snapshot(node, call.boxes.values())
    remount(node, place, "mode=755")
    call("ADD", "c2").ok()
    columns = "used" if "size" in options else "iused"
    used = node.shell(f"df -B1 --output={columns} {place} | tail -1").strip()
    used = used if int(used) else "4096"  # a size of 0 is none
    node.shell(f"mount -o remount,{options.format(used)} {place}")
    added = call("ADD", "c1")
    assert added.code in {0, 5, 103}, added.error  # 103: c2 has the port
    if added.code:
        assert call("DEL", "c1").code == 0
    said = call("DEL", "c2")
    assert said.code == 0 or (options, said.code) == ("ro", 5), said.error
    assert said.code or place == STATE or added.code == 0 or not left(node, place)
    node.shell(f"mount -o remount,rw,size=10m,nr_inodes=1000 {place}")
    for name in call.boxes:
        call("DEL", name).ok()
    assert not left(node, place)
    node.shell(f"umount {place}")
    assert_clean(node, before, boxes=call.boxes.values())
