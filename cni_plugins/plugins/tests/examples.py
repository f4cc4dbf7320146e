"""A valid configuration of every plugin, with most of its keys, and hostile changes to them."""

import copy
import random
from typing import Any

Conf = dict[str, Any]


def local(*subnets: str, **keys: Any) -> Conf:
    return {"type": "host-local", "ranges": [[{"subnet": subnet}] for subnet in subnets], **keys}


def network(version: str = "1.1.0", **keys: Any) -> Conf:
    return {"cniVersion": version, "name": "net", **keys}


ROUTES = [
    {"dst": "10.20.0.0/16", "mtu": 1400, "advmss": 1000, "priority": 5, "table": 100, "scope": 0},
    {"dst": "::/0", "gw": "fd00:9::1"},
]
DUAL = local("10.9.0.0/24", "fd00:9::/64", routes=ROUTES)
BRIDGE: Conf = {"type": "bridge", "bridge": "br0", "isDefaultGateway": True, "ipam": DUAL}
PORTS = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "192.0.2.2"}]
TASK: Conf = {
    "name": "net",
    "port_mappings": [{"host_port": 8081, "container_port": 81, "protocol": "udp"}],
    "ip_addresses": [{"ip_address": "10.9.0.5", "protocol": "IPv4"}, {"protocol": "IPv6"}],
    "labels": {"labels": [{"key": "net/mac", "value": "02:00:00:00:00:07"}]},
    "groups": ["a"],
}
MESOS: Conf = {
    "args": {"org.apache.mesos": {"network_info": TASK}},
    "networkInfoLabels": {"prefix": "net/", "allow": ["mac"]},
}


def without_ports(conf: Conf) -> Conf:
    """The same for a network that publishes none."""
    changed = copy.deepcopy(conf)
    del changed["args"]["org.apache.mesos"]["network_info"]["port_mappings"]
    return changed


#: What flanneld writes, for the example of flannel.
LEASE = "FLANNEL_NETWORK=10.9.0.0/16\nFLANNEL_SUBNET=10.9.0.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"

EXAMPLES: dict[str, Conf] = {
    "bridge": network(
        **BRIDGE,
        ipMasq=True,
        macspoofchk=True,
        hairpinMode=True,
        mtu=1400,
        portIsolation=True,
        dns={"nameservers": ["192.0.2.53"], "domain": "x", "search": ["a"], "options": ["b"]},
        runtimeConfig={
            "mac": "02:00:00:00:00:05",
            "ips": ["10.11.0.9/24"],
            "ipRanges": [[{"subnet": "10.11.0.0/24", "rangeStart": "10.11.0.4", "rangeEnd": "10.11.0.9"}]],
        },
        args={"cni": {"mac": "02:00:00:00:00:06", "ips": ["10.9.0.10"]}},
    ),
    "bridge of layer 2": network("0.2.0", type="bridge", bridge="br0"),
    "bridge on Mesos": network("1.0.0", **BRIDGE, **without_ports(MESOS)),
    "ptp": network(
        type="ptp", ipMasq=True, mtu=1400, ipam=local("10.9.0.0/24", sticky=True, dataDir="/data")
    ),
    "ptp with another prefix": network(
        type="ptp", ipMasq=True, nptv6={"fd00:9::/64": "2001:db8:9::/64"}, ipam=DUAL
    ),
    "ptp with static": network(
        type="ptp",
        hostInterface="app-7",
        macFromIP=True,
        ipam={
            "type": "static",
            "addresses": [{"address": "10.9.0.5/24", "gateway": "10.9.0.1"}],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dns": {"nameservers": ["192.0.2.53"]},
        },
    ),
    "macvlan": network(
        type="macvlan", master="dum0", mode="bridge", mtu=1400, bcqueuelen=5, ipam=local("10.9.0.0/31")
    ),
    "ipvlan": network(
        type="ipvlan",
        master="dum0",
        mode="l3",
        mtu=1400,
        ipam=local("10.9.0.0/24", "fd00:9::/64", routes=ROUTES),
    ),
    "vlan": network(type="vlan", master="dum0", vlanId=100, mtu=1400, ipam=DUAL),
    "dummy": network(type="dummy", mtu=1400, mac="02:00:00:00:00:0a", ipam=DUAL),
    "host-device": network(type="host-device", device="dum0", ipam=DUAL),
    "tap": network(
        type="tap", multiQueue=True, mtu=1400, mac="02:00:00:00:00:0b", owner=1000, group=1000, ipam=DUAL
    ),
    "loopback": network(type="loopback"),
    "tuning": network(
        type="tuning",
        sysctl={"net.core.somaxconn": "500", "net/ipv4/conf/IFNAME/arp_filter": "1"},
        mac="02:00:00:00:00:08",
        mtu=1400,
        txQLen=50,
        promisc=True,
        allmulti=False,
        delegate=BRIDGE,
        args={"cni": {"mtu": 1300, "sysctl": {"net.core.somaxconn": "600"}}},
    ),
    "sbr": network(
        type="sbr",
        gateways=["10.9.0.9", "fd00:9::9"],
        delegate={"type": "macvlan", "master": "dum0", "ipam": DUAL},
    ),
    "vrf": network(type="vrf", vrfname="blue", table=1000, delegate={"type": "ptp", "ipam": DUAL}),
    "portmap": network(type="portmap", masqAll=True, runtimeConfig={"portMappings": PORTS}, delegate=BRIDGE),
    "bandwidth": network(
        type="bandwidth",
        ingressRate=1000000,
        ingressBurst=80000,
        egressRate=1000000,
        egressBurst=80000,
        unshapedSubnets=["10.20.0.0/16", "fd00::/8"],
        delegate=BRIDGE,
    ),
    "firewall": network(
        type="firewall",
        backend="nftables",
        ingressPolicy="isolated",
        iptablesAdminChainName="OURS",
        firewalldZone="trusted",
        delegate=BRIDGE,
    ),
    "flannel": network(
        type="flannel",
        subnetFile="/subnet.env",
        dataDir="/data/flannel",
        ipam={"type": "host-local", "routes": [{"dst": "10.20.0.0/16"}]},
        delegate={"hairpinMode": True, "isDefaultGateway": True},
    ),
    "mesos-cni-port-mapper": network(
        "0.2.0", type="mesos-cni-port-mapper", chain="X", excludeDevices=["dum0"], delegate=BRIDGE, **MESOS
    ),
    "chain": network(
        type="chain",
        plugins=[
            BRIDGE,
            {"type": "tuning", "mtu": 1300},
            {"type": "portmap", "capabilities": {"portMappings": True}},
            {"type": "bandwidth", "ingressRate": 10000, "ingressBurst": 20000},
        ],
        runtimeConfig={"portMappings": PORTS},
    ),
}

