"""bridge, in namespaces of its own."""

import socket
import threading
from contextlib import suppress
from typing import Any

import pytest

from cni_plugins.conftest import World, told
from cni_plugins.kernel.namespace import entered

IPAM = {"type": "host-local", "subnet": "10.9.0.0/24"}
DUAL = {"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/24"}], [{"subnet": "fd00:9::/64"}]]}
LAYER2: dict[str, Any] = {"cniVersion": "1.0.0", "name": "n", "type": "bridge", "bridge": "br0"}
CONF = LAYER2 | {"ipam": IPAM}


def addresses(world: World, link: str, box: str | None = None) -> set[str]:
    (found,) = world.json("ip", "-j", "addr", "show", "dev", link, box=box)
    return {
        f"{item['local']}/{item['prefixlen']}" for item in found["addr_info"] if item["scope"] == "global"
    }


def test_result_and_kernel_agree(world: World) -> None:
    result = world.add(CONF | {"isDefaultGateway": True, "ipam": DUAL})
    bridge, port, inside = result["interfaces"]
    (eth0,) = world.json("ip", "-j", "link", "show", "eth0", box="c1")
    (br0,) = world.json("ip", "-j", "link", "show", "br0")
    assert (bridge["name"], bridge["mac"], br0["ifalias"]) == ("br0", br0["address"], "mesokit")
    assert (inside["mac"], inside["sandbox"]) == (eth0["address"], world.boxes["c1"].path)
    assert world.json("ip", "-j", "link", "show", port["name"])[0]["master"] == "br0"
    assert addresses(world, "eth0", "c1") == {"10.9.0.2/24", "fd00:9::2/64"}
    assert addresses(world, "br0") == {"10.9.0.1/24", "fd00:9::1/64"}
    assert [route["dst"] for route in result["routes"]] == ["0.0.0.0/0", "::/0"]
    gateways = [
        world.json("ip", "-j", family, "route", "show", "default", box="c1")[0] for family in ("-4", "-6")
    ]
    assert [route["gateway"] for route in gateways] == ["10.9.0.1", "fd00:9::1"]
    assert all(entry["interface"] == 2 for entry in result["ips"])
    check = world.call("CHECK", CONF | {"isDefaultGateway": True, "ipam": DUAL, "prevResult": result})
    assert check.status == 0, check.document


def test_delete_leaves_nothing_and_may_be_repeated(world: World) -> None:
    conf = CONF | {"isGateway": True, "ipMasq": True, "macspoofchk": True}
    world.add(conf)
    world.add(conf, "c2")
    world.delete(conf)
    assert "br0" in world.links()
    world.delete(conf, "c2")
    world.delete(conf, "c2")
    world.delete(conf, "never")
    assert world.links() == ["lo"]
    assert world.links("c1") == ["lo"]
    assert not world.records()
    assert not world.reserved("n")
    assert "comment" not in world.run("nft", "list", "ruleset")


def test_delete_needs_neither_namespace_nor_valid_configuration(world: World) -> None:
    world.add(CONF | {"isGateway": True, "ipMasq": True})
    world.forget("c1")
    world.delete(
        {"cniVersion": "9.9", "name": "n", "type": "bridge", "bridge": 7, "ipam": {"type": "host-local"}}
    )
    assert world.links() == ["lo"]
    assert not world.reserved("n")


@pytest.mark.parametrize(
    ("change", "code", "word"),
    [
        ({"hairpinMode": True, "promiscMode": True}, 7, "hairpinMode"),
        ({"disableContainerInterface": True}, 7, "disableContainerInterface"),
        ({"isGatway": True}, 2, "isGateway"),
        ({"isGateway": "yes"}, 7, "isGateway"),
        ({"mtu": -1}, 7, "mtu"),
        ({"vlan": 4095}, 7, "vlan"),
        ({"vlanTrunk": [{"minID": 5}]}, 7, "vlanTrunk"),
        ({"vlanTrunk": [{"minID": 5, "maxID": 4}]}, 7, "vlanTrunk"),
        ({"vlanTrunk": [{}]}, 7, "vlanTrunk"),
        ({"vlan": 100, "isGateway": True, "bridge": "averylongbrid"}, 7, "vlan"),
        ({"bridge": "a/b"}, 7, "bridge"),
        ({"runtimeConfig": {"mac": "zz"}}, 7, "runtimeConfig.mac"),
        ({"dns": {"nameservers": "x"}}, 6, "dns.nameservers"),
        ({"ipam": {"type": "no-such"}}, 7, "no-such"),
        ({"nptv6": {"fd00:88::/64": "2001:db8::/48"}}, 7, "nptv6['fd00:88::/64']"),
        ({"nptv6": {"fd00:88::/64": "2001:db8::/64"}}, 7, "no address of the container is in it"),
        (
            {"nptv6": {"fd00:88::/64": "2001:db8::/64"}, "ipam": DUAL},
            7,
            "no subnet of ipam is in it: fd00:9::/64",
        ),
        ({"ipMasqBackend": "pf"}, 7, "ipMasqBackend"),
    ],
)
def test_refused_without_a_trace(world: World, change: dict[str, Any], code: int, word: str) -> None:
    error = world.refused(CONF | change)
    assert (error["code"], error["cniVersion"]) == (code, "1.0.0")
    assert word in told(error)
    assert world.links() == world.links("c1") == ["lo"]
    assert not world.records()
    assert not world.reserved("n")


