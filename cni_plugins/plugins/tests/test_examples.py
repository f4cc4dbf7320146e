"""Whatever is asked of any plugin: one answer, nothing changed when refused, nothing left after DEL."""

import json
import random
import threading
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cni_plugins.conftest import Answer, World
from cni_plugins.plugins.tests.examples import COMMON, EXAMPLES, LEASE, Conf, changed
from netns_tests.glance import digest, ruled

LONG = ("3b241101-e2bb-4255-8caf-4136c566a962." * 7)[:250]
NAMES = st.sampled_from(COMMON)
SEEDS = st.integers(0, 2**32)
FUZZ = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def prepared(world: World) -> World:
    """A link to be a master, an address to publish ports on, and a `lo` in c1 that has been up once."""
    if "c1" not in world.boxes:
        world.box("c1")
        for state in ("up", "down"):
            world.run("ip", "link", "set", "lo", state, box="c1")
        world.run("ip", "link", "add", "dum0", "type", "veth", "peer", "name", "dum1")
        world.run("ip", "addr", "add", "192.0.2.2/24", "dev", "dum0")
        world.run("ip", "link", "set", "dum0", "up")
        (world.root / "subnet.env").write_text(LEASE)
    return world


def _said(world: World, box: str | None) -> dict[str, Any]:
    """What `ip` says of a namespace."""
    seen: dict[str, Any] = {}
    for item in world.json("ip", "-j", "addr", box=box):
        held = [entry["local"] for entry in item["addr_info"] if entry["scope"] != "link"]
        seen[item["ifname"]] = (item["mtu"], item["address"], sorted(held))
    routes = world.json("ip", "-j", "route", "show", "table", "all", box=box)
    seen["routes"] = sorted(str(item["dst"]) for item in routes if item.get("table") != "local")
    return seen


def state(world: World) -> dict[str, Any]:
    """What a plugin could have changed and not put back. `ip` is started only for what it was not given
    before (glance.py): starting it before and after each of some hundred calls took longer than the calls."""
    seen: dict[str, Any] = {}
    for box in (None, "c1"):
        place = (world.boxes[box] if box else world.host).path
        before = digest(place)
        if before is None or before not in world.said:
            said = _said(world, box)
            if before is not None and digest(place) == before:
                world.said[before] = said
        else:
            said = world.said[before]
        seen |= {f"{box} {name}": value for name, value in said.items()}
    rules = world.run("nft", "list", "ruleset").splitlines() if ruled(world.host.path) else []
    seen["elements"] = [line.strip() for line in rules if "elements" in line]
    seen["files"] = [
        path
        for path in world.root.rglob("*")
        if path.is_file()
        and path.parent.parent.name in {"networks", "data", "attachments"}
        and path.name != "lock"
        and not path.name.startswith("last_reserved_ip")
    ]
    return seen


def call(world: World, verb: str, conf: Conf, plugin: str, **more: str) -> Answer:
    return world.call(verb, json.dumps(conf).encode(), PLUGIN=plugin, **more)


@pytest.mark.parametrize("name", COMMON)
def test_a_long_life(world: World, name: str) -> None:
    """ADD, CHECK, then DEL with nothing but the identity, which has names of 250 characters."""
    before = state(prepared(world))
    world.boxes[LONG] = world.boxes["c1"]
    conf = EXAMPLES[name] | {"name": "n" * 250}
    added = call(world, "ADD", conf, conf["type"], box=LONG)
    assert added.status == 0, added.document
    if conf["cniVersion"] >= "0.4.0":
        answer = call(world, "CHECK", conf | {"prevResult": added.document}, conf["type"], box=LONG)
        assert answer.status == 0, answer.document
    for _ in range(2):
        gone = call(world, "DEL", {"name": "n" * 250}, conf["type"], box=LONG, CNI_NETNS="", CNI_PATH="")
        assert gone.status == 0, gone.document
    del world.boxes[LONG]
    assert state(world) == before


@FUZZ
@given(name=NAMES, seed=SEEDS)
def test_add_of_anything_is_refused_without_a_trace_or_undone_by_del(
    world: World, name: str, seed: int
) -> None:
    before = state(prepared(world))
    plugin = EXAMPLES[name]["type"]
    conf = changed(EXAMPLES[name], random.Random(seed))
    answer = call(world, "ADD", conf, plugin)
    if answer.status:
        assert {"code", "msg", "cniVersion"} <= set(answer.document)
        assert "internal error" not in answer.document["msg"], answer.document
    else:
        gone = call(world, "DEL", conf, plugin)
        assert gone.status == 0, gone.document
    assert state(world) == before, conf


@FUZZ
@given(name=NAMES, seed=SEEDS, verb=st.sampled_from(("DEL", "DEL", "DEL", "GC")), netns=st.booleans())
def test_del_and_gc_work_with_any_configuration(
    world: World, name: str, seed: int, verb: str, netns: bool
) -> None:
    before = state(prepared(world))
    plugin = EXAMPLES[name]["type"]
    added = call(world, "ADD", EXAMPLES[name], plugin)
    assert added.status == 0, added.document
    conf = changed(EXAMPLES[name], random.Random(seed))
    conf = {key: value for key, value in conf.items() if key.casefold() not in {"name", "cniversion"}}
    conf |= {"name": "net", "cniVersion": "1.1.0", "cni.dev/valid-attachments": []}
    answer = call(world, verb, conf, plugin, **({} if netns else {"CNI_NETNS": ""}))
    # GC speaks of delegates that it cannot call, after it has done its own.
    assert answer.status == 0 or (verb == "GC" and answer.code != 999), answer.document
    assert state(world) == before, conf


def test_everything_at_once(world: World) -> None:
    """Threads attach, detach, check and collect the same few containers in any order; in the end all goes."""
    before = state(prepared(world))
    boxes = ["c1", "c2", "c3"]
    for box in boxes:
        world.box(box)
    confs = [EXAMPLES[name] for name in ("bridge", "chain", "ptp", "tuning", "bandwidth")]
    confs[2:4] = [confs[2] | {"name": "other"}, confs[3] | {"name": "third"}]
    broken: list[Any] = []

    def work(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(25):
            conf, box, ifname = dice.choice(confs), dice.choice(boxes), dice.choice(("eth0", "eth1"))
            verb = dice.choice(("ADD", "ADD", "ADD", "DEL", "DEL", "CHECK", "GC"))
            listed = [{"containerID": item, "ifname": "eth0"} for item in boxes]
            more = {"cni.dev/valid-attachments": listed, "prevResult": {"cniVersion": "1.1.0"}}
            answer = world.call(verb, conf | (more if verb in {"CHECK", "GC"} else {}), box, ifname)
            if answer.status and (verb in {"DEL", "GC"} or "internal error" in answer.document["msg"]):
                broken.append((verb, conf["type"], answer.document))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not broken
    for conf in confs:
        for box in boxes:
            for ifname in ("eth0", "eth1"):
                answer = world.call("DEL", conf, box, ifname)
                assert answer.status == 0, answer.document
    assert state(world) == before
    assert all(world.links(box) == ["lo"] for box in boxes)
