"""Rules that somebody flushed are missed by CHECK, made again by reload, and by the next ADD; with the last
attachment the tables go."""

import threading
from typing import Any

import pytest

from cni_plugins.attach.reload import reload
from cni_plugins.conftest import World
from cni_plugins.plugins.registry import Plugins
from cni_plugins.spec.roots import roots_from

IPAM = {"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/24"}], [{"subnet": "fd00:9::/64"}]]}
BRIDGE: dict[str, Any] = {
    "cniVersion": "1.1.0",
    "name": "n",
    "type": "bridge",
    "bridge": "br0",
    "isDefaultGateway": True,
    "ipMasq": True,
    "macspoofchk": True,
    "ipam": IPAM,
}
MAPPINGS = [
    {"hostPort": 8080, "containerPort": 80},
    {"hostPort": 8053, "containerPort": 53, "protocol": "udp", "hostIP": "192.0.2.2"},
]
CHAIN: dict[str, Any] = {
    "cniVersion": "1.1.0",
    "name": "n",
    "type": "chain",
    "runtimeConfig": {"portMappings": MAPPINGS},
    "plugins": [
        BRIDGE,
        {"type": "portmap", "capabilities": {"portMappings": True}},
        {
            "type": "bandwidth",
            "ingressRate": 8_000_000,
            "ingressBurst": 800_000,
            "egressRate": 4_000_000,
            "egressBurst": 400_000,
        },
    ],
}
HARMS = [
    "nft flush chain inet mesokit postrouting",
    "nft flush chain inet mesokit prerouting",
    "nft flush chain inet mesokit publish",
    "nft flush chain inet mesokit leave_10.9.0.0/24",
    "nft flush chain inet mesokit answer_10.9.0.0/24",
    "nft flush map inet mesokit masquerade4",
    "nft flush map inet mesokit port4",
    "nft delete table inet mesokit",
    "nft flush chain bridge mesokit prerouting",
    "nft flush set bridge mesokit guarded",
    "nft flush ruleset",
]
MORE = [
    "sysctl -qw net.ipv4.ip_forward=0",
    "ip addr del 10.9.0.1/24 dev br0",
    "tc qdisc del dev {host} root",
    "tc qdisc del dev {host} ingress",
    "tc qdisc del dev {ifb} root",
    "ip link set {ifb} down",
    "ip link del {ifb}",
    "sysctl -qw net.ipv4.conf.br0.route_localnet=0",
]


def ruleset(world: World) -> str:
    """What nft tells, without handles and in the order of names."""
    tables = world.run("nft", "-s", "list", "ruleset").split("\n}\n")
    return "\n".join(sorted("\n".join(sorted(item.splitlines())) for item in tables))


def prepared(world: World) -> World:
    world.run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1")
    world.run("ip", "addr", "add", "192.0.2.2/24", "dev", "up0")
    world.run("ip", "link", "set", "up0", "up")
    return world


def again(world: World, **which: str) -> list[tuple[str, ...]]:
    outcomes = reload(roots_from({"MESOKIT_ROOT": str(world.root)}), world.host, Plugins(), **which)
    return [item.errors for item in outcomes]


def check(world: World, result: Any, box: str = "c1") -> Any:
    answer = world.call("CHECK", CHAIN | {"prevResult": result}, box)
    return answer.document["msg"] if answer.status else ""


@pytest.mark.parametrize("harm", HARMS + MORE)
def test_reload_makes_again_what_was_flushed(world: World, harm: str) -> None:
    """C9. CHECK says what is missing, reload restores the very same ruleset, and CHECK passes again."""
    result = prepared(world).add(CHAIN)
    host = next(item["name"] for item in result["interfaces"] if item["name"].startswith("veth"))
    ifb = next(item["name"] for item in result["interfaces"] if item["name"].startswith("bwp"))
    before = ruleset(world)
    assert check(world, result) == ""
    world.run(*harm.format(host=host, ifb=ifb).split())
    assert check(world, result) != ""
    assert again(world) == [()]
    assert check(world, result) == ""
    assert ruleset(world) == before
    assert again(world) == [()]
    assert ruleset(world) == before
    world.delete(CHAIN)
    assert "mesokit" not in world.run("nft", "list", "ruleset")


