"""loopback."""

import json

from cni_plugins.conftest import World

CONF = {"name": "lo", "type": "loopback"}


def test_up_and_down_again(world: World) -> None:
    result = world.add(CONF | {"cniVersion": "1.0.0"})
    assert result["interfaces"] == [
        {"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": world.boxes["c1"].path}
    ]
    assert {entry["address"] for entry in result["ips"]} == {"127.0.0.1/8", "::1/128"}
    assert world.call("CHECK", CONF | {"cniVersion": "1.0.0", "prevResult": result}).status == 0
    world.delete(CONF)
    assert "UP" not in world.json("ip", "-j", "link", box="c1")[0]["flags"]
    assert world.call("CHECK", CONF | {"cniVersion": "1.0.0", "prevResult": result}).status == 1


def test_what_was_up_stays_up(world: World) -> None:
    world.box("c1")
    world.run("ip", "link", "set", "lo", "up", box="c1")
    world.add(CONF)
    assert not world.records()
    world.delete(CONF)
    assert "UP" in world.json("ip", "-j", "link", box="c1")[0]["flags"]


def test_old_shape(world: World) -> None:
    assert world.add(CONF)["ip4"] == {"ip": "127.0.0.1/8"}
    assert world.add(CONF | {"cniVersion": "0.4.0"}, "c2")["ips"][0]["version"] == "4"


def test_gc_leaves_a_namespace_alone_that_got_path_and_inode_of_one_that_died(world: World) -> None:
    """The kernel gives inodes again at once; what stays is the cookie, the last number of `netnsID`."""
    conf = CONF | {"cniVersion": "1.1.0"}
    world.add(conf)
    (record,) = world.records()
    head, _, rest = record.read_text().partition("\n")
    document = json.loads(head)
    document["netnsID"][2] -= 1
    record.write_text(json.dumps(document) + "\n" + rest)
    assert world.call("GC", conf | {"cni.dev/valid-attachments": []}).status == 0
    assert not world.records()
    assert "UP" in world.json("ip", "-j", "link", box="c1")[0]["flags"]
