"""DHCPv6 leases: their times, their files, and who a container is."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Interface, IPv6Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugins.dhcp import delegation, duid
from cni_plugins.dhcp.lease import Place, State
from cni_plugins.dhcp.lease6 import Lease6, Wish6, chosen, decode, encode, longest_of
from cni_plugins.dhcp.packet6 import INFINITE, Association, Given, Kind, Message, Option
from cni_plugins.dhcp.protocol import key_of, names_of
from cni_plugins.dhcp.states6 import pause
from cni_plugins.dhcp.store import Store
from cni_plugins.dhcp.tests.test_lease import LEASE as LEASE4
from cni_plugins.spec.deadline import after
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.roots import roots_from
from cni_plugins.store import boot

IDENTITY = Identity("net", "c1", "eth0")
PREFIX = delegation.identity_of("net", "eth0")
LEASE = Lease6(
    IDENTITY,
    Place("/run/netns/c1", (4, 5, 6), "eth0", "02:00:00:00:00:01"),
    Wish6(duid.of_container("c1"), duid.association(IDENTITY), (23, 24)),
    State.BOUND,
    IPv6Interface("fd00::5/128"),
    80,
    100,
    0,
    0,
    b"\0\x03\0\x01server",
    {Option.NAME_SERVERS: bytes(15) + b"\x01"},
    1000.0,
    boot.current(),
)


@given(
    st.builds(
        replace,
        st.just(LEASE),
        state=st.sampled_from(State),
        address=st.none() | st.ip_addresses(v=6).map(IPv6Interface),
        preferred=st.integers(0, INFINITE),
        valid=st.integers(0, INFINITE),
        renew=st.integers(0, INFINITE),
        rebind=st.integers(0, INFINITE),
        options=st.dictionaries(st.integers(0, 65535), st.binary(max_size=300), max_size=6),
        began=st.floats(0, 1e9),
        told=st.text(max_size=20),
    )
)
def test_a_file_has_all_of_a_lease(lease: Lease6) -> None:
    assert decode(json.loads(json.dumps(encode(lease)))) == lease
    assert lease.t1 <= lease.t2 <= lease.end


@pytest.mark.parametrize(
    ("preferred", "valid", "t1", "t2", "expected"),
    [
        (80, 100, 0, 0, (1040, 1064, 1100)),
        (0, 100, 0, 0, (1050, 1080, 1100)),
        (80, 100, 20, 30, (1020, 1030, 1100)),
        (80, 100, 200, 300, (1100, 1100, 1100)),  # never past the end
        (80, 100, INFINITE, INFINITE, (1100, 1100, 1100)),
        (INFINITE, INFINITE, 5, 6, (float("inf"), float("inf"), float("inf"))),
    ],
)
def test_the_times_of_a_lease(
    preferred: int, valid: int, t1: int, t2: int, expected: tuple[float, ...]
) -> None:
    lease = replace(LEASE, preferred=preferred, valid=valid, renew=t1, rebind=t2)
    assert (lease.t1, lease.t2, lease.end) == expected


@pytest.mark.parametrize(
    "change", [{"state": "no"}, {"address": "10.0.0.1/24"}, {"options": {"x": "00"}}, {"duid": "zz"}]
)
def test_what_is_no_lease(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not a lease"):
        decode(encode(LEASE) | change)


def test_both_families_of_an_attachment_lie_side_by_side(tmp_path: Path) -> None:
    store = Store(roots_from({"MESOKIT_ROOT": str(tmp_path)}))
    store.prepare()
    store.write(LEASE)
    store.write(LEASE4)
    assert store.read(IDENTITY) == LEASE4
    assert store.read(IDENTITY, 6) == LEASE
    assert len(list(store.every())) == 2
    store.remove(IDENTITY, after(5), 6)
    assert list(store.every()) == [LEASE4]
    assert not store.replace(LEASE, after(5)), "what DEL took is not written again"


def test_a_container_is_told_from_all_others_and_stays_the_same() -> None:
    first = duid.of_container("c1")
    assert first == duid.of_container("c1") != duid.of_container("c2")
    assert first[:2] == b"\0\x04"
    assert uuid.UUID(bytes=first[2:]).version == 5
    others = [Identity("net", "c1", "eth1"), Identity("net2", "c1", "eth0"), Identity("net", "c2", "eth0")]
    assert len({duid.association(item) for item in (IDENTITY, *others)}) == 4


@pytest.mark.parametrize("text", ["", "00", "0003zz", "00 03 00 01", "00" * 131])
def test_what_is_no_duid(text: str) -> None:
    with pytest.raises(ValueError, match="not a DUID"):
        duid.parse(text)


def test_a_duid_as_people_write_it() -> None:
    assert duid.parse("00:03:00:01:02-0a") == bytes.fromhex("00030001020a")


def test_the_address_that_we_have_is_kept() -> None:
    ours, other = (Given(IPv6Address(item), 1, 2) for item in ("fd00::5", "fd00::6"))
    assert chosen(LEASE, Association(0, 0, (other, ours), frozenset())) == ours
    assert chosen(LEASE, Association(0, 0, (other,), frozenset())) == other
    assert chosen(LEASE, Association(0, 0, (), frozenset())) is None


def test_of_prefixes_one_that_a_network_can_have() -> None:
    wanted = replace(LEASE, wish=replace(LEASE.wish, length=60), address=None)
    listed = tuple(
        Given(IPv6Address(first), 1, 2, length)
        for first, length in (
            ("2000::", 3),
            ("fd00::", 31),
            ("fd00::", 121),
            ("fd00:1::", 60),
            ("fd00:2::", 56),
        )
    )
    found = Association(0, 0, listed, frozenset())
    assert chosen(wanted, found) == listed[3]
    assert chosen(replace(wanted, address=listed[4].interface), found) == listed[4]
    assert chosen(wanted, Association(0, 0, listed[:3], frozenset())) is None


def test_a_prefix_in_a_file() -> None:
    lease = replace(
        LEASE, wish=replace(LEASE.wish, length=60), address=IPv6Interface("fd00:1::/60"), identity=PREFIX
    )
    assert decode(encode(lease)) == lease
    assert (lease.delegated, lease.subject, str(lease.prefix)) == (True, "fd00:1::/60", "fd00:1::/60")
    assert not LEASE.delegated
    before = {key: value for key, value in encode(LEASE).items() if key != "prefixLength"}
    assert decode(before) == LEASE, "a file of an earlier release"
    assert key_of(names_of((PREFIX, 6))) == (PREFIX, 6)


@pytest.mark.parametrize(
    ("prefix", "number", "expected"),
    [
        ("fd00:1::/64", 0, "fd00:1::/64"),
        ("fd00:1::/64", 1, None),
        ("fd00:1:0:10::/60", 15, "fd00:1:0:1f::/64"),
        ("fd00:1:0:10::/60", 16, None),
        ("fd00:1::/48", 0xFFFF, "fd00:1:0:ffff::/64"),
        ("fd00:1::/80", 0, "fd00:1::/80"),
        ("fd00:1::/80", 1, None),
    ],
)
def test_subnets_of_a_prefix(prefix: str, number: int, expected: str | None) -> None:
    found = delegation.subnet_of(IPv6Network(prefix), number)
    assert (None if found is None else str(found)) == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [(b"", 3600), ((120).to_bytes(4, "big"), 120), (bytes(4), 3600), (b"\xff" * 4, 3600), (b"\1", 3600)],
)
def test_how_often_a_server_may_be_asked(raw: bytes, expected: int) -> None:
    options = ((int(Option.SOL_MAX_RT), raw),) if raw else ()
    assert longest_of(Message(Kind.ADVERTISE, 1, options), 3600) == expected


def test_retransmission_doubles_up_to_its_longest() -> None:
    lost = replace(LEASE, state=State.INIT, longest=60)
    assert [round(pause(lost, tries) / 2**tries) for tries in (1, 2, 3)] == [1, 1, 1]
    assert 54 <= pause(lost, 40) <= 66
    renewing = replace(LEASE, state=State.RENEWING)
    assert 9 <= pause(renewing, 1) <= 11
    assert 540 <= pause(renewing, 40) <= 660


def test_how_a_message_to_the_daemon_names_a_lease() -> None:
    for key in ((IDENTITY, 4), (IDENTITY, 6)):
        assert key_of(names_of(key)) == key
    for words in (["net"], ["net", "c1", "eth0", "ipv5"], []):
        with pytest.raises(ValueError, match="names no lease"):
            key_of(words)