#: Their kind of link may be missing in the kernel under these tests: netns_tests/test_qemu_examples.py puts
#: them through the same tests on one that has all.
RARE = frozenset(("dummy", "ipvlan", "vlan", "vrf"))
COMMON = sorted(name for name, conf in EXAMPLES.items() if conf["type"] not in RARE)

HOSTILE: tuple[Any, ...] = (
    *(None, "", 0, -1, 1, 2**31, 2**32, 2**63, 10**40, 1.5, 1e300, True, False, [], {}, [[]], [{}], [None]),
    *("\ud800", "\udfff\udc00", "a" * 300, "a\0b", "é" * 8, "\n", "a b", "../../x", "/etc/passwd", "{", "*"),
    *("10.0.0.0/33", "10.9.0.0/0", "0.0.0.0/0", "::/0", "::", "fe80::1", "ff02::1", "224.0.0.1", "127.0.0.1"),
    *("::ffff:10.0.0.1", "10.9.0.1/24", "fd00::/129", "10.0.0.1/\u0663", "255.255.255.255"),
    *("eth0", "br0", "lo", "dum0", "bridge", "static", "host-local", "chain", "tuning", "no-such", "/bin/sh"),
    *("0.2.0", "1.1.0", "IPv4", "sctp", ";drop", '"; flush ruleset', "$"),
)


def _places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [place] if place else []
    for key, item in inner:
        found += _places(item, (*place, key))
    return found


def changed(document: Conf, dice: random.Random) -> Conf:
    """A copy with one to three keys or values replaced, removed, doubled or renamed."""
    document = copy.deepcopy(document)
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        places = _places(document)
        if not places:
            break
        *path, last = dice.choice(places)
        parent: Any = document
        for key in path:
            parent = parent[key]
        what = dice.random()
        if what < 0.7 or isinstance(parent, list):
            parent[last] = copy.deepcopy(dice.choice(HOSTILE))
        elif what < 0.8:
            del parent[last]
        elif what < 0.9:
            parent[last.swapcase()] = copy.deepcopy(dice.choice(HOSTILE))
        else:
            parent[dice.choice(("x", "\ud800", "", "a" * 300))] = parent.pop(last)
    return document
