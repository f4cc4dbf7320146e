"""Leases: their times, and that a file has all of them."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugins.dhcp.lease import INFINITE, Lease, Place, State, Wish, decode, encode
from cni_plugins.dhcp.packet import Option
from cni_plugins.dhcp.store import Store, read
from cni_plugins.spec.deadline import after
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.roots import roots_from
from cni_plugins.store import boot

LEASE = Lease(
    Identity("net", "c1", "eth0"),
    Place("/run/netns/c1", (4, 5, 6), "eth0", "02:00:00:00:00:01"),
    Wish(b"\0c1/net/eth0", (1, 3), {12: b"web"}, broadcast=True, priority=7),
    State.BOUND,
    IPv4Interface("10.0.0.5/24"),
    IPv4Address("10.0.0.1"),
    "02:00:00:00:00:02",
    {Option.LEASE_TIME: (100).to_bytes(4, "big"), 43: bytes(range(256))},
    1000.0,
    boot.current(),
)


def four(value: int) -> bytes:
    return value.to_bytes(4, "big")


@given(
    st.builds(
        replace,
        st.just(LEASE),
        state=st.sampled_from(State),
        address=st.none() | st.ip_addresses(v=4).map(IPv4Interface),
        options=st.dictionaries(st.integers(0, 255), st.binary(max_size=300), max_size=6),
        began=st.floats(0, 1e9),
        told=st.text(max_size=20),
    )
)
def test_a_file_has_all_of_a_lease(lease: Lease) -> None:
    assert decode(json.loads(json.dumps(encode(lease)))) == lease


@pytest.mark.parametrize(
    ("seconds", "t1", "t2", "expected"),
    [
        (100, None, None, (1050, 1087.5, 1100)),
        (100, 20, 30, (1020, 1030, 1100)),
        (100, 200, 300, (1050, 1087.5, 1100)),  # beyond the end: the server's mistake
        (100, 90, 40, (1040, 1040, 1100)),
        (100, 0, 0, (1050, 1087.5, 1100)),
        (INFINITE, 5, 6, (float("inf"), float("inf"), float("inf"))),
    ],
)
def test_the_times_of_a_lease(
    seconds: int, t1: int | None, t2: int | None, expected: tuple[float, ...]
) -> None:
    options = {int(Option.LEASE_TIME): four(seconds)}
    options |= {int(Option.T1): four(t1)} if t1 is not None else {}
    options |= {int(Option.T2): four(t2)} if t2 is not None else {}
    lease = replace(LEASE, options=options)
    assert (lease.t1, lease.t2, lease.end) == expected


@pytest.mark.parametrize(
    "change", [{"state": "no"}, {"address": "fd00::1/64"}, {"options": {"x": "00"}}, {"netnsID": 4}]
)
def test_what_is_no_lease(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not a lease"):
        decode(encode(LEASE) | change)


def test_a_lease_of_another_boot_holds_no_more() -> None:
    now = replace(LEASE, began=boot.elapsed())
    assert now.holds
    assert not replace(now, boot="another").holds
    assert not replace(now, state=State.INIT).holds
    assert not replace(now, began=boot.elapsed() - 101).holds


def test_the_store_is_root_only_and_whole(tmp_path: Path) -> None:
    store = Store(roots_from({"MESOKIT_ROOT": str(tmp_path)}))
    store.prepare()
    store.write(LEASE)
    path = store.path(LEASE.identity)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.directory.stat().st_mode) == 0o700
    assert store.read(LEASE.identity) == LEASE
    assert list(store.every()) == [LEASE]
    store.remove(LEASE.identity, after(5))
    assert not store.replace(LEASE, after(5)), "what DEL took is not written again"
    assert store.read(LEASE.identity) is None
    store.remove(LEASE.identity, after(5))


def test_a_torn_file_is_no_lease(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    whole = json.dumps(encode(LEASE))
    for size in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_text(whole[:size])
        assert read(path) is None


def test_a_socket_has_a_store_of_its_own(tmp_path: Path) -> None:
    roots = roots_from({"MESOKIT_ROOT": str(tmp_path)})
    names = {
        Store(roots, socket).directory.name for socket in ("", "/run/cni/dhcp.sock", "/run/../x", "/" * 300)
    }
    assert len(names) == 4
    assert all("/" not in name and not name.startswith(".") for name in names)


def test_one_daemon_has_a_store(tmp_path: Path) -> None:
    store = Store(roots_from({"MESOKIT_ROOT": str(tmp_path)}))
    fd = store.claim()
    assert fd >= 0
    assert store.owner() == str(os.getpid())
    assert store.claim() == -1
    os.close(fd)
    again = store.claim()
    assert again >= 0
    os.close(again)
