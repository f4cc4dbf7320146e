"""host-local: what it gives, what its files hold, and what it does with what others left in them."""

import fcntl
import os
import time
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.conftest import World
from cni_plugins.spec import call

CONF: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "n",
    "type": "host-local",
    "ipam": {"type": "host-local", "subnet": "10.9.0.0/29"},
}


def ipam(**keys: Any) -> dict[str, Any]:
    return CONF | {"ipam": {"type": "host-local"} | keys}


def given(result: Any) -> list[str]:
    return [entry["address"] for entry in result["ips"]]


def folder(world: World) -> Path:
    return world.root / "var/lib/cni/networks/n"


def test_files_of_the_reference(world: World) -> None:
    world.add(ipam(ranges=[[{"subnet": "10.9.0.0/29"}], [{"subnet": "fd00:9::/64"}]]), "c1")
    found = {path.name: path.read_bytes() for path in folder(world).iterdir()}
    assert found == {
        "10.9.0.2": b"c1\r\neth0",
        "fd00:9::2": b"c1\r\neth0",
        "last_reserved_ip.0": b"10.9.0.2",
        "last_reserved_ip.1": b"fd00:9::2",
        "lock": b"",
    }
    assert (folder(world) / "10.9.0.2").stat().st_mode & 0o777 == 0o600


def test_addresses_rest_before_they_are_given_again(world: World) -> None:
    assert given(world.add(CONF, "c1")) == ["10.9.0.2/29"]
    world.delete(CONF, "c1")
    assert [given(world.add(CONF, f"c{n}")) for n in range(2, 7)] == [
        [f"10.9.0.{n}/29"] for n in (3, 4, 5, 6, 2)
    ]
    assert world.refused(CONF, "c9")["code"] == 11


@pytest.mark.parametrize(
    ("keys", "addresses"),
    [
        ({"subnet": "10.9.0.0/31"}, ["10.9.0.1/31"]),
        ({"subnet": "fd00::/127"}, ["fd00::1/127"]),
        ({"subnet": "10.9.0.4/32"}, ["10.9.0.4/32"]),
        ({"subnet": "10.9.0.0/24", "rangeStart": "10.9.0.0"}, ["10.9.0.0/24"]),
        ({"subnet": "10.9.0.0/24", "gateway": "10.9.0.2"}, ["10.9.0.1/24"]),
        ({"subnet": "10.9.0.0/24", "rangeStart": "10.9.0.100"}, ["10.9.0.100/24"]),
        ({"subnet": "10.9.0.0/24", "ranges": [[{"subnet": "10.8.0.0/24"}]]}, ["10.9.0.2/24", "10.8.0.2/24"]),
    ],
)
def test_first_address(world: World, keys: dict[str, Any], addresses: list[str]) -> None:
    assert given(world.add(ipam(**keys))) == addresses


@pytest.mark.parametrize(
    ("keys", "word"),
    [
        ({}, "subnet"),
        ({"subnet": "10.9.0.1/24"}, "host bits"),
        ({"subnet": "10.9.0.0/24", "rangeStart": "10.8.0.1"}, "rangeStart"),
        ({"subnet": "10.9.0.0/24", "rangeStart": "10.9.0.9", "rangeEnd": "10.9.0.8"}, "rangeEnd"),
        ({"subnet": "10.9.0.0/24", "gateway": "fd00::1"}, "gateway"),
        ({"ranges": [[]]}, "range"),
        ({"ranges": [{}]}, "range"),
        ({"ranges": [[{"subnet": "10.9.0.0/24"}, {"subnet": "fd00::/64"}]]}, "family"),
        ({"ranges": [[{"subnet": "10.9.0.0/24"}, {"subnet": "10.9.0.0/25"}]]}, "overlaps"),
        ({"ranges": [[{"subnet": "10.9.0.0/24"}], [{"subnet": "10.9.0.0/25"}]]}, "overlaps"),
        ({"subnet": "10.9.0.0/24", "routes": [{"gw": "10.9.0.1"}]}, "dst"),
        ({"subnet": "10.9.0.0/24", "resolvConf": "/no/such/file"}, "resolvConf"),
        ({"subnet": "10.9.0.0/24", "rangestrat": "10.9.0.5"}, "rangeStart"),
    ],
)
def test_refused(world: World, keys: dict[str, Any], word: str) -> None:
    error = world.refused(ipam(**keys))
    assert word in error["msg"] + error.get("details", "")
    assert not world.reserved("n")


def test_old_versions_have_room_for_one_address_of_a_family(world: World) -> None:
    two = ipam(ranges=[[{"subnet": "10.9.0.0/24"}], [{"subnet": "10.8.0.0/24"}]])
    assert "0.2.0" in world.refused(two | {"cniVersion": "0.2.0"})["msg"]


def test_requests_of_three_places(world: World) -> None:
    conf = ipam(ranges=[[{"subnet": "10.9.0.0/24"}], [{"subnet": "10.8.0.0/24"}], [{"subnet": "fd00::/64"}]])
    conf |= {"args": {"cni": {"ips": ["10.8.0.50/16"]}}, "runtimeConfig": {"ips": ["fd00::50"]}}
    assert given(world.add(conf, CNI_ARGS="IP=10.9.0.50")) == ["10.9.0.50/24", "10.8.0.50/24", "fd00::50/64"]
    assert "c1" in world.refused(conf, "c2", CNI_ARGS="IP=10.9.0.50")["msg"]
    assert "gateway" in world.refused(CONF, "c2", CNI_ARGS="IP=10.9.0.1")["msg"]
    assert "10.7.0.1" in world.refused(CONF, "c2", CNI_ARGS="IP=10.7.0.1")["msg"]
    assert world.reserved("n") == ["10.8.0.50", "10.9.0.50", "fd00::50"]