def test_the_container_may_have_the_interface_already(world: World) -> None:
    world.box("c1")
    world.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other", box="c1")
    assert "eth0" in world.refused(CONF)["msg"]
    assert world.links("c1") == ["eth0", "lo", "other"]


def test_second_add_is_refused_and_harms_nothing(world: World) -> None:
    world.add(CONF)
    assert world.refused(CONF)["code"] == 7
    assert addresses(world, "eth0", "c1") == {"10.9.0.2/24"}
    assert world.reserved("n") == ["10.9.0.2"]


def test_failure_late_in_add_takes_everything_back(world: World) -> None:
    world.run("ip", "link", "add", "br0", "type", "bridge")
    world.run("ip", "addr", "add", "10.1.0.1/24", "dev", "br0")
    error = world.refused(CONF | {"isGateway": True})
    assert "forceAddress" in error["details"]
    assert world.links() == ["br0", "lo"]
    assert addresses(world, "br0") == {"10.1.0.1/24"}
    assert not world.records()
    assert not world.reserved("n")
    world.add(CONF | {"isGateway": True, "forceAddress": True})
    assert addresses(world, "br0") == {"10.9.0.1/24"}


def test_foreign_bridge_is_joined_and_left(world: World) -> None:
    world.run("ip", "link", "add", "br0", "mtu", "1400", "type", "bridge")
    result = world.add(LAYER2)
    (br0,) = world.json("ip", "-j", "link", "show", "br0")
    assert br0["flags"].count("UP") == 1
    assert result["interfaces"][0]["mac"] == br0["address"]
    assert world.json("ip", "-j", "link", "show", "eth0", box="c1")[0]["mtu"] == 1400
    world.delete(LAYER2)
    assert world.links() == ["br0", "lo"]


def test_other_kind_of_link_is_no_bridge(world: World) -> None:
    world.run("ip", "link", "add", "br0", "type", "veth", "peer", "name", "v1")
    assert "veth" in told(world.refused(CONF))
    assert not world.reserved("n")


def test_layer_2_in_every_version(world: World) -> None:
    for version in ("", "0.2.0", "0.4.0", "1.1.0"):
        conf = LAYER2 | {"cniVersion": version}
        result = world.add(conf)
        assert result["cniVersion"] == (version or "0.1.0")
        assert world.json("ip", "-j", "link", "show", "eth0", box="c1")[0]["operstate"] == "UP"
        if version >= "0.4.0":
            assert world.call("CHECK", conf | {"prevResult": result}).status == 0
        world.delete(conf)


def test_options_of_port_and_bridge(world: World) -> None:
    conf = LAYER2 | {
        "portIsolation": True,
        "hairpinMode": True,
        "disableContainerInterface": True,
        "mtu": 1300,
    }
    result = world.add(conf)
    (port,) = world.json("ip", "-j", "-d", "link", "show", result["interfaces"][1]["name"])
    data = port["linkinfo"]["info_slave_data"]
    assert (data["isolated"], data["hairpin"], port["mtu"]) == (True, True, 1300)
    (eth0,) = world.json("ip", "-j", "link", "show", "eth0", box="c1")
    assert "UP" not in eth0["flags"]
    # Without a carrier the kernel gives the bridge no address of its own.
    assert [item["scope"] for item in world.json("ip", "-j", "addr", "show", "br0")[0]["addr_info"]] == [
        "link"
    ]
    assert world.call("CHECK", conf | {"prevResult": result}).status == 0
    world.run("ip", "link", "set", port["ifname"], "type", "bridge_slave", "hairpin", "off")
    assert "hairpin" in world.call("CHECK", conf | {"prevResult": result}).document["msg"]
    world.delete(conf)
    world.add(LAYER2 | {"promiscMode": True})
    assert "PROMISC" in world.json("ip", "-j", "link", "show", "br0")[0]["flags"]


