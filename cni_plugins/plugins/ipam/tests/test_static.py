"""static: what a task may ask for, and gateways that cannot be."""

from typing import Any

import pytest

from cni_plugins.conftest import World, told

STATIC: dict[str, Any] = {
    "cniVersion": "1.1.0",
    "name": "net",
    "type": "static",
    "ipam": {"type": "static", "addresses": [{"address": "10.9.0.5/24", "gateway": "10.9.0.1"}]},
}


def asking(*wanted: str, **keys: Any) -> dict[str, Any]:
    info = {"name": "net", "ip_addresses": [{"ip_address": item} for item in wanted]}
    return STATIC | {"args": {"org.apache.mesos": {"network_info": info}}, "ipam": STATIC["ipam"] | keys}


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("10.9.0.1", ["10.9.0.1", "gateway"]),
        ("10.9.0.0", ["10.9.0.0", "network's own"]),
        ("10.9.0.255", ["10.9.0.255", "broadcast"]),
        ("10.9.0.9", ["10.9.0.9", "allowedAddresses", "host-local"]),
    ],
)
def test_a_task_does_not_choose(world: World, wanted: str, words: list[str]) -> None:
    error = world.refused(asking(wanted))
    assert error["code"] == 7
    for word in words:
        assert word in f"{error['msg']} {error['details']}"


def test_a_task_chooses_where_the_operator_lets_it(world: World) -> None:
    keys = {"allowedAddresses": ["10.9.0.128/25"]}
    assert world.add(asking("10.9.0.200", **keys))["ips"] == [
        {"address": "10.9.0.200/24", "gateway": "10.9.0.1"}
    ]
    assert world.add(asking("10.9.0.5"), "c2")["ips"][0]["address"] == "10.9.0.5/24"
    for wanted in ("10.9.0.9", "10.9.0.255", "10.9.0.1"):
        assert wanted in told(world.refused(asking(wanted, **keys), "c3"))


def test_a_runtime_chooses(world: World) -> None:
    """What came by CNI_ARGS or a capability is the runtime's word, as for the reference plugin."""
    assert world.add(STATIC | {"runtimeConfig": {"ips": ["10.9.0.9/24"]}})["ips"] == [
        {"address": "10.9.0.9/24"}
    ]


@pytest.mark.parametrize("gateway", ["10.9.0.0", "10.9.0.255", "fd00::1"])
def test_a_gateway_that_cannot_be(world: World, gateway: str) -> None:
    ipam = {"type": "static", "addresses": [{"address": "10.9.0.5/24", "gateway": gateway}]}
    error = world.refused(STATIC | {"ipam": ipam})
    assert (error["code"], f"ipam.addresses[0].gateway is {gateway}" in error["msg"]) == (7, True)


def test_what_a_go_program_writes_of_the_reference_structure(world: World) -> None:
    """Its parsed form of an address stands beside the configured one, under a key that differs by case."""
    entry = {
        "address": "10.9.0.5/24",
        "gateway": "10.9.0.1",
        "Address": {"IP": "10.9.0.5", "Mask": "////AA=="},
        "Version": "4",
    }
    conf = STATIC | {"ipam": {"type": "static", "addresses": [entry]}}
    assert world.add(conf)["ips"] == [{"address": "10.9.0.5/24", "gateway": "10.9.0.1"}]
    entry["address"] = "10.9.0.5"
    assert "ipam.addresses[0].address is '10.9.0.5'" in told(world.refused(conf, "c2"))
