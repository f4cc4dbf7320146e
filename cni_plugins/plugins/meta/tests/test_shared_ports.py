"""A port of a container that is on several networks: one of its attachments publishes, and when that one goes
another does, unless that one goes too."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cni_plugins.conftest import World

ROUNDS = 25
CONF: dict[str, Any] = {
    "cniVersion": "1.1.0",
    "name": "net",
    "type": "portmap",
    "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]},
    "delegate": {
        "type": "bridge",
        "bridge": "br0",
        "isDefaultGateway": True,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/24"}]]},
    },
}
IFNAMES = ("eth0", "eth1", "eth2")


def published(world: World) -> list[str]:
    return [line for line in world.run("nft", "list", "ruleset").splitlines() if "elements" in line]


def attached(world: World) -> None:
    for ifname in IFNAMES:
        answer = world.call("ADD", CONF, "c1", ifname)
        assert answer.status == 0, answer.document


def test_the_next_one_publishes_when_the_first_goes(world: World) -> None:
    world.box("c1")
    attached(world)
    for number, ifname in enumerate(IFNAMES):
        text = world.run("nft", "list", "map", "inet", "mesokit", "port4")
        assert re.findall(r"if: (\w+), id: c1", text)[0] in IFNAMES[number:], text
        assert world.call("DEL", CONF, "c1", ifname).status == 0
    assert published(world) == []


def test_nothing_is_published_for_one_that_goes_at_the_same_time(world: World) -> None:
    world.box("c1")
    for _ in range(ROUNDS):
        attached(world)
        with ThreadPoolExecutor(len(IFNAMES)) as pool:
            answers = list(pool.map(lambda ifname: world.call("DEL", CONF, "c1", ifname), IFNAMES))
        assert [answer.status for answer in answers] == [0, 0, 0]
        assert published(world) == []
