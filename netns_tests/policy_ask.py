"""Who answers whom, in both families at once, between containers that serve and containers that ask."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from netns_tests.node import Netns, Node, started, until
from netns_tests.policy_box import Box

#: What a container serves, over TCP and UDP.
PORTS = (1, 53, 79, 80, 81, 5432, 5433, 65535)
_PROBE = ["/usr/bin/python3", "-I", "-S", "-B", str(Path(__file__).with_name("policy_probe.py"))]
#: For an answer that comes. What is refused is told at once, but for pings and what is over the limit.
_PATIENCE = "0.6"
#: Where the machine behind `behind` sends from.
BEHIND = ("10.8.0.1", "fd08::1")

Place = Box | Netns | Node


def _where(place: Place) -> Netns | Node:
    return place.netns if isinstance(place, Box) else place


@contextmanager
def serving(*places: Place) -> Iterator[None]:
    """Each answers on every one of PORTS while the block runs."""
    with ExitStack() as stack:
        words = [*_PROBE, "serve", ",".join(map(str, PORTS))]
        running = [stack.enter_context(started(_where(place).popen(words))) for place in places]
        until(lambda: all(b"ready" in each.output() for each in running), what="all serve")
        yield


def passes(source: Place, target: Box | Sequence[str], *traffic: str) -> list[bool]:
    """Of each of `traffic` (tcp/80, udp/53, icmp) whether it is answered: by all of the target's addresses or
    by none.
    """
    addresses = target.addresses if isinstance(target, Box) else target
    probes = [_probe(address, each) for each in traffic for address in addresses]
    asking = _where(source).run([*_PROBE, "ask", _PATIENCE], input=json.dumps(probes))
    answers = iter(asking.json())
    found: list[bool] = []
    for each in traffic:
        of_all = {next(answers) for _ in addresses}
        assert len(of_all) == 1, f"{each}: the families differ"
        found.append(of_all.pop())
    return found


def _probe(address: str, traffic: str) -> tuple[str, str, int]:
    protocol, _, port = traffic.partition("/")
    return address, protocol, int(port or 0)


def asks_for_neighbours(node: Node) -> None:
    """Who forwards asks for IPv6 neighbours from a link's own address, which `uplink` leaves out."""
    node.shell("ip -n world addr add fe80::1/64 dev world nodad; ip addr add fe80::2/64 dev eth0 nodad")


def behind(node: Node) -> Netns:
    """A machine of the world that sends from BEHIND, and knows the way to 10.9.0.0/24 and fd09::/64."""
    world = node.uplink()
    asks_for_neighbours(node)
    world.run(
        [
            "sh",
            "-ec",
            f"ip addr add {BEHIND[0]}/32 dev world; ip addr add {BEHIND[1]}/128 dev world nodad; "
            f"ip route add 10.9.0.0/24 via 192.0.2.2 src {BEHIND[0]}; "
            f"ip route add fd09::/64 via 2001:db8::2 src {BEHIND[1]}",
        ]
    )
    return world
