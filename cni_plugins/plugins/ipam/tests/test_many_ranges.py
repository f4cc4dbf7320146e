"""host-local with thousands of ranges, of sets, of files: work that grows as they do, and an end to it."""

import fcntl
import os
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.conftest import World, told
from cni_plugins.plugins.ipam.ranges import MOST_SETS, RangeSet, Remarks, check_sets, make_set, range_of
from cni_plugins.spec import call
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.values import parse_ip
from cni_plugins.store.reservations import Reservations

_QUIET = Remarks(lambda text: None, lambda key: None)


def subnet(number: int) -> dict[str, str]:
    return {"subnet": f"10.{number // 256}.{number % 256}.0/24"}


def network(ranges: list[Any], **keys: Any) -> dict[str, Any]:
    ipam = {"type": "host-local", "ranges": ranges} | keys
    return {"cniVersion": "1.1.0", "name": "n", "type": "host-local", "ipam": ipam}


def folder(world: World) -> Path:
    return world.root / "var/lib/cni/networks/n"


def work(world: World, verb: str, config: dict[str, Any], box: str = "c1") -> int:
    """How many functions a call that comes through calls."""
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    world.box(box)
    sys.setprofile(count)
    try:
        answer = world.call(verb, config, box)
    finally:
        sys.setprofile(None)
    assert answer.status == 0, answer.document
    return calls


@pytest.mark.parametrize("shape", ["sets", "ranges of one set", "sets, asked for", "crowded sets"])
def test_four_times_as_many_take_four_times_the_work(world: World, shape: str) -> None:
    world.add(network([[subnet(0)]]), "first")  # what the first call imports is not counted
    world.delete(network([[subnet(0)]]), "first")
    spent: dict[str, list[int]] = {"ADD": [], "DEL": []}
    for round_, many in enumerate((100, 400)):
        listed = [subnet(number) for number in range(many)]
        config = network([listed] if shape == "ranges of one set" else [[one] for one in listed])
        config["name"] = f"n{round_}"
        if shape == "sets, asked for":
            config["runtimeConfig"] = {"ips": [one["subnet"].replace(".0/24", ".9") for one in listed]}
        if shape == "crowded sets":
            place = world.root / "var/lib/cni/networks" / config["name"]
            place.mkdir(parents=True)
            for one in listed:
                for last in range(2, 20):
                    (place / one["subnet"].replace(".0/24", f".{last}")).write_bytes(b"c9\r\neth0")
        for verb, found in spent.items():
            found.append(work(world, verb, config))
    for verb, (few, many) in spent.items():
        assert many < 6 * few, (verb, few, many)
    assert shape == "crowded sets" or not world.reserved("n1")


def test_a_network_of_too_many_range_sets_is_refused_in_a_sentence(world: World) -> None:
    error = world.refused(network([[subnet(number)] for number in range(MOST_SETS + 1)]))
    assert (error["code"], f"a list of {MOST_SETS + 1} range sets" in told(error)) == (7, True)
    assert "belong into one set" in told(error)
    assert not folder(world).exists()
    assert len(world.add(network([[subnet(number) for number in range(MOST_SETS + 1)]]))["ips"]) == 1


def test_a_call_past_its_deadline_lets_go_of_the_lock(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "_SECONDS", dict.fromkeys(call._SECONDS, 0.5))
    reserved: list[str] = []
    set_last = Reservations.set_last

    def late(self: Reservations, number: int, address: Any) -> None:
        set_last(self, number, address)
        reserved.append(str(address))
        while len(reserved) == 3 and self._deadline.remaining():
            os.sched_yield()

    with monkeypatch.context() as patched:
        patched.setattr(Reservations, "set_last", late)
        error = world.refused(network([[subnet(number)] for number in range(100)]))
    assert (error["code"], len(reserved), world.reserved("n")) == (11, 3, [])
    assert "addresses of 100 range sets" in told(error)
    with (folder(world) / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_thousands_of_files_of_a_pool_that_is_nearly_full(world: World) -> None:
    """The addresses of a /20 but two are there, the reference plugin's; those two are given, then none."""
    config = network([[{"subnet": "10.9.0.0/20"}]])
    place = folder(world)
    place.mkdir(parents=True)
    free = {"10.9.3.7", "10.9.15.254"}
    for number in range(2, 4095):
        address = f"10.9.{number // 256}.{number % 256}"
        if address not in free:
            (place / address).write_bytes(f"x{number}\r\neth0".encode())
    given = {world.add(config, box)["ips"][0]["address"].partition("/")[0] for box in ("c1", "c2")}
    assert given == free
    assert world.refused(config, "c3")["code"] == 11
    assert world.call("STATUS", config).code == 50
    world.delete(config, "x300")
    assert not (place / "10.9.1.44").exists()
    assert world.add(config, "c3")["ips"][0]["address"] == "10.9.1.44/20"


def test_what_overlaps_is_found_wherever_it_stands() -> None:
    """The same verdict as comparing each with each."""
    drawn = random.Random(7)
    for _ in range(300):
        spans = []
        for _ in range(drawn.randint(2, 6)):
            first = drawn.randint(2, 240)
            spans.append((first, min(254, first + drawn.randint(0, 30))))
        documents = [
            {"subnet": "10.9.0.0/24", "rangeStart": f"10.9.0.{low}", "rangeEnd": f"10.9.0.{high}"}
            for low, high in spans
        ]
        apart = all(a[1] < b[0] or b[1] < a[0] for number, a in enumerate(spans) for b in spans[:number])
        assert _taken(documents) is apart
        sets: list[RangeSet] = [make_set([one], "ipam.ranges[0]", _QUIET) for one in documents]
        try:
            found = check_sets(sets)
        except CniError as error:
            assert "overlaps" in str(error)
            assert not apart
            continue
        assert apart
        for last in range(256):
            address = parse_ip(f"10.9.0.{last}")
            wanted = [number for number, one in enumerate(sets) if range_of(one, address) is not None]
            assert ([found.find(address)] if wanted else []) == wanted
            assert bool(wanted) or found.find(address) is None
        assert found.find(parse_ip("::a09:9")) is None


def _taken(documents: list[dict[str, str]]) -> bool:
    try:
        make_set(documents, "ipam.ranges[0]", _QUIET)
    except CniError as error:
        assert "overlaps" in str(error)
        return False
    return True
