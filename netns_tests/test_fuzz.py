"""Any JSON at all on standard input: one JSON document comes out, never a traceback, and a refused ADD has
changed nothing."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netns_tests.node import Netns, Node, NodeError
from netns_tests.snapshot import Snapshot, difference, snapshot

KEYS = [
    "cniVersion",
    "name",
    "type",
    "bridge",
    "isGateway",
    "isDefaultGateway",
    "forceAddress",
    "ipMasq",
    "ipMasqBackend",
    "mtu",
    "hairpinMode",
    "promiscMode",
    "vlan",
    "vlanTrunk",
    "preserveDefaultVlan",
    "macspoofchk",
    "enabledad",
    "portIsolation",
    "disableContainerInterface",
    "ipam",
    "dns",
    "args",
    "runtimeConfig",
    "prevResult",
    "master",
    "mode",
    "mac",
    "sysctl",
    "promisc",
    "allmulti",
    "txQLen",
    "dataDir",
    "delegate",
    "plugins",
    "snat",
    "markMasqBit",
    "masqAll",
    "backend",
    "conditionsV4",
    "capabilities",
    "portMappings",
    "ips",
    "ipRanges",
    "subnet",
    "rangeStart",
    "rangeEnd",
    "gateway",
    "ranges",
    "routes",
    "dst",
    "gw",
    "addresses",
    "address",
    "resolvConf",
    "hostPort",
    "containerPort",
    "protocol",
    "hostIP",
    "cni",
    "interfaces",
    "org.apache.mesos",
    "network_info",
    "port_mappings",
    "ip_addresses",
]
PLUGINS = (
    *("bridge", "host-local", "static", "loopback", "tuning", "ptp", "macvlan", "portmap", "chain"),
    *("dummy", "host-device", "ipvlan", "sbr", "tap", "vlan", "vrf"),
)

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        [
            "10.9.0.0/24",
            "10.9.0.1",
            "fd00:9::/64",
            "host-local",
            "static",
            "br0",
            "eth0",
            "tcp",
            "02:11:22:33:44:55",
            *PLUGINS,
        ]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=8), inner, max_size=6)
    ),
    max_leaves=20,
)
ipams = (
    st.none()
    | values
    | st.builds(
        lambda more: {"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/24"}]], **more},
        st.dictionaries(st.sampled_from(KEYS), values, max_size=2),
    )
)


def documents(plugin: str) -> st.SearchStrategy[Any]:
    sensible = st.builds(
        lambda ipam, more: {"cniVersion": "1.1.0", "name": "net", "type": plugin, "ipam": ipam, **more},
        ipams,
        st.dictionaries(st.sampled_from(KEYS), values, max_size=4),
    )
    return sensible | values


def changed(node: Node, box: Netns, before: Snapshot) -> list[str]:
    """What stays different. Processes of the service come and go: spare workers, and who looks through the
    rules; and one that waits for the kernel to delete a link outlives its call for a moment.
    """
    end = time.monotonic() + 30
    while True:
        left = [
            line
            for line in difference(before, snapshot(node, [box]))
            if "route local" not in line and not re.match(r"- process|\+ process \d+ .*mesokit node = ", line)
        ]
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.05)


@pytest.mark.parametrize("plugin", PLUGINS)
def test_any_document(node: Node, plugins: str, plugin: str) -> None:
    node.uplink()
    box = node.netns("c1")
    box.run(["ip", "link", "set", "lo", "up"])
    box.run(["ip", "link", "set", "lo", "down"])  # it keeps the addresses that it got
    empty: Snapshot = snapshot(node, [box])

    @settings(
        max_examples=25,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(document=documents(plugin))
    def check(document: Any) -> None:
        text = json.dumps(document)
        try:
            answer = node.cni("ADD", f"{plugins}/{plugin}", text, "c1", box)
            said = answer.finished.stdout + answer.finished.stderr
            assert b"Traceback" not in said and b"internal error" not in said, (text, said)
            if answer.error is not None:
                assert answer.code > 0 and answer.error["msg"], text
            else:
                assert answer.result is not None, text
                assert node.cni("DEL", f"{plugins}/{plugin}", text, "c1", box).code == 0, text
        except NodeError as error:
            raise AssertionError(f"{text}: {error}") from error
        left = changed(node, box, empty)
        assert not left, (text, answer.error, left[:5])

    check()
