"""How many packets a network namespace has sent, ARP and neighbour discovery left out (proc(5), net/snmp; the
kernel's Documentation/networking/snmp_counter.rst).
"""

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
