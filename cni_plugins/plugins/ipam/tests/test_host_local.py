"""host-local: what it gives, what its files hold, and what it does with what others left in them."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.conftest import World, told
from cni_plugins.plugins.ipam import host_local, sticky
from cni_plugins.spec import call
from cni_plugins.store import records
from cni_plugins.store.reservations import opened

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
        ({"subnet": "0.0.0.0/0"}, "its 0.0.0.1 is an address that no interface can have"),
        ({"ranges": [[{"subnet": "::/0"}]]}, "its ::1 is an address that no interface can have"),
        ({"subnet": "224.9.0.0/16"}, "its 224.9.0.1 is an address that no interface can have"),
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
    assert "c1" in told(world.refused(conf, "c2", CNI_ARGS="IP=10.9.0.50"))
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
    os.setxattr(folder(world) / "10.9.0.2", "user.mesokit.reserved", b"another-boot 1.5")
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


def test_no_clock_makes_a_reservation_void(world: World) -> None:
    """What was reserved in this boot is kept, whatever the wall clock said then or says now."""
    conf = ipam(subnet="10.9.0.0/30")
    world.add(conf)
    for moment in (0, 2**31):
        os.utime(folder(world) / "10.9.0.2", (moment, moment))
        assert world.refused(conf, "c2")["code"] == 11
    os.removexattr(folder(world) / "10.9.0.2", "user.mesokit.reserved")  # the reference plugin's
    os.utime(folder(world) / "10.9.0.2", (0, 0))
    assert world.refused(conf, "c2")["code"] == 11


@pytest.mark.parametrize("garbage", [b"\xff\xfe\n", b"10.9.0.2 not-an-address\n", b"\0" * 5000, None])
def test_garbage_in_the_index_is_no_obstacle(world: World, garbage: bytes | None) -> None:
    """The index is a cache: whatever stands in it, the files are what counts."""
    conf = CONF | {"cniVersion": "1.1.0"}
    for box in ("c1", "c2"):
        world.add(conf, box)
    entries = [path for path in (world.root / "run/mesokit/host-local").rglob("*") if path.is_file()]
    assert len(entries) == 3
    for entry in entries:
        entry.unlink()
        if garbage is None:
            (entry / "inside").mkdir(parents=True)
        elif entry.name != "stamp":
            entry.write_bytes(garbage)
    stamp = (folder(world)).stat().st_mtime_ns
    if garbage is not None:
        (entries[0].parent / "stamp").write_text(str(stamp))
    assert given(world.add(conf, "c3")) == ["10.9.0.4/29"]
    world.delete(conf, "c1")
    assert world.call("CHECK", conf, "c2").status == 0
    keep = {"cni.dev/valid-attachments": [{"containerID": "c3", "ifname": "eth0"}]}
    assert world.call("GC", conf | keep).status == 0
    assert world.reserved("n") == ["10.9.0.4"]


def test_a_file_in_the_place_of_the_index(world: World) -> None:
    world.add(CONF)
    (index,) = (world.root / "run/mesokit/host-local").iterdir()
    for path in index.iterdir():
        path.unlink()
    index.rmdir()
    index.write_text("x")
    world.delete(CONF)
    assert not world.reserved("n")


def test_gc_spares_what_is_younger_than_its_list(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ADD between the making of GC's list and GC's lock keeps its address, with a record and without."""
    bridge = CONF | {"type": "bridge", "bridge": "br0", "cniVersion": "1.1.0"}
    direct = CONF | {"cniVersion": "1.1.0"}
    world.add(bridge, "old")
    world.add(direct, "older")

    @contextmanager
    def late(*args: Any) -> Iterator[Any]:
        monkeypatch.setattr(host_local, "opened", opened)
        world.add(bridge, "young")
        world.add(direct, "younger")
        with opened(*args) as reservations:
            yield reservations

    monkeypatch.setattr(host_local, "opened", late)
    assert world.call("GC", bridge | {"cni.dev/valid-attachments": []}).status == 0
    assert world.reserved("n") == ["10.9.0.4", "10.9.0.5"]
    assert world.call("GC", bridge | {"cni.dev/valid-attachments": []}).status == 0
    assert world.reserved("n") == []


def test_gc_spares_a_record_that_was_written_anew(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The container was detached and attached again after GC had looked at its record."""
    bridge = CONF | {"type": "bridge", "bridge": "br0", "cniVersion": "1.1.0"}
    world.add(bridge, "c1")
    every = records.every

    def late(*args: Any) -> list[Any]:
        monkeypatch.setattr(records, "every", every)
        found = list(every(*args))
        world.delete(bridge, "c1")
        world.add(bridge, "c1")
        return found

    monkeypatch.setattr(records, "every", late)
    assert world.call("GC", bridge | {"cni.dev/valid-attachments": []}).status == 0
    assert (len(world.records()), world.reserved("n")) == (1, ["10.9.0.3"])
    assert "eth0" in world.links("c1")


def test_what_sticky_remembers_has_an_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sticky, "MOST", 8)
    monkeypatch.setattr(sticky, "_FEWER", 6)
    conf = ipam(subnet="10.9.0.0/24", sticky=True) | {"cniVersion": "1.1.0"}
    place = world.root / "var/lib/mesokit/sticky/n"
    assert given(world.add(conf, "c1")) == ["10.9.0.2/24"]
    world.delete(conf, "c1")
    world.add(conf, "c2")
    assert given(world.add(conf, "c1")) == ["10.9.0.2/24"]
    world.delete(conf, "c1")
    named = conf | {"args": {"cni": {"workload": "web"}}}
    world.add(named, "c3")
    keep = {"cni.dev/valid-attachments": [{"containerID": box, "ifname": "eth0"} for box in ("c2", "c3")]}
    assert world.call("GC", conf | keep).status == 0
    assert len(list(place.iterdir())) == 2
    for number in range(30):
        world.box("same")
        assert world.call("ADD", conf, "same", CNI_CONTAINERID=f"x{number}").status == 0
    assert len(list(place.iterdir())) <= 9
