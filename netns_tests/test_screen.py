"""`mesokit check` says at once that all is as made; what it says so of is what the check finds whole."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from netns_tests.node import PATH, Node
from netns_tests.plugins import MESOKIT, TOP
from netns_tests.screened import HARMS
from netns_tests.test_view import POINT, WEB, attach, published

HAIR = {"cniVersion": "1.0.0", "name": "hair-net", "type": "bridge", "bridge": "hair0", "hairpinMode": True,
        "isDefaultGateway": True, "ipam": {"type": "host-local", "subnet": "10.7.0.0/24"}}  # fmt: skip
EVERYBODY = {"b1", "b2", "p1", "p2", "h1"}
#: Whose the harm is; everybody's of a network otherwise.
WHOSE = {"host's end down": {"p1"}, "inner route gone": {"p1"}, "down inside": {"p1"}, "hairpin off": {"h1"},
         "route of the host": {"p1"}, "its route by another link": {"p1"}}  # fmt: skip


def test_the_quick_look_never_passes_what_the_check_does_not(node: Node, ours: str) -> None:
    node.uplink()
    node.shell("ip link add spare type bridge; ip link set spare up")
    for number, name in enumerate(("b1", "b2")):
        attach(node, ours, published(WEB, 8081 + number), name)
    for name in ("p1", "p2"):
        attach(node, ours, POINT, name)
    attach(node, ours, HAIR, "h1")
    env = {"PATH": f"{Path(MESOKIT).parent}:{PATH}", "PYTHONPATH": str(TOP)}
    told = node.run([sys.executable, "-m", "netns_tests.screened"], env=env, cwd=str(TOP), timeout=120)
    found = dict(zip(HARMS, map(json.loads, told.text.splitlines()), strict=True))
    assert set(found["nothing"][0]) == EVERYBODY, "the quick look sees that nothing is wrong"
    for name, (quick, slow) in found.items():
        assert set(quick) == set(slow), (name, quick, slow)
        if name != "nothing":
            assert WHOSE.get(name, {"b1"}) <= EVERYBODY - set(slow), (name, slow)
