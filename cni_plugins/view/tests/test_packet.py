"""Headers of any bytes, and packets put together from any events."""

from __future__ import annotations

import struct
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from cni_plugins.kernel.nft.trace import Event, Match
from cni_plugins.view.follow import Follower
from cni_plugins.view.packet import headers

_ONE, _TWO = IPv4Address("10.9.0.2"), IPv4Address("10.9.0.3")
_ports = st.integers(1, 65535)


def ip4(protocol: int = 6, number: int = 1, fragment: int = 0) -> bytes:
    return struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 60, number, fragment, 64, protocol, 0, _ONE.packed, _TWO.packed
    )


def ip6(protocol: int) -> bytes:
    ends = IPv6Address("fd00:9::2").packed + IPv6Address("fd00:9::3").packed
    return struct.pack(">IHBB", 6 << 28, 20, protocol, 64) + ends


@given(st.binary(max_size=80), st.binary(max_size=40))
def test_any_bytes_are_headers_or_none_and_never_raise(network: bytes, transport: bytes) -> None:
    found = headers(network, transport)
    if found is None:
        assert (
            len(network) < 20 or network[0] >> 4 not in {4, 6} or (network[0] >> 4 == 6 and len(network) < 40)
        )
        return
    assert str(found).isprintable() and len(str(found)) < 160
    assert found.source_port in range(65536) and found.hops in range(256)


@given(st.sampled_from((ip4, ip6)), st.integers(0, 255), st.binary(max_size=20))
def test_cut_and_odd_transports(make: Callable[[int], bytes], protocol: int, transport: bytes) -> None:
    found = headers(make(protocol), transport)
    assert found is not None and found.protocol == protocol
    if len(transport) < 4 or protocol not in {6, 17, 132}:
        assert (found.source_port, found.target_port) == (0, 0)
    if protocol != 6 or len(transport) < 14:
        assert found.flags == ""
    assert str(found).isprintable()


@given(_ports, _ports)
def test_ports_and_flags_are_those_of_the_bytes(source: int, target: int) -> None:
    transport = struct.pack(">HHIIBB", source, target, 0, 0, 0x50, 0x12)
    found = headers(ip4(), transport)
    assert found is not None and str(found) == f"10.9.0.2:{source} -> 10.9.0.3:{target} tcp SYN,ACK"
    found = headers(ip6(6), transport)
    assert found is not None and str(found) == f"[fd00:9::2]:{source} -> [fd00:9::3]:{target} tcp SYN,ACK"


@given(st.integers(1, 0x1FFF), st.binary(min_size=14, max_size=20))
def test_a_later_fragment_has_no_ports(offset: int, payload: bytes) -> None:
    found = headers(ip4(fragment=offset), payload)
    assert found is not None and str(found) == "10.9.0.2 -> 10.9.0.3 tcp"


_TABLE = "mesokit-trace-1"
_chains = st.sampled_from(
    ["mark-prerouting", "mark-forward", "mark-postrouting", "mark-input", "forward", "x"]
)
_events = st.builds(
    Event,
    packet=st.integers(0, 5),
    family=st.sampled_from(["ip", "inet", "bridge"]),
    table=st.sampled_from([_TABLE, "mesokit-trace-2", "filter"]),
    chain=_chains,
    kind=st.sampled_from(["policy", "return", "rule"]),
    handle=st.integers(0, 9),
    verdict=st.sampled_from(["drop", "accept", "continue", "jump"]),
    target=st.sampled_from(["", "other"]),
    iif=st.integers(0, 9),
    oif=st.integers(0, 9),
    network=st.one_of(st.just(b""), st.binary(max_size=45), st.builds(ip4, number=st.integers(0, 3))),
    transport=st.binary(max_size=16),
)


@given(
    st.lists(_events, max_size=40), st.sampled_from([Match(_ONE), Match(_TWO, _ONE, 6), Match(_ONE, port=80)])
)
def test_any_events_end_as_packets_once(events: list[Event], match: Match) -> None:
    follower = Follower([match], _TABLE)
    for number, event in enumerate(events):
        follower.hear([event], number / 1000)
    assert not list(follower.over(0)), "nothing is over while it is heard of"
    packets = list(follower.over(1000))
    assert len(packets) == len({id(packet) for packet in packets}) <= len(events)
    for packet in packets:
        assert match.one in {packet.first.source, packet.first.target}
        assert packet.verdict in {"dropped", "left", "delivered", "lost"}
        assert (packet.verdict == "dropped") == any(step.verdict == "drop" for step in packet.steps)
        assert all(step.table == "filter" for step in packet.steps), "no trace's table is a step"
        assert packet.began <= packet.heard
    assert not list(follower.over(2000)), "a packet is told once"


def test_a_flood_has_an_end() -> None:
    follower = Follower([Match(_ONE)], _TABLE)
    for number in range(2500):
        network = ip4(number=number)
        follower.hear(
            [Event(number, "ip", _TABLE, "mark-prerouting", "rule", 1, "continue", "", 2, 0, network, b"")], 0
        )
    assert follower.overflow == 500
    assert len(list(follower.over(1))) == 2000