def test_mac_comes_from_the_last_of_three_places(world: World) -> None:
    places: list[tuple[dict[str, Any], str, str]] = [
        ({}, "MAC=02:00:00:00:00:01", "02:00:00:00:00:01"),
        ({"args": {"cni": {"mac": "02:00:00:00:00:02"}}}, "MAC=02:00:00:00:00:01", "02:00:00:00:00:02"),
        (
            {"args": {"cni": {"mac": "02:00:00:00:00:02"}}, "runtimeConfig": {"mac": "02:00:00:00:00:0A"}},
            "MAC=02:00:00:00:00:01",
            "02:00:00:00:00:0a",
        ),
    ]
    for change, args, mac in places:
        result = world.add(LAYER2 | change, CNI_ARGS=args)
        assert result["interfaces"][2]["mac"] == mac
        assert world.json("ip", "-j", "link", "show", "eth0", box="c1")[0]["address"] == mac
        world.delete(LAYER2)


def test_routes_keep_what_they_say(world: World) -> None:
    routes = [
        {"dst": "10.20.0.0/16", "mtu": 1400, "advmss": 1200, "priority": 50},
        {"dst": "10.30.0.0/16", "gw": "10.9.0.9", "table": 1000},
        {"dst": "10.40.0.7/32", "scope": 253},
    ]
    conf = CONF | {"cniVersion": "1.1.0", "ipam": IPAM | {"routes": routes}}
    result = world.add(conf)
    found = {item["dst"]: item for item in world.json("ip", "-j", "route", "show", "table", "all", box="c1")}
    first = found["10.20.0.0/16"]
    assert (first["gateway"], first["metric"], first["metrics"]) == (
        "10.9.0.1",
        50,
        [{"mtu": 1400, "advmss": 1200}],
    )
    assert (found["10.30.0.0/16"]["gateway"], str(found["10.30.0.0/16"]["table"])) == ("10.9.0.9", "1000")
    assert result["routes"] == routes
    assert world.call("CHECK", conf | {"prevResult": result}).status == 0


