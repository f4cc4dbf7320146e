"""Many calls at once, and calls killed at random."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from netns_tests.case import DUAL, V4, bridge
from netns_tests.load import mortal_service
from netns_tests.node import Netns, Node, answer
from netns_tests.snapshot import assert_clean, snapshot

CONF = {"cniVersion": "1.1.0", "name": "net", **bridge(DUAL, isDefaultGateway=True, ipMasq=True)}


def test_two_containers_at_once_on_a_new_bridge(node: Node, plugins: str) -> None:
    before = snapshot(node)
    bridge_plugin = f"{plugins}/bridge"
    conf = {"cniVersion": "1.1.0", "name": "net", **bridge(V4, isGateway=True)}
    for number in range(20):
        boxes = [node.netns(f"a{number}"), node.netns(f"b{number}")]
        adds = [node.cni_start("ADD", bridge_plugin, conf, box.name, box) for box in boxes]
        addresses = [answer(add.wait()).ok()["ips"][0]["address"].partition("/")[0] for add in adds]
        assert len(set(addresses)) == 2
        if number % 5 == 0:
            assert boxes[0].ping(addresses[1]) and boxes[1].ping(addresses[0]) and boxes[0].ping("10.9.0.1")
        deletes = [node.cni_start("DEL", bridge_plugin, conf, box.name, box) for box in boxes]
        for delete in deletes:
            answer(delete.wait()).ok()
        for box in boxes:
            box.delete()
    assert_clean(node, before)


class Held:
    """The addresses in use; taking one that is in use is an error."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._addresses: set[str] = set()

    def take(self, result: dict[str, Any]) -> list[str]:
        addresses = [entry["address"] for entry in result["ips"]]
        with self._lock:
            assert not self._addresses.intersection(addresses), f"given twice: {addresses}"
            self._addresses.update(addresses)
        return addresses

    def give(self, addresses: list[str]) -> None:
        with self._lock:
            self._addresses.difference_update(addresses)


def _rounds(node: Node, plugins: str, box: Netns, held: Held, rounds: int) -> None:
    for number in range(rounds):
        cid = f"{box.name}-{number}"
        addresses = held.take(node.cni("ADD", f"{plugins}/bridge", CONF, cid, box).ok())
        held.give(addresses)
        assert node.cni("DEL", f"{plugins}/bridge", CONF, cid, box).code == 0


def _workers(node: Node, count: int) -> list[Netns]:
    return [node.netns(f"w{number}") for number in range(count)]


@pytest.mark.parametrize(("plugins", "rounds"), [("service", 50), ("one-shot", 2)], indirect=["plugins"])
def test_sixteen_workers(node: Node, plugins: str, rounds: int) -> None:
    before = snapshot(node)
    boxes = _workers(node, 16)
    held = Held()
    with ThreadPoolExecutor(len(boxes)) as pool:
        for done in [pool.submit(_rounds, node, plugins, box, held, rounds) for box in boxes]:
            done.result()
    for box in boxes:
        box.delete()
    assert_clean(node, before)


def _killed_rounds(node: Node, plugins: str, box: Netns, seed: int) -> None:
    chance = random.Random(seed)
    for number in range(6):
        cid = f"{box.name}-{number}"
        verb = chance.choice(["ADD", "ADD", "DEL"])
        if verb == "DEL" and node.cni("ADD", f"{plugins}/bridge", CONF, cid, box).code != 0:
            continue
        running = node.cni_start(verb, f"{plugins}/bridge", CONF, cid, box)
        try:
            running.wait(chance.uniform(0.05, 0.6))
        except TimeoutError:
            running.kill()
            running.wait()
        if chance.random() < 0.6:
            assert node.cni("DEL", f"{plugins}/bridge", CONF, cid, box).code == 0


def test_killed_at_random_then_collected(node: Node, ours: str) -> None:
    before = snapshot(node)
    boxes = _workers(node, 16)
    with ThreadPoolExecutor(len(boxes)) as pool:
        for done in [pool.submit(_killed_rounds, node, ours, box, seed) for seed, box in enumerate(boxes)]:
            done.result()
    collect = {**CONF, "cni.dev/valid-attachments": []}
    assert node.cni("GC", f"{ours}/bridge", collect, ifname="").code == 0
    for box in boxes:
        box.delete()
    assert_clean(node, before)


def test_the_service_is_killed_at_random(node: Node, ours: str) -> None:
    before = snapshot(node)
    boxes = _workers(node, 16)
    held = Held()
    with (
        mortal_service(node, 7, (0.4, 1.2), ("all", "all", "workers")) as lives,
        ThreadPoolExecutor(len(boxes)) as pool,
    ):
        while len(lives) < 4:
            for done in [pool.submit(_rounds, node, ours, box, held, 4) for box in boxes]:
                done.result()
    collect = {**CONF, "cni.dev/valid-attachments": []}
    assert node.cni("GC", f"{ours}/bridge", collect, ifname="").code == 0
    for box in boxes:
        box.delete()
    assert_clean(node, before, allowed=[r"socket /run/mesokit/(node|dhcp).sock"])
