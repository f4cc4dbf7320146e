"""sbr: rules and tables for an interface's addresses; several at once, and taken down by whatever is left."""

import threading
from typing import Any

import pytest

from cni_plugins.conftest import World, told

INNER: dict[str, Any] = {
    "type": "ptp",
    "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": "10.9.0.0/24"}], [{"subnet": "fd00:9::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    },
}
CONF: dict[str, Any] = {"cniVersion": "1.1.0", "name": "n", "type": "sbr", "delegate": INNER}


def rules(world: World, box: str = "c1") -> list[tuple[str, str]]:
    """Source and table of each rule that has a source, of both families."""
    found = [
        (item["src"], item["table"])
        for family in ("-4", "-6")
        for item in world.json("ip", family, "-j", "rule", box=box)
    ]
    return [item for item in found if item[0] != "all"]


def table(world: World, number: str, family: str = "-4", box: str = "c1") -> dict[str, str | None]:
    listed = world.json("ip", family, "-j", "route", "show", "table", "all", box=box)
    return {item["dst"]: item.get("gateway") for item in listed if item.get("table", "main") == number}


def test_each_address_has_a_table(world: World) -> None:
    result = world.add(CONF)
    assert rules(world) == [("10.9.0.2", "100"), ("fd00:9::2", "101")]
    assert table(world, "100")["default"] == "10.9.0.1"
    assert table(world, "101", "-6")["default"] == "fd00:9::1"
    assert not table(world, "main")
    assert world.run("ip", "route", "get", "192.0.2.9", "from", "10.9.0.2", box="c1").split()[4] == "10.9.0.1"
    assert world.call("CHECK", {**CONF, "prevResult": result}).status == 0
    world.run("ip", "rule", "del", "from", "10.9.0.2", box="c1")
    answer = world.call("CHECK", {**CONF, "prevResult": result})
    assert "the rule that leads packets from 10.9.0.2 to table 100 is gone" in answer.document["msg"]
    world.delete({"name": "n", "type": "sbr"})
    assert not rules(world) and world.links("c1") == ["lo"]


def test_tables_that_are_taken_are_passed_over(world: World) -> None:
    world.box("c1")
    world.run("ip", "link", "set", "lo", "up", box="c1")
    world.run("ip", "route", "add", "198.51.100.0/24", "dev", "lo", "table", "100", box="c1")
    world.run("ip", "-6", "rule", "add", "from", "2001:db8::1", "table", "102", box="c1")
    world.add(CONF)
    assert ("10.9.0.2", "101") in rules(world) and ("fd00:9::2", "103") in rules(world)


def test_tables_are_chosen_without_a_race(world: World) -> None:
    world.box("c1")
    answers = []

    def work(number: int) -> None:
        conf = {**CONF, "name": f"n{number}"}
        answers.append(world.call("ADD", conf, ifname=f"eth{number}").status)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [0] * 6
    found = [number for _, number in rules(world)]
    assert len(found) == 12 and len(set(found)) == 12
    for number in range(6):
        world.call("DEL", {**CONF, "name": f"n{number}"}, ifname=f"eth{number}")
    assert not rules(world)


def test_it_is_removed_without_its_namespace_and_without_a_record(world: World) -> None:
    world.add(CONF)
    world.forget("c1")
    world.delete({"name": "n", "type": "sbr"})
    assert not world.records() and world.links() == ["lo"]
    world.add(CONF)
    for record in world.records():
        record.unlink()
    world.delete(CONF)
    assert not rules(world)


def test_what_was_moved_comes_back_when_the_interface_stays(world: World) -> None:
    """In a list of a runtime that takes sbr down alone."""
    world.box("c1")
    inner = {"cniVersion": "1.1.0", "name": "n", **INNER}
    result = world.add(inner)
    before = table(world, "main")
    conf = {"cniVersion": "1.1.0", "name": "n", "type": "sbr", "prevResult": result}
    assert world.add(conf)["ips"] == result["ips"]
    assert table(world, "main") != before
    world.delete(conf)
    assert table(world, "main") == before and not table(world, "100")


def test_a_table_of_ones_own_has_rules_alone(world: World) -> None:
    world.add({**CONF, "table": 5000})
    assert rules(world) == [("10.9.0.2", "5000"), ("fd00:9::2", "5000")]
    assert table(world, "main")["default"] == "10.9.0.1"
    assert not table(world, "5000")
    world.delete(CONF)
    assert not rules(world)


def test_source_hints_keep_the_subnets_in_the_main_table(world: World) -> None:
    world.run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1")
    for name in ("up0", "up1"):
        world.run("ip", "link", "set", name, "up")
    inner = {**INNER, "type": "macvlan", "master": "up0"}
    world.add({**CONF, "delegate": inner, "addSourceHints": True})
    (route,) = world.json("ip", "-4", "-j", "route", box="c1")
    assert (route["dst"], route["prefsrc"]) == ("10.9.0.0/24", "10.9.0.2")
    assert table(world, "100") == {"default": "10.9.0.1", "10.9.0.0/24": None}
    world.delete(CONF)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            {"gateways": ["10.9.0.1", "10.9.0.9"]},
            "gateways has multiple IPv4 addresses: 10.9.0.1 and 10.9.0.9",
        ),
        ({"gateways": ["203.0.113.1"]}, "no address of eth0 reaches that gateway"),
        ({"gateways": ["x"]}, "gateways[0] is 'x'"),
        ({"table": 0}, "table is 0"),
        ({"delegate": {"type": "ptp"}}, "prevResult has no address"),
        ({"delegate": None}, "there is no prevResult"),
    ],
)
def test_what_cannot_be_is_refused(world: World, keys: dict[str, Any], said: str) -> None:
    error = world.refused({**CONF, **keys})
    assert error["code"] == 7 and said in told(error)
    assert world.links("c1") == ["lo"] and not world.records()


def test_an_address_of_an_interface_beyond_the_list_is_its_own(world: World) -> None:
    """As in the reference's own specs: prevResult tells of one interface, and of an address of the second."""
    world.box("c1")
    result = world.add({"cniVersion": "1.0.0", "name": "n", **INNER})
    assert len(result["interfaces"]) == 2
    result["ips"][1]["interface"] = 2
    world.add({"cniVersion": "1.0.0", "name": "n", "type": "sbr", "prevResult": result})
    assert len(rules(world)) == 2
