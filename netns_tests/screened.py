"""Holds the quick look of `mesokit check` (view/screen.py) against the check itself, in the node it is
started in: prints a line of JSON for each harm of HARMS with the containers that each of the two finds whole.

python -m netns_tests.screened
"""

from __future__ import annotations

import json
import subprocess
import sys

from cni_plugins.cli import look
from cni_plugins.plugins.registry import Plugins
from cni_plugins.view import endpoint, screen
from cni_plugins.view.node import Node
from cni_plugins.view.verdict import Verdict


def _inside(command: str, container: str = "b1") -> str:
    return f"nsenter --net=/run/netns/{container} {command}"


#: What is done, and what puts it right. The containers: b1 and b2 on a bridge with ports published, p1 and p2
#: on ptp, h1 on a bridge in hairpin mode.
HARMS: dict[str, tuple[str, str]] = {
    "nothing": ("true", "true"),
    "reservation": (
        "mv /var/lib/cni/networks/web-net/10.9.0.2 /run/away",
        "mv /run/away /var/lib/cni/networks/web-net/10.9.0.2",
    ),
    "somebody else's reservation": (
        "cp -a /var/lib/cni/networks/web-net/10.9.0.2 /run/away; "
        "printf 'else\\r\\neth0' > /var/lib/cni/networks/web-net/10.9.0.2",
        "mv /run/away /var/lib/cni/networks/web-net/10.9.0.2",
    ),
    "bridge down": ("ip link set web0 down", "ip link set web0 up"),
    "port of another bridge": ("ip link set $B1 master spare", "ip link set $B1 master web0"),
    "hairpin off": ("bridge link set dev $H1 hairpin off", "bridge link set dev $H1 hairpin on"),
    "host's end down": ("ip link set $P1 down", "ip link set $P1 up; mesokit check p1 >/dev/null"),
    "host's end with another MAC address": (
        "ip -br link show $B1 | awk '{print $3}' > /run/mac; ip link set $B1 address 02:00:00:00:00:07",
        "ip link set $B1 address $(cat /run/mac)",
    ),
    "other MTU": (_inside("ip link set eth0 mtu 1400"), _inside("ip link set eth0 mtu 1500")),
    "other MAC address": (
        _inside("ip -br link show eth0") + " | awk '{print $3}' > /run/mac; "
        + _inside("ip link set eth0 address 02:00:00:00:00:07"),
        _inside("ip link set eth0 address $(cat /run/mac)"),
    ),
    "address gone": (
        _inside("ip address del 10.9.0.2/24 dev eth0"),
        _inside("ip address add 10.9.0.2/24 dev eth0; ")
        + _inside("ip route replace default via 10.9.0.1"),
    ),
    "another prefix": (
        _inside("ip address add 10.9.0.2/25 dev eth0; ") + _inside("ip address del 10.9.0.2/24 dev eth0"),
        _inside("ip address add 10.9.0.2/24 dev eth0; ") + _inside("ip address del 10.9.0.2/25 dev eth0; ")
        + _inside("ip route replace default via 10.9.0.1"),
    ),
    "route by another gateway": (
        _inside("ip route replace default via 10.9.0.77"),
        _inside("ip route replace default via 10.9.0.1"),
    ),
    "IPv6 route gone": (
        _inside("ip -6 route del default"),
        _inside("ip -6 route add default via fd00:9::1 dev eth0"),
    ),
    "inner route gone": (
        _inside("ip route del 10.8.0.0/28", "p1"),
        _inside("ip route add 10.8.0.0/28 via 10.8.0.1", "p1"),
    ),
    "blackhole in its place": (
        _inside("ip route replace blackhole default"),
        _inside("ip route replace default via 10.9.0.1"),
    ),
    "down inside": (
        _inside("ip link set eth0 down", "p1"),
        _inside("ip link set eth0 up; ", "p1")
        + _inside("ip route replace 10.8.0.1 dev eth0 scope link; ", "p1")
        + _inside("ip route replace 10.8.0.0/28 via 10.8.0.1", "p1"),
    ),
    "gateway's address": ("ip address del 10.9.0.1/24 dev web0", "mesokit reload >/dev/null"),
    "route of the host": ("ip route del 10.8.0.2", "ip route add 10.8.0.2 dev $P1 scope host"),
    "its route by another link": (
        "ip route del 10.8.0.2; ip route add 10.8.0.2 dev $P2",
        "ip route del 10.8.0.2; ip route add 10.8.0.2 dev $P1 scope host",
    ),
    "not masqueraded": (
        "nft delete element inet mesokit masquerade4 { 10.9.0.2 }",
        "mesokit reload >/dev/null",
    ),
    "port of nobody": (
        "nft delete element inet mesokit port4 { tcp . 8081 }",
        "mesokit reload >/dev/null",
    ),
    "answer of nobody": (
        "nft delete element inet mesokit answer6 { fd00:9::2 }",
        "mesokit reload >/dev/null",
    ),
    "chain flushed": ("nft flush chain inet mesokit postrouting", "mesokit reload >/dev/null"),
    "rules flushed": ("nft flush ruleset", "mesokit reload >/dev/null"),
    "no route_localnet": (
        "sysctl -qw net.ipv4.conf.web0.route_localnet=0",
        "sysctl -qw net.ipv4.conf.web0.route_localnet=1",
    ),
    "no forwarding": ("sysctl -qw net.ipv4.ip_forward=0", "sysctl -qw net.ipv4.ip_forward=1"),
    "no forwarding of IPv6": (
        "sysctl -qw net.ipv6.conf.all.forwarding=0",
        "sysctl -qw net.ipv6.conf.all.forwarding=1",
    ),
}  # fmt: skip


def _names(node: Node) -> str:
    links = {item.container_id.upper(): item.host_interface for item in node.attachments}
    return "; ".join(f"{name}={link}" for name, link in links.items())


def main() -> int:
    place = look.here()
    names = _names(look.node(place))
    for harm, right in HARMS.values():
        subprocess.run(["sh", "-ec", f"{names}; {harm}"], check=True)
        node = look.node(place)
        quick = {item.container_id for item in screen.standing(node, node.attachments, place.host)}
        with endpoint.checking(place.roots, place.host, Plugins()) as checks:
            slow = {
                item.container_id
                for item in node.attachments
                if all(step.verdict in {Verdict.OK, Verdict.PASSIVE} for step in endpoint.check(item, checks))
            }
        sys.stdout.write(json.dumps([sorted(quick), sorted(slow)]) + "\n")
        subprocess.run(["sh", "-ec", f"{names}; {right}"], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