def test_two_networks_bring_a_default_route_each_at_once(world: World) -> None:
    world.box("c1")
    failed: list[Any] = []

    def attach(number: int) -> None:
        conf = LAYER2 | {
            "name": f"n{number}",
            "bridge": f"br{number}",
            "isDefaultGateway": True,
            "ipam": {"type": "host-local", "subnet": f"10.{number}.0.0/24"},
        }
        answer = world.call("ADD", conf, ifname=f"eth{number}")
        if answer.status:
            failed.append(answer.document)

    threads = [threading.Thread(target=attach, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(world.json("ip", "-j", "route", "show", "default", box="c1")) == 6


@pytest.mark.parametrize("tuned", [False, True], ids=["alone", "another MAC address by tuning"])
def test_announcement_reaches_the_other_ports(world: World, tuned: bool) -> None:
    conf = CONF | {"ipam": DUAL}
    world.add(conf)
    if tuned:
        conf = {
            "cniVersion": "1.0.0",
            "name": "n",
            "type": "tuning",
            "mac": "02:00:00:00:00:77",
            "delegate": conf,
        }
    with entered(world.boxes["c1"]):
        ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    with ear:
        ear.bind(("eth0", 0))
        ear.settimeout(20)
        mac = bytes.fromhex(world.add(conf, "c2")["interfaces"][2]["mac"].replace(":", ""))
        wanted = {
            b"\x08\x06": socket.inet_aton("10.9.0.3"),
            b"\x86\xdd": socket.inet_pton(socket.AF_INET6, "fd00:9::3"),
        }
        while wanted:
            frame = ear.recv(2000)
            address = wanted.get(frame[12:14])
            if address is not None and address in frame[14:]:
                assert frame[6:12] == mac, "nobody may learn a MAC address that is not the interface's"
                del wanted[frame[12:14]]
        ear.setblocking(False)
        with suppress(BlockingIOError):
            while frame := ear.recv(2000):
                assert frame[6:12] == mac or b"\x0a\x09\x00\x03" not in frame[14:]


def test_bridge_of_ours_survives_until_the_last_port(world: World) -> None:
    other = LAYER2 | {"name": "m"}
    world.add(LAYER2)
    world.add(other, "c2")
    world.run("ip", "link", "add", "x0", "type", "veth", "peer", "name", "x1")
    world.run("ip", "link", "set", "x0", "master", "br0")
    world.delete(LAYER2)
    world.delete(other, "c2")
    assert "br0" in world.links()


def test_a_bridge_that_its_network_keeps_stays_without_ports(world: World) -> None:
    kept = LAYER2 | {"keepBridge": True}
    world.add(kept)
    world.delete(kept)
    assert "br0" in world.links()
    world.add(LAYER2)
    world.delete(LAYER2)
    assert "br0" in world.links()


def test_gc_keeps_what_is_listed(world: World) -> None:
    conf = CONF | {"cniVersion": "1.1.0"}
    for box in ("c1", "c2", "c3"):
        world.add(conf, box)
    keep = {"cni.dev/valid-attachments": [{"containerID": "c2", "ifname": "eth0"}]}
    assert world.call("GC", conf | keep).status == 0
    assert world.reserved("n") == ["10.9.0.3"]
    assert len(world.records()) == 1
    assert world.call("GC", conf).code == 7
    assert world.call("GC", conf | {"cni.dev/valid-attachments": []}).status == 0
    assert world.links() == ["lo"]


def test_check_names_what_is_wrong(world: World) -> None:
    conf = CONF | {"isGateway": True, "ipMasq": True}
    result = world.add(conf)

    def complaint() -> str:
        answer = world.call("CHECK", conf | {"prevResult": result})
        return str(answer.document["msg"]) if answer.status else ""

    assert complaint() == ""
    world.run("ip", "addr", "del", "10.9.0.1/24", "dev", "br0")
    assert "10.9.0.1/24" in complaint()
    world.run("ip", "addr", "add", "10.9.0.1/24", "dev", "br0")
    world.run("nft", "flush", "map", "inet", "mesokit", "masquerade4")
    assert "masq" in complaint().lower()
    world.run("ip", "link", "set", "eth0", "address", "02:00:00:00:00:05", box="c1")
    assert "MAC" in complaint()
    world.run("ip", "link", "del", "eth0", box="c1")
    assert "eth0" in complaint()


def test_status_follows_the_pool(world: World) -> None:
    conf = CONF | {"cniVersion": "1.1.0", "ipam": {"type": "host-local", "subnet": "10.9.0.0/30"}}
    assert world.call("STATUS", conf).status == 0
    world.add(conf)
    assert world.call("STATUS", conf).code == 50


def test_mesos_reads_any_version(world: World) -> None:
    info = {"network_info": {"ip_addresses": [{"protocol": "IPv4", "ip_address": "10.9.0.77"}]}}
    conf = CONF | {"args": {"org.apache.mesos": info}}
    result = world.add(conf)
    assert result["ip4"] == {"ip": "10.9.0.77/24", "gateway": "10.9.0.1"}
    assert result["ips"][0]["address"] == "10.9.0.77/24"
    assert "10.9.0.77" in world.refused(conf, "c2")["msg"]
    assert world.links("c2") == ["lo"]


def test_addresses_that_ipam_ignored_fail_the_task(world: World) -> None:
    info = {"network_info": {"ip_addresses": [{"protocol": "IPv6"}]}}
    error = world.refused(CONF | {"args": {"org.apache.mesos": info}})
    assert "IPv6" in error["msg"]
    assert world.links() == ["lo"]


def test_long_ids(world: World) -> None:
    box = "a" * 250
    world.add(CONF | {"ipMasq": True, "name": "n" * 250}, box)
    world.delete({"name": "n" * 250, "type": "bridge"}, box)
    assert world.links() == ["lo"]
    assert not world.records()


def test_a_namespace_that_took_the_path_of_another_is_left_alone(world: World) -> None:
    conf = {"cniVersion": "1.0.0", "name": "lo", "type": "loopback"}
    world.add(conf)
    before = world.boxes["c1"]
    world.boxes["c1"] = world.box("c2")
    world.run("ip", "link", "set", "lo", "up", box="c1")
    world.delete(conf)
    assert "UP" in world.json("ip", "-j", "link", box="c1")[0]["flags"]
    world.boxes["c1"] = before


def test_a_gateway_bridge_keeps_its_mac_when_ports_come(world: World) -> None:
    world.run("ip", "link", "add", "br0", "type", "bridge")
    before = world.json("ip", "-j", "link", "show", "br0")[0]["address"]
    result = world.add(CONF | {"isGateway": True})
    for number in range(2, 6):
        world.add(CONF | {"isGateway": True}, f"c{number}")
    assert world.json("ip", "-j", "link", "show", "br0")[0]["address"] == before
    assert result["interfaces"][0]["mac"] == before
