"""What a network namespace's IP has counted: packets sent, ARP and neighbour discovery left out, and packets
lost (proc(5), net/snmp; the kernel's Documentation/networking/snmp_counter.rst).
"""

from collections.abc import Mapping

from cni_plugins.kernel.namespace import entered
from cni_plugins.spec import files
from cni_plugins.spec.namespace import Namespace

# What the kernel sends of its own accord; with IPv6 it counts as packets like any other.
_HOUSEKEEPING = (
    "Icmp6OutNeighborSolicits",
    "Icmp6OutNeighborAdvertisements",
    "Icmp6OutRouterSolicits",
    "Icmp6OutMLDv2Reports",
)

_PAIRED = ("snmp", "netstat")  # a line of names before each of values


def sent(namespace: Namespace, version: int) -> int:
    """Packets of IP `version` that programs in `namespace` have sent, answers of its kernel included.
    CniError 8; OSError where /proc is not there.
    """
    name = "snmp" if version == 4 else "snmp6"
    with entered(namespace):
        text = files.read(f"/proc/thread-self/net/{name}").decode("ascii", "replace")
    return _ipv4(text) if version == 4 else _ipv6(text)


def _ipv4(text: str) -> int:
    names, values = (line.split() for line in text.splitlines() if line.startswith("Ip: "))
    return int(values[names.index("OutRequests")])


def _ipv6(text: str) -> int:
    counted = {words[0]: int(words[1]) for line in text.splitlines() if len(words := line.split()) == 2}
    return counted["Ip6OutRequests"] - sum(counted.get(name, 0) for name in _HOUSEKEEPING)


#: Counters of packets that go no further, and what that means.
LOSSES: Mapping[str, str] = {
    "IpInHdrErrors": "broken header, or no hops left (TTL)",
    "IpInAddrErrors": "an address that nobody here has, and no forwarding",
    "IpInDiscards": "no memory",
    "IpOutDiscards": "no room in a queue",
    "IpOutNoRoutes": "no route",
    "IpFragFails": "too large for the way out",
    "IpExtInNoRoutes": "no route",
    "TcpExtIPReversePathFilter": "the reverse path filter (rp_filter)",
    "TcpExtListenDrops": "the queue of a listening socket is full",
    "Ip6InHdrErrors": "broken header, or no hops left",
    "Ip6InTooBigErrors": "too large for the way out",
    "Ip6InNoRoutes": "no route",
    "Ip6InAddrErrors": "an address that nobody here has, and no forwarding",
    "Ip6InDiscards": "no memory, or no neighbour",
    "Ip6OutDiscards": "no room in a queue",
    "Ip6OutNoRoutes": "no route",
}


def losses(namespace: Namespace) -> dict[str, int]:
    """How often each of LOSSES was counted in `namespace`. CniError 8; OSError where /proc is not there."""
    with entered(namespace):
        paired = [files.read(f"/proc/thread-self/net/{name}").decode("ascii", "replace") for name in _PAIRED]
        try:
            single = files.read("/proc/thread-self/net/snmp6").decode("ascii", "replace")
        except FileNotFoundError:  # without IPv6
            single = ""
    found: dict[str, int] = {}
    for text in paired:
        lines = text.splitlines()
        for names, values in zip(lines[::2], lines[1::2], strict=False):
            prefix, *words = names.split()
            found.update(
                zip((prefix[:-1] + word for word in words), map(int, values.split()[1:]), strict=False)
            )
    found.update((words[0], int(words[1])) for line in single.splitlines() if len(words := line.split()) == 2)
    return {name: found[name] for name in LOSSES if name in found}
