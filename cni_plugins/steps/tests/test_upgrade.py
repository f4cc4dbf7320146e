"""Containers that the release before steps attached: records of version 1, taken down by this one.

`records_version1.json` holds records as that release (commit 40b513f) wrote them, what differs from run to
run replaced by @words@. The kernel's state is made by an ADD of this release, which is the same, then its
record is exchanged for the old one.
"""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.conftest import World
from cni_plugins.kernel.namespace import fingerprint
from cni_plugins.spec.errors import CniError
from cni_plugins.steps import version1
from cni_plugins.store.records import Contents

SAMPLES: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("records_version1.json").read_text())


def prepared(world: World) -> World:
    world.box("c1")
    for flag in ("up", "down"):  # afterwards its state is another one for good
        world.run("ip", "link", "set", "lo", flag, box="c1")
    world.run("ip", "link", "set", "lo", "up")
    world.run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1")
    for name in ("up0", "up1"):
        world.run("ip", "link", "set", name, "up")
    return world


def state(world: World) -> dict[str, Any]:
    return {
        "links": world.links(),
        "inside": world.json("ip", "-j", "link", box="c1"),
        "elements": [line for line in world.run("nft", "list", "ruleset").splitlines() if "comment" in line],
        "addresses": world.reserved("net"),
        "claims": [path for path in (world.root / "run/mesokit/claims").rglob("*") if path.is_file()],
        "chains": [line for line in world.run("iptables-save", "-t", "nat").splitlines() if "c1" in line],
        "records": world.records(),
    }


def attached(world: World, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """An attachment with a record of version 1; its configuration and result."""
    sample = SAMPLES[name]
    conf = sample["config"]
    result = world.add(conf)
    named = {
        "@root@": str(world.root),
        "@sandbox@": world.boxes["c1"].path,
        "-@inode@-": f"-{world.host.inode}-",
    }
    for item in result["interfaces"]:
        if item.get("sandbox"):
            named["@mac@"] = item["mac"]
        elif item["name"] == "br0":
            named["@bridge_mac@"] = item["mac"]
        elif item["name"].startswith("bwp"):
            named["@ifb_mac@"] = item["mac"]
        else:
            named |= {"@host@": item["name"], "@host_mac@": item["mac"]}
    text = "".join(json.dumps(line) + "\n" for line in sample["lines"])
    for word, value in named.items():
        text = text.replace(word, value)
    text = text.replace('"@netns@"', json.dumps(fingerprint(world.boxes["c1"])))
    assert "@root@" not in text and "@host" not in text
    (path,) = world.records()
    path.write_text(text)
    return conf, result


@pytest.mark.parametrize("name", SAMPLES)
def test_del_takes_down_what_the_release_before_attached(world: World, name: str) -> None:
    before = state(prepared(world))
    attached(world, name)
    world.delete({"name": "net", "type": SAMPLES[name]["config"]["type"]})
    assert state(world) == before


@pytest.mark.parametrize("name", SAMPLES)
def test_gc_takes_down_what_the_release_before_attached(world: World, name: str) -> None:
    before = state(prepared(world))
    conf, _ = attached(world, name)
    listed = [{"containerID": "c1", "ifname": "eth0"}]
    kept = conf | {"cniVersion": "1.1.0", "cni.dev/valid-attachments": listed}
    assert world.call("GC", kept).status == 0
    assert world.records()
    assert world.call("GC", kept | {"cni.dev/valid-attachments": []}).status == 0
    assert state(world) == before


@pytest.mark.parametrize("name", SAMPLES)
def test_check_of_what_the_release_before_attached(world: World, name: str) -> None:
    conf, result = attached(prepared(world), name)
    answer = world.call("CHECK", conf | {"prevResult": result})
    assert answer.status == 0, answer.document
    link = "lo" if name == "loopback" else "eth0"
    world.run("ip", "link", "set", link, "down", box="c1")
    answer = world.call("CHECK", conf | {"prevResult": result})
    assert answer.status == 1 and link in answer.document["msg"]


def test_the_old_record_of_a_name_that_is_another_container_s_by_now(world: World) -> None:
    """`hostInterface` again: the old container's namespace died, a new one got the name, the old one's DEL
    comes late."""
    prepared(world)
    conf, _ = attached(world, "bridge with hostInterface")
    world.forget("c1")
    while "web0" in world.links():
        time.sleep(0.01)
    world.add(conf, "c2")
    world.delete({"name": "net", "type": "bridge"}, "c1")
    assert "web0" in world.links()
    assert "eth0" in world.links("c2")
    assert len(world.records()) == 1


def test_an_operation_that_never_was_is_told_and_touches_nothing(world: World) -> None:
    prepared(world)
    attached(world, "bridge")
    (path,) = world.records()
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], '{"undo": "no.such", "args": {}}', *lines[2:]]) + "\n")
    before = path.read_bytes()
    answer = world.call("DEL", {"name": "net", "type": "bridge"})
    assert answer.status == 1 and "no.such" in answer.document["details"]
    assert path.read_bytes() == before
    assert "eth0" in world.links("c1")


def test_every_operation_of_version_1_is_known() -> None:
    seen = {line["undo"] for sample in SAMPLES.values() for line in sample["lines"] if "undo" in line}
    assert seen | {"vlan.release", "delegate.delete"} == set(version1._OPERATIONS)
    with pytest.raises(CniError):
        version1.decode({"undo": "no.such", "args": {}}, Contents({}, (), None))
