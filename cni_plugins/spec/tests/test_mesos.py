"""What a Mesos agent adds, as runtimeConfig."""

from ipaddress import ip_address
from typing import Any

import pytest

from cni_plugins.spec.errors import CniError
from cni_plugins.spec.mesos import is_mesos, merge


def with_info(info: Any, **keys: Any) -> dict[str, Any]:
    return {"name": "n", "args": {"org.apache.mesos": {"network_info": info}}} | keys


def test_nothing_of_mesos_is_nothing_changed() -> None:
    config = {"name": "n", "runtimeConfig": {"mac": "x"}}
    assert merge(config) == (config, None)
    assert not is_mesos(config)
    assert is_mesos(with_info({}))


def test_ports_and_addresses() -> None:
    info = {
        "name": "n",
        "ip_addresses": [{"protocol": "IPv4", "ip_address": "10.0.0.5"}, {"protocol": "IPv6"}],
        "port_mappings": [
            {"host_port": 80, "container_port": 8080},
            {"host_port": 53, "container_port": 53, "protocol": "UDP"},
        ],
        "groups": ["a"],
    }
    config, found = merge(with_info(info, RuntimeConfig={"ips": ["10.0.0.9"]}))
    assert config["runtimeConfig"] == {
        "ips": ["10.0.0.9", "10.0.0.5"],
        "portMappings": [
            {"protocol": "tcp", "hostPort": 80, "containerPort": 8080},
            {"protocol": "udp", "hostPort": 53, "containerPort": 53},
        ],
    }
    assert "RuntimeConfig" not in config
    assert found is not None
    assert (found.addresses, found.families, found.groups) == (
        (ip_address("10.0.0.5"),),
        frozenset({6}),
        ("a",),
    )


def test_labels_that_the_operator_allows() -> None:
    labels = {
        "labels": [
            {"key": "net/mac", "value": "02:00:00:00:00:05"},
            {"key": "net/bandwidth", "value": '{"a": 1}'},
            {"key": "x"},
        ]
    }
    rule = {"prefix": "net/", "allow": ["mac", "bandwidth"]}
    config, found = merge(with_info({"labels": labels}, networkInfoLabels=rule))
    assert config["runtimeConfig"] == {"mac": "02:00:00:00:00:05", "bandwidth": {"a": 1}}
    assert found is not None
    assert found.labels["x"] == ""
    assert "runtimeConfig" not in merge(with_info({"labels": labels}))[0]
    with pytest.raises(CniError) as caught:
        merge(with_info({"labels": labels}, networkInfoLabels=rule | {"allow": ["mac"]}))
    assert "net/bandwidth" in caught.value.msg
    with pytest.raises(CniError):
        merge(with_info({"labels": labels}, networkInfoLabels={"prefix": ""}))


@pytest.mark.parametrize(
    "info",
    [
        7,
        {"ip_addresses": 7},
        {"ip_addresses": [7]},
        {"ip_addresses": [{"ip_address": "x"}]},
        {"ip_addresses": [{"ip_address": "10.0.0.1", "protocol": "IPv6"}]},
        {"ip_addresses": [{"protocol": "IPv5"}]},
        {"port_mappings": [{"host_port": 0, "container_port": 1}]},
        {"port_mappings": [{"host_port": 65536, "container_port": 1}]},
        {"port_mappings": [{"host_port": True, "container_port": 1}]},
        {"port_mappings": [{"container_port": 1}]},
        {"port_mappings": [{"host_port": 1, "container_port": 1, "protocol": "icmp"}]},
        {"labels": []},
        {"labels": {"labels": [7]}},
    ],
)
def test_refused(info: Any) -> None:
    with pytest.raises(CniError) as caught:
        merge(with_info(info))
    assert (caught.value.code, "network_info" in caught.value.msg) == (7, True)