def test_ranges_of_the_runtime_come_first(world: World) -> None:
    conf = CONF | {"runtimeConfig": {"ipRanges": [[{"subnet": "10.7.0.0/24"}]]}}
    assert given(world.add(conf)) == ["10.7.0.2/24", "10.9.0.2/29"]


def test_one_address_of_a_set_for_each_interface(world: World) -> None:
    world.add(CONF)
    error = world.refused(CONF)
    assert "10.9.0.2" in error["msg"]
    assert world.reserved("n") == ["10.9.0.2"]


def test_torn_files_count_as_free(world: World) -> None:
    folder(world).mkdir(parents=True)
    (folder(world) / "10.9.0.2").touch()
    assert given(world.add(CONF)) == ["10.9.0.2/29"]
    assert (folder(world) / "10.9.0.2").read_bytes() == b"c1\r\neth0"
    (folder(world) / "10.9.0.5").touch()
    assert given(world.add(CONF, "c2", CNI_ARGS="IP=10.9.0.5")) == ["10.9.0.5/29"]


def test_what_the_reference_wrote_is_found_and_freed(world: World) -> None:
    world.add(CONF, "c1")
    (folder(world) / "10.9.0.4").write_bytes(b"c4\r\neth0")
    (folder(world) / "10.9.0.5").write_bytes(b"c5\n")
    os.utime(folder(world))
    assert "10.9.0.4" in world.refused(CONF, "c4")["msg"]
    assert "10.9.0.5" in world.refused(CONF, "c5")["msg"]
    conf = CONF | {"cniVersion": "0.4.0"}
    assert world.call("CHECK", conf, "c5").status == 0
    assert world.call("CHECK", conf, "c6").status == 1
    world.delete(CONF, "c4")
    world.delete(CONF, "c5")
    assert world.reserved("n") == ["10.9.0.2"]
    world.delete(CONF, "c1", ifname="eth9")
    assert world.reserved("n") == ["10.9.0.2"]


def test_delete_needs_no_valid_ranges(world: World) -> None:
    world.add(CONF)
    world.delete(ipam(subnet="nonsense", ranges=7))
    assert not world.reserved("n")
    world.delete(CONF | {"name": "never-used"})
    assert not (world.root / "var/lib/cni/networks/never-used").exists()


def test_data_directory(world: World) -> None:
    world.add(ipam(subnet="10.9.0.0/24", dataDir="/elsewhere"))
    assert (world.root / "elsewhere/n/10.9.0.2").is_file()
    world.delete(ipam(dataDir="/elsewhere"))
    assert not (world.root / "elsewhere/n/10.9.0.2").exists()


def test_resolv_conf_in_result(world: World, tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("# x\nnameserver 10.9.0.1\ndomain d\nsearch a b\noptions ndots:2\n; y\n")
    result = world.add(ipam(subnet="10.9.0.0/24", resolvConf=str(file)))
    assert result["dns"] == {
        "nameservers": ["10.9.0.1"],
        "domain": "d",
        "search": ["a", "b"],
        "options": ["ndots:2"],
    }


def test_gc_frees_what_nobody_holds_and_torn_files(world: World) -> None:
    conf = CONF | {"cniVersion": "1.1.0"}
    for box in ("c1", "c2"):
        world.add(conf, box)
    (folder(world) / "10.9.0.6").touch()
    keep = {"cni.dev/valid-attachments": [{"containerID": "c2", "ifname": "eth0"}]}
    assert world.call("GC", conf | keep).status == 0
    assert world.reserved("n") == ["10.9.0.3"]
    assert given(world.add(conf, "c1")) == ["10.9.0.4/29"]


def test_a_workload_gets_its_address_back(world: World) -> None:
    conf = ipam(subnet="10.9.0.0/29", sticky=True)
    web = conf | {"args": {"cni": {"workload": "web"}}}
    assert given(world.add(web, "c1")) == ["10.9.0.2/29"]
    world.delete(web, "c1")
    assert given(world.add(conf, "c2")) == ["10.9.0.3/29"]
    assert given(world.add(web, "c3")) == ["10.9.0.2/29"]
    world.delete(web, "c3")
    world.add(conf, "c4", CNI_ARGS="IP=10.9.0.2")
    assert given(world.add(web, "c5")) != ["10.9.0.2/29"]


def test_a_full_pool_takes_back_what_a_reboot_made_void(world: World) -> None:
    conf = ipam(subnet="10.9.0.0/30")
    world.add(conf)
    assert world.refused(conf, "c2")["code"] == 11
    long_ago = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) - 3600
    os.utime(folder(world) / "10.9.0.2", (long_ago, long_ago))
    assert given(world.add(conf, "c2")) == ["10.9.0.2/30"]
    world.delete(conf, "c1")
    assert world.reserved("n") == ["10.9.0.2"]


def test_a_lock_that_nobody_lets_go_ends_the_call(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "_SECONDS", dict.fromkeys(call._SECONDS, 0.2))
    world.add(CONF)
    with (folder(world) / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert world.call("DEL", CONF).code == 11
    world.delete(CONF)
