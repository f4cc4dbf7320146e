"""The plugins whose kind of link is rare, killed before every change of kernel and files, in QEMU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from netns_tests.case import local
from netns_tests.crash_shim import compiled
from netns_tests.test_crash import KILLED, LAN

pytestmark = pytest.mark.timeout(450)

#: As SCENARIOS of test_crash.py.
RARE: Mapping[str, dict[str, Any]] = {
    "vlan": {"type": "vlan", "master": "eth0", "vlanId": 7, "mtu": 1400, "ipam": LAN},
    "ipvlan": {"type": "ipvlan", "master": "eth0", "mode": "l2", "mtu": 1400, "ipam": LAN},
    "dummy": {"type": "dummy", "mtu": 1400, "mac": "02:aa:bb:cc:dd:02", "ipam": LAN},
    "vrf": {
        "type": "vrf",
        "vrfname": "blue",
        "delegate": {"type": "ptp", "ipam": local("10.9.0.0/24", "fd00:9::/64")},
    },
}


@pytest.mark.parametrize("name", RARE)
@pytest.mark.parametrize("verb", KILLED)
def test_what_was_killed_can_be_finished(verb: str, name: str) -> None:
    KILLED[verb](RARE[name], compiled())
