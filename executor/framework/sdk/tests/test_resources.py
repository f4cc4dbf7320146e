"""Arithmetic as a master does it, and the choice of pieces."""

import itertools
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mesos.v1 import mesos_pb2

from executor.framework.sdk.choice import Request, Shortfall, Taken, choose
from executor.framework.sdk.resources import (
    InvalidResourceError,
    Resources,
    count,
    covers,
    merge,
    milli,
    parse,
    wire,
    without,
)


def scalar(name: str, value: float, **fields: object) -> mesos_pb2.Resource:
    resource = mesos_pb2.Resource(name=name, type=mesos_pb2.Value.SCALAR, **fields)  # type: ignore[arg-type]
    resource.scalar.value = value
    return resource


def ranges(name: str, *pairs: tuple[int, int]) -> mesos_pb2.Resource:
    resource = mesos_pb2.Resource(name=name, type=mesos_pb2.Value.RANGES)
    for first, last in pairs:
        resource.ranges.range.add(begin=first, end=last)
    return resource


def reserved(resource: mesos_pb2.Resource, role: str, **labels: str) -> mesos_pb2.Resource:
    entry = resource.reservations.add(type=mesos_pb2.Resource.ReservationInfo.DYNAMIC, role=role)
    for key, value in labels.items():
        entry.labels.labels.add(key=key, value=value)
    return resource


@pytest.mark.parametrize(
    ("value", "thousandths"),
    [(0.1, 100), (0.0005, 1), (1.0005, 1001), (2.0015, 2002), (0.1 + 0.2, 300), (0.00049, 0), (-1.5, -1500)],
)
def test_scalars_are_thousandths_rounded_away_from_zero(value: float, thousandths: int) -> None:
    assert milli(value) == thousandths


def test_sums_that_floats_get_wrong_fit_exactly() -> None:
    offer = parse([scalar("cpus", 0.1), scalar("cpus", 0.2)])
    assert offer.contains(parse([scalar("cpus", 0.3)]))
    assert not offer.contains(parse([scalar("cpus", 0.301)]))
    assert not offer - parse([scalar("cpus", 0.3)])


@pytest.mark.parametrize("value", [-1.0, 0.0001, float("nan"), float("inf"), 1e306, -1.7e308])
def test_amounts_that_no_master_takes(value: float) -> None:
    with pytest.raises(InvalidResourceError, match="amount"):
        parse([scalar("cpus", value)])


def test_a_reserved_piece_is_no_unreserved_one() -> None:
    offer = parse([reserved(scalar("cpus", 4), "web")])
    assert not offer.contains(parse([scalar("cpus", 1)]))
    assert offer.contains(parse([reserved(scalar("cpus", 1), "web")]))
    assert not offer.contains(parse([reserved(scalar("cpus", 1), "web", owner="db")]))


def test_both_formats_of_a_reservation_are_one() -> None:
    old = scalar("cpus", 1, role="web")
    new = scalar("cpus", 1)
    new.reservations.add(type=mesos_pb2.Resource.ReservationInfo.STATIC, role="web")
    assert parse([old]) == parse([new])


def test_a_whole_disk_is_taken_whole() -> None:
    disk = scalar("disk", 100)
    disk.disk.source.type = mesos_pb2.Resource.DiskInfo.Source.MOUNT
    disk.disk.source.mount.root = "/mnt/a"
    half = mesos_pb2.Resource()
    half.CopyFrom(disk)
    half.scalar.value = 50
    assert not parse([disk]).contains(parse([half]))
    assert not parse([disk]) - parse([disk])


def test_what_goes_over_the_wire_comes_back() -> None:
    given_resources = parse(
        [
            reserved(scalar("cpus", 1.5), "web", a="b"),
            scalar("mem", 64),
            ranges("ports", (31000, 31005), (31006, 31010), (32000, 32000)),
        ]
    )
    assert parse(wire(given_resources)) == given_resources
    assert given_resources.text() == "cpus (web) 1.5, mem 64, ports 31000-31010,32000"


intervals = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 8)).map(lambda pair: (pair[0], pair[0] + pair[1])),
    max_size=8,
)


@given(intervals, intervals)
def test_ranges_are_sets_of_integers(mine: list[tuple[int, int]], other: list[tuple[int, int]]) -> None:
    def numbers(pairs: object) -> set[int]:
        return {n for first, last in pairs for n in range(first, last + 1)}  # type: ignore[attr-defined]

    a, b = merge(mine), merge(other)
    assert numbers(a) == numbers(mine) and count(a) == len(numbers(mine))
    assert numbers(without(a, b)) == numbers(mine) - numbers(other)
    assert covers(a, b) == (numbers(other) <= numbers(mine))
    assert all(left[1] + 1 < right[0] for left, right in itertools.pairwise(a))


def test_what_is_reserved_goes_first_and_labelled_pieces_are_left_alone() -> None:
    offer = parse(
        [
            scalar("cpus", 4),
            reserved(scalar("cpus", 1), "web"),
            reserved(scalar("cpus", 8), "web", owner="db"),
        ]
    )
    taken = choose(offer, Request(scalars=(("cpus", 2000),)), Random(1).randrange)
    assert isinstance(taken, Taken)
    assert taken.pieces == parse([reserved(scalar("cpus", 1), "web"), scalar("cpus", 1)])
    short = choose(offer, Request(scalars=(("cpus", 5001),)), Random(1).randrange)
    assert short == Shortfall("cpus", 5001, 5000)


def test_ports_fixed_and_of_the_agents_choice() -> None:
    offer = parse([ranges("ports", (31000, 31002), (80, 80))])
    taken = choose(offer, Request(ports=2, fixed_ports=(80,)), Random(3).randrange)
    assert isinstance(taken, Taken)
    assert taken.ports[0] == 80 and set(taken.ports[1:]) <= {31000, 31001, 31002}
    assert len(set(taken.ports)) == 3
    assert taken.left.total("ports") == 1
    assert choose(offer, Request(fixed_ports=(443,)), Random(3).randrange) == Shortfall("port 443", 1, 0)
    assert choose(offer, Request(ports=5), Random(3).randrange) == Shortfall("ports", 5, 4)


def test_revocable_pieces_only_where_asked_for() -> None:
    spare = scalar("cpus", 4)
    spare.revocable.SetInParent()
    offer = parse([spare, scalar("cpus", 1)])
    firm = choose(offer, Request(scalars=(("cpus", 2000),)), Random(1).randrange)
    assert firm == Shortfall("cpus", 2000, 1000)
    revocable = choose(offer, Request(scalars=(("cpus", 2000),), revocable=True), Random(1).randrange)
    assert isinstance(revocable, Taken)
    assert all(kind.revocable for kind, _ in revocable.pieces)


def test_resources_never_change() -> None:
    one = parse([scalar("cpus", 1)])
    two = one + one
    assert one.total("cpus") == 1000 and two.total("cpus") == 2000
    assert Resources() == one - one


def test_a_sandbox_is_on_no_disk_of_its_own() -> None:
    apart = scalar("disk", 1000)
    apart.disk.source.type = mesos_pb2.Resource.DiskInfo.Source.RAW
    offer = parse([apart, scalar("disk", 10)])
    assert choose(offer, Request(scalars=(("disk", 11_000),)), Random(1).randrange) == Shortfall(
        "disk", 11_000, 10_000
    )