@pytest.mark.parametrize("harm", [item for item in HARMS if "chain" in item and "_" not in item])
def test_the_next_add_repairs_base_chains(world: World, harm: str) -> None:
    """C9. For all containers: what decides is the same few rules."""
    result = prepared(world).add(CHAIN)
    world.run(*harm.split())
    assert check(world, result) != ""
    world.add(CHAIN | {"runtimeConfig": {"portMappings": [{"hostPort": 9090, "containerPort": 80}]}}, "c2")
    assert check(world, result) == ""


def test_reload_of_one_network_or_container(world: World) -> None:
    conf = {key: value for key, value in BRIDGE.items() if key != "macspoofchk"}
    first = world.add(conf)
    other = conf | {"name": "m", "bridge": "br1", "ipam": {"type": "host-local", "subnet": "10.8.0.0/24"}}
    world.add(other, "c2")
    world.run("nft", "flush", "ruleset")
    assert again(world, network="m") == [()]
    assert again(world, container="c3") == []
    assert world.call("CHECK", conf | {"prevResult": first}).status == 1
    assert again(world, container="c1") == [()]
    assert world.call("CHECK", conf | {"prevResult": first}).status == 0


def test_reload_leaves_alone_what_died_and_what_is_another_host_s(world: World) -> None:
    world.add(BRIDGE)
    (path,) = world.records()
    whole = path.read_text()
    path.write_text("".join(whole.splitlines(keepends=True)[:-1]))  # without its result
    world.run("nft", "flush", "ruleset")
    assert again(world) == []
    path.write_text(whole.replace(f'"hostID":[{world.host.device},{world.host.inode}]', '"hostID":[4,1]'))
    assert again(world) == []
    assert world.run("nft", "list", "ruleset") == ""


def test_reload_of_a_record_of_a_newer_release_says_so(world: World) -> None:
    world.add(BRIDGE)
    (path,) = world.records()
    path.write_text(path.read_text() + '{"step": "wireguard", "id": 99, "args": {}}\n')
    ((error,),) = again(world)
    assert "wireguard" in error


# The tables go with the last element


def test_tables_go_with_the_last_attachment(world: World) -> None:
    """M4."""
    prepared(world).add(CHAIN)
    other = {"runtimeConfig": {"portMappings": [{"hostPort": 9090, "containerPort": 80}]}}
    world.add(CHAIN | other, "c2")
    world.delete(CHAIN)
    assert "table inet mesokit" in world.run("nft", "list", "ruleset")
    assert "table bridge mesokit" in world.run("nft", "list", "ruleset")
    world.delete(CHAIN, "c2")
    assert world.run("nft", "list", "ruleset") == ""


def test_tables_go_after_gc(world: World) -> None:
    world.add(BRIDGE)
    world.forget("c1")
    answer = world.call("GC", BRIDGE | {"cni.dev/valid-attachments": []})
    assert answer.status == 0, answer.document
    assert world.run("nft", "list", "ruleset") == ""


def test_a_table_that_goes_takes_nobody_s_element_along(world: World) -> None:
    """M4. Containers come and go so that the last one often goes while another comes."""
    wrong: list[Any] = []

    def attach(number: int) -> None:
        conf = BRIDGE | {
            "bridge": f"br{number}",
            "name": f"n{number}",
            "ipam": {"type": "host-local", "subnet": f"10.{number}.0.0/24"},
        }
        for _ in range(12):
            box = f"b{number}"
            result = world.add(conf, box)
            answer = world.call("CHECK", conf | {"prevResult": result}, box)
            if answer.status:
                wrong.append(answer.document)
            world.delete(conf, box)

    threads = [threading.Thread(target=attach, args=(number,)) for number in range(1, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert world.run("nft", "list", "ruleset") == ""
