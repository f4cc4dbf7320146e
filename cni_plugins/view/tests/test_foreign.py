"""What rules of others do with a flow, as the kernel has them."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from cni_plugins.conftest import new_namespace
from cni_plugins.kernel.netlink.netfilter import Nfnetlink
from cni_plugins.kernel.nft import library
from cni_plugins.kernel.nft.base_chains import FORWARD, PREROUTING
from cni_plugins.policy.explain import Packet
from cni_plugins.view.foreign import Flow, meets

FOUR = Packet(ip_address("10.9.0.2"), ip_address("10.9.0.3"), 17, 53)
SIX = Packet(ip_address("fd09::2"), ip_address("fd09::3"), 6, 80)
PING = Packet(ip_address("fd09::2"), ip_address("fd09::3"), 58, 128)
#: Rules, a packet, and what is met: what it does, surely or not.
CASES = [
    ("udp dport 53 drop", FOUR, [("drop", True)]),
    ("udp dport { 52, 54 } drop", FOUR, []),
    ("udp dport 50-60 drop", FOUR, [("drop", True)]),
    ("tcp dport 53 drop", FOUR, []),
    ("th dport 53 counter drop", FOUR, [("drop", True)]),
    ("udp dport != 54 drop", FOUR, [("drop", True)]),
    ("udp sport 53 drop", FOUR, [("drop", False)]),
    ("ip saddr 10.9.0.0/24 reject", FOUR, [("reject", True)]),
    ("ip saddr 10.9.1.0/24 drop", FOUR, []),
    ("ip daddr { 10.9.0.3, 10.9.0.8/29 } drop", FOUR, [("drop", True)]),
    ("ip saddr 10.9.0.2 drop", SIX, []),
    ("ip6 daddr fd09::3 tcp dport 80 drop", SIX, [("drop", True)]),
    ("icmpv6 type echo-request drop", PING, [("drop", True)]),
    ("icmpv6 type nd-router-advert drop", PING, [("drop", False)]),
    ("meta l4proto { tcp, udp } drop", FOUR, [("drop", True)]),
    ('iifname "br0" drop', FOUR, [("drop", True)]),
    ('iifname "br*" drop', FOUR, [("drop", True)]),
    ('oifname "br0" drop', FOUR, [("drop", False)]),
    ("meta mark 7 drop", FOUR, [("drop", False)]),
    ("ct state new drop", FOUR, [("drop", True)]),
    ("ct state established accept\nadd rule inet o f drop", FOUR, [("drop", True)]),
    ("accept\nadd rule inet o f drop", FOUR, []),
    ("meta mark 7 accept\nadd rule inet o f drop", FOUR, [("drop", False)]),
    ("limit rate 1/second accept\nadd rule inet o f drop", FOUR, [("drop", False)]),
    ("jump g", FOUR, [("drop", True)]),
    ("udp dport 54 jump g", FOUR, []),
    ("meta mark 7 jump g", FOUR, [("drop", False)]),
    ("return\nadd rule inet o f drop", FOUR, []),
    ("udp dport 53 notrack", FOUR, []),  # too late: it is tracked by then
]


@pytest.mark.parametrize(("rules", "packet", "expected"), CASES, ids=[case[0] for case in CASES])
def test_what_rules_of_others_do(rules: str, packet: Packet, expected: list[tuple[str, bool]]) -> None:
    host = new_namespace()
    made = "add table inet o\nadd chain inet o f { type filter hook forward priority 0 ; }\n"
    if "jump" in rules:
        made += "add chain inet o g\nadd rule inet o g drop\n"
    library.run(host, f"{made}add rule inet o f {rules}\n")
    with Nfnetlink(host) as socket:
        met = meets(socket, Flow(packet, "br0"), (PREROUTING, FORWARD), bridged=False, on_host=False)
    assert [(item.does, item.surely) for item in met] == expected, met
    assert all(item.handle for item in met) and all(item.table == "o" for item in met)


def test_what_is_before_tracking_and_a_policy_and_a_chain_of_thousands() -> None:
    host = new_namespace()
    library.run(
        host,
        "add table inet o\nadd chain inet o p { type filter hook prerouting priority -300 ; }\n"
        "add rule inet o p udp dport 53 notrack\n"
        "add chain inet o f { type filter hook forward priority 0 ; policy drop ; }\n",
    )
    with Nfnetlink(host) as socket:
        met = meets(socket, Flow(FOUR), (PREROUTING, FORWARD), bridged=False, on_host=False)
        assert [(item.chain, item.does, item.surely) for item in met] == [
            ("p", "notrack", True),
            ("f", "drop", True),
        ]
        assert met[1].handle == 0 and met[1].rule == "policy drop"
        library.run(host, "add rule inet o p accept\n" * 1001)
        (first, *_) = meets(socket, Flow(FOUR), (PREROUTING,), bridged=False, on_host=False)
    assert first.does == "unread" and not first.surely and "1002 rules" in str(first)
