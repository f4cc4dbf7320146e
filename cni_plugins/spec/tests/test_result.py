"""Results in every version's shape."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugins.spec.errors import CniError
from cni_plugins.spec.result import Result, configured_route, decode, encode
from cni_plugins.spec.versions import VERSIONS

FULL: dict[str, Any] = {
    "cniVersion": "1.1.0",
    "interfaces": [
        {"name": "br0", "mac": "02:00:00:00:00:01"},
        {"name": "eth0", "sandbox": "/x", "mtu": 1400},
    ],
    "ips": [
        {"interface": 1, "address": "10.1.0.5/24", "gateway": "10.1.0.1"},
        {"interface": 1, "address": "10.2.0.5/24"},
        {"address": "fd00::5/64"},
    ],
    "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1", "mtu": 1400, "table": 0}, {"dst": "::/0"}],
    "dns": {"nameservers": ["10.1.0.1"], "search": ["a"]},
}


def test_newest_is_the_model() -> None:
    assert encode(decode(FULL, "1.1.0"), "1.1.0") == FULL


def test_middle_versions_tell_the_family_and_have_dns() -> None:
    document = encode(decode(FULL | {"dns": {}}, "1.1.0"), "0.4.0")
    assert [entry["version"] for entry in document["ips"]] == ["4", "4", "6"]
    assert document["dns"] == {}
    assert "mtu" not in document["interfaces"][1]
    assert "dns" not in encode(decode(FULL | {"dns": {}}, "1.1.0"), "1.0.0")


def test_oldest_shape_has_the_first_address_of_each_family() -> None:
    assert encode(decode(FULL, "1.1.0"), "0.2.0") == {
        "cniVersion": "0.2.0",
        "ip4": {
            "ip": "10.1.0.5/24",
            "gateway": "10.1.0.1",
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}],
        },
        "ip6": {"ip": "fd00::5/64", "routes": [{"dst": "::/0"}]},
        "dns": {"nameservers": ["10.1.0.1"], "search": ["a"]},
    }


def test_no_address_is_no_error_in_the_oldest_shape() -> None:
    assert encode(Result(), "0.1.0") == {"cniVersion": "0.1.0", "dns": {}}


def test_mesos_finds_its_shape_beside_the_lists() -> None:
    document = encode(decode(FULL, "1.1.0"), "1.0.0", mesos=True)
    assert document["ip4"]["ip"] == document["ips"][0]["address"]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_shape_reads_back(version: str) -> None:
    document = encode(decode(FULL, "1.1.0"), version)
    assert encode(decode(document, version), version) == document


def test_host_bits_and_spelling() -> None:
    result = decode({"ips": [{"address": "FD00:0::5/64"}, {"address": "::ffff:10.0.0.1/120"}]}, "1.0.0")
    assert [str(entry.address) for entry in result.ips] == ["fd00::5/64", "10.0.0.1/24"]


@pytest.mark.parametrize(
    "document",
    [
        {"ips": 7},
        {"ips": [{"address": "10.0.0.1"}]},
        {"ips": [{"address": "10.0.0.01/24"}]},
        {"ips": [{"address": "10.0.0.1/24", "interface": 3}]},
        {"ips": [{"address": "10.0.0.1/24", "gateway": 7}]},
        {"routes": [{}]},
        {"routes": [{"dst": "0.0.0.0/0", "mtu": "x"}]},
        {"routes": [{"dst": "0.0.0.0/0", "priority": -1}]},
        {"routes": [{"dst": "0.0.0.0/0", "table": 2**32}]},
        {"routes": [{"dst": "0.0.0.0/0", "scope": 256}]},
        {"interfaces": [7]},
        {"cniVersion": 7},
        {"cniVersion": "1.7.0"},
        {"dns": []},
        {"ip4": {}, "cniVersion": "0.2.0"},
        [],
    ],
)
def test_refused_with_the_place_named(document: Any) -> None:
    with pytest.raises(CniError) as caught:
        decode(document, "1.0.0")
    assert "prevResult" in caught.value.msg


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.sampled_from(("ips", "routes", "dns", "address")) | st.text(), inner)
    ),
    max_leaves=20,
)


@given(document=JSON, version=st.sampled_from(VERSIONS))
def test_any_json_is_a_result_or_a_typed_error(document: Any, version: str) -> None:
    try:
        result = decode(document, version)
    except CniError:
        return
    encode(result, version)


@pytest.mark.parametrize(
    ("dst", "gw"), [("::/0", "::"), ("::/0", "::1"), ("0.0.0.0/0", "127.0.0.1"), ("::/0", "ff02::1")]
)
def test_a_gateway_that_no_router_has_is_refused(dst: str, gw: str) -> None:
    with pytest.raises(CniError) as refused:
        configured_route({"dst": dst, "gw": gw}, "ipam.routes[1]")
    assert refused.value.code == 7 and f"ipam.routes[1].gw is {gw}" in refused.value.msg


def test_a_gateway_of_zeros_says_that_the_destination_is_on_the_link() -> None:
    assert str(configured_route({"dst": "10.0.0.0/8", "gw": "0.0.0.0"}, "r").gw) == "0.0.0.0"
