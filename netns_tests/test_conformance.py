"""The CNI specification to the letter: verbs, variables, versions, error codes, one document on standard
output.

Calls go through the executables, with the node service and without. Sections are those of the CNI
specification 1.1.0.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import pytest

from netns_tests.case import V4, bridge, local
from netns_tests.node import Answer, Netns, Node, answer
from netns_tests.snapshot import assert_clean, snapshot

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")


@pytest.fixture
def box(node: Node) -> Netns:
    return node.netns("c1")


def conf(version: str | None = "1.1.0", **keys: Any) -> dict[str, Any]:
    document = {"name": "net", **bridge(V4), **keys}
    if version is not None:
        document["cniVersion"] = version
    return document


def raw(
    node: Node, plugins: str, env: Mapping[str, str], stdin: bytes | str, plugin: str = "bridge"
) -> Answer:
    """A call with exactly these variables (and PATH)."""
    variables = {"PATH": "/usr/bin:/bin", **env}
    return answer(node.run([f"{plugins}/{plugin}"], input=stdin, env=variables, bare=True, check=False))


# Section 2, Parameters


def test_all_missing_variables_are_named_at_once(node: Node, plugins: str) -> None:
    got = raw(node, plugins, {"CNI_COMMAND": "ADD"}, json.dumps(conf()))
    assert got.code == 4
    assert got.error is not None
    for name in ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"):
        assert name in got.error["msg"]


@pytest.mark.parametrize(
    ("verb", "missing"),
    [
        ("ADD", "CNI_CONTAINERID"),
        ("ADD", "CNI_NETNS"),
        ("ADD", "CNI_IFNAME"),
        ("DEL", "CNI_CONTAINERID"),
        ("DEL", "CNI_IFNAME"),
        ("CHECK", "CNI_CONTAINERID"),
        ("CHECK", "CNI_NETNS"),
        ("CHECK", "CNI_IFNAME"),
    ],
)
def test_a_missing_variable_is_named(node: Node, plugins: str, box: Netns, verb: str, missing: str) -> None:
    env = {"CNI_COMMAND": verb, "CNI_CONTAINERID": "c1", "CNI_NETNS": box.path, "CNI_IFNAME": "eth0"}
    got = raw(node, plugins, {**env, "CNI_PATH": plugins, missing: ""}, json.dumps(conf()))
    assert got.code == 4
    assert got.error is not None and missing in got.error["msg"]


def test_an_unknown_command_is_refused(node: Node, plugins: str) -> None:
    got = raw(node, plugins, {"CNI_COMMAND": "DANCE"}, json.dumps(conf()))
    assert got.code == 4
    assert got.error is not None and "DANCE" in got.error["msg"]


def test_without_a_command_it_says_what_it_is(node: Node, plugins: str) -> None:
    finished = node.run([f"{plugins}/bridge"], env={"PATH": "/usr/bin"}, bare=True)
    assert finished.stdout == b""
    assert b"bridge" in finished.stderr and b"1.1.0" in finished.stderr


@pytest.mark.parametrize(
    ("cid", "good"),
    [
        ("a", True),
        ("A.b-c_9", True),
        ("x" * 250, True),
        ("3b241101-e2bb-4255-8caf-4136c566a962." * 5 + "x", True),
        ("-a", False),
        (".a", False),
        ("a/b", False),
        ("a b", False),
        ("a\n", False),
        ("é", False),
    ],
)
def test_container_ids(node: Node, plugins: str, box: Netns, cid: str, good: bool) -> None:
    got = node.cni("ADD", f"{plugins}/bridge", conf(), cid, box)
    assert (got.code == 0) is good, got
    if good:
        assert node.cni("DEL", f"{plugins}/bridge", conf(), cid, box).code == 0
    else:
        assert got.code == 4


@pytest.mark.parametrize(
    ("ifname", "good"),
    [
        ("eth0", True),
        ("abcdefghijklmno", True),
        ("abcdefghijklmnop", False),
        ("a/b", False),
        ("a:b", False),
        ("a b", False),
        (".", False),
        ("..", False),
        ("ééééééé", True),
        ("éééééééé", False),
    ],
)
def test_interface_names(node: Node, plugins: str, box: Netns, ifname: str, good: bool) -> None:
    got = node.cni("ADD", f"{plugins}/bridge", conf(), "c1", box, ifname=ifname)
    assert (got.code == 0) is good, got
    if not good:
        assert got.code == 4


@pytest.mark.parametrize("name", ["", "-a", "a/b", "a b", "..", None])
def test_bad_network_names(node: Node, plugins: str, box: Netns, name: str | None) -> None:
    got = node.cni("ADD", f"{plugins}/bridge", conf(name=name), "c1", box)
    assert got.code == 7, got


def test_a_long_network_name_is_good(node: Node, plugins: str, box: Netns) -> None:
    before = snapshot(node, [box])
    document = conf(name="n" * 250)
    assert node.cni("ADD", f"{plugins}/bridge", document, "c" * 250, box).code == 0
    assert node.cni("DEL", f"{plugins}/bridge", document, "c" * 250, box).code == 0
    assert_clean(node, before, boxes=[box], allowed=[r"file /var/lib/cni/networks/n+/(lock|last_reserved)"])


# CNI_ARGS (conventions: K=V;K=V)


@pytest.mark.parametrize(
    ("args", "good"),
    [
        ("", True),
        ("IgnoreUnknown=1", True),
        ("IgnoreUnknown=TRUE;COLOUR=blue", True),
        ("IgnoreUnknown=true;COLOUR=blue", True),
        ("COLOUR=blue", False),
        ("IgnoreUnknown=0;COLOUR=blue", False),
        ("MAC", False),
        ("MAC=02:11:22:33:44:55=6", False),
        ("MAC=02:11:22:33:44:55", True),
        ("IP=10.9.0.50", True),
        ("mac=02:11:22:33:44:55", False),
    ],
)
def test_cni_args(node: Node, plugins: str, box: Netns, args: str, good: bool) -> None:
    got = node.cni("ADD", f"{plugins}/bridge", conf(), "c1", box, args=args)
    assert (got.code == 0) is good, got


def test_a_requested_address_is_given(node: Node, plugins: str, box: Netns) -> None:
    got = node.cni("ADD", f"{plugins}/bridge", conf(), "c1", box, args="IP=10.9.0.50").ok()
    assert got["ips"][0]["address"] == "10.9.0.50/24"


# Section 2, VERSION


@pytest.mark.parametrize("stdin", ['{"cniVersion":"0.4.0"}', '{"cniVersion":"9.0.0"}', ""])
def test_version(node: Node, plugins: str, stdin: str) -> None:
    got = raw(node, plugins, {"CNI_COMMAND": "VERSION"}, stdin).ok()
    assert got["cniVersion"] == "1.1.0"
    assert tuple(got["supportedVersions"]) == VERSIONS


def test_version_does_not_wait_for_standard_input(node: Node, plugins: str) -> None:
    env = {"PATH": "/usr/bin", "CNI_COMMAND": "VERSION"}
    reading, writing = os.pipe()
    try:
        running = node.popen([f"{plugins}/bridge"], env=env, bare=True, stdin=reading)
        assert answer(running.wait(30)).ok()["cniVersion"] == "1.1.0"
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("version", ["1.0", "1.0.1", "2.0.0", "0.5.0", "x", "1.1.0 "])
def test_an_unknown_version_is_code_1(node: Node, plugins: str, box: Netns, version: str) -> None:
    got = node.cni("ADD", f"{plugins}/bridge", conf(version), "c1", box)
    assert got.code == 1
    assert got.error is not None
    assert version in json.dumps(got.error) and "1.1.0" in json.dumps(got.error)


@pytest.mark.parametrize("came", [("CHECK", "0.4.0"), ("GC", "1.1.0"), ("STATUS", "1.1.0")])
@pytest.mark.parametrize("version", VERSIONS)
def test_verbs_that_came_later(
    node: Node, plugins: str, box: Netns, came: tuple[str, str], version: str
) -> None:
    verb, least = came
    document = conf(version)
    if version >= "0.3.0":
        document["prevResult"] = node.cni("ADD", f"{plugins}/bridge", document, "c1", box).ok()
    document["cni.dev/valid-attachments"] = []
    got = node.cni(verb, f"{plugins}/bridge", document, "c1", box)
    assert got.code == (0 if version >= least else 1), got
    assert got.finished.stdout == b"" or version < least


# Section 5, results


@pytest.mark.parametrize("version", [None, *VERSIONS])
def test_results_have_their_versions_shape(node: Node, plugins: str, box: Netns, version: str | None) -> None:
    ipam = local("10.9.0.0/24", "fd00:9::/64", routes=[{"dst": "0.0.0.0/0"}, {"dst": "::/0"}])
    got = node.cni("ADD", f"{plugins}/bridge", conf(version, ipam=ipam, isGateway=True), "c1", box).ok()
    if version in (None, "0.1.0", "0.2.0"):
        assert got["cniVersion"] == (version or "0.1.0")
        assert got["ip4"] == {
            "ip": "10.9.0.2/24",
            "gateway": "10.9.0.1",
            "routes": [{"dst": "0.0.0.0/0"}],
        } or got["ip4"]["routes"] == [{"dst": "0.0.0.0/0", "gw": "10.9.0.1"}]
        assert got["ip6"]["ip"] == "fd00:9::2/64"
        return
    assert got["cniVersion"] == version
    assert [(entry["address"], entry["gateway"], entry["interface"]) for entry in got["ips"]] == [
        ("10.9.0.2/24", "10.9.0.1", 2),
        ("fd00:9::2/64", "fd00:9::1", 2),
    ]
    families = [entry.get("version") for entry in got["ips"]]
    assert families == (["4", "6"] if version < "1.0.0" else [None, None])
    assert [interface["name"] for interface in got["interfaces"]][::2] == ["br0", "eth0"]
    assert got["interfaces"][2]["sandbox"] == box.path
    assert "sandbox" not in got["interfaces"][0] or got["interfaces"][0]["sandbox"] == ""


# Section 2, DEL, and section 5, errors


def test_del_of_what_never_was_and_twice(node: Node, plugins: str, box: Netns) -> None:
    for netns in (box, None, "/run/netns/never-was"):
        assert node.cni("DEL", f"{plugins}/bridge", conf(), "never", netns).code == 0
    node.cni("ADD", f"{plugins}/bridge", conf(), "c1", box).ok()
    for _ in range(2):
        assert node.cni("DEL", f"{plugins}/bridge", conf(), "c1", box).code == 0


@pytest.mark.parametrize(
    "broken",
    [
        {"ipam": None},
        {"ipam": {"type": "host-local", "subnet": "nonsense"}},
        {"mtu": "many", "vlan": 7000, "bridge": 5},
        {"prevResult": {"cniVersion": "1.1.0", "ips": "none"}},
        {"isGateway": "yes"},
    ],
)
def test_del_with_a_broken_configuration(
    node: Node, plugins: str, box: Netns, broken: dict[str, Any]
) -> None:
    before = snapshot(node, [box])
    node.cni("ADD", f"{plugins}/bridge", conf(isGateway=True, ipMasq=True), "c1", box).ok()
    got = node.cni("DEL", f"{plugins}/bridge", conf(**broken), "c1", box)
    assert got.code == 0, got
    assert_clean(node, before, boxes=[box])


def test_del_without_the_namespace(node: Node, plugins: str, box: Netns) -> None:
    before = {name: value for name, value in snapshot(node).items() if "c1" not in name}
    node.cni("ADD", f"{plugins}/bridge", conf(isGateway=True, ipMasq=True, macspoofchk=True), "c1", box).ok()
    path = box.path
    box.delete()
    assert node.cni("DEL", f"{plugins}/bridge", conf(), "c1", path).code == 0
    assert_clean(node, before)


def test_a_failed_add_leaves_nothing(node: Node, plugins: str, box: Netns) -> None:
    before = snapshot(node, [box])
    document = conf(
        isGateway=True, ipam=local("10.9.0.0/24", routes=[{"dst": "10.20.0.0/16", "gw": "172.16.0.1"}])
    )
    got = node.cni("ADD", f"{plugins}/bridge", document, "c1", box)
    assert got.code != 0
    assert_clean(node, before, boxes=[box])


@pytest.mark.parametrize(
    ("stdin", "code"),
    [
        (b"", 6),
        (b"{", 6),
        (b"null", 6),
        (b"[]", 6),
        (b'"text"', 6),
        (b'{"cniVersion":"1.0.0"} {}', 6),
        (b"\xff\xfe", 6),
        (b"{}", 7),
        (b'{"cniVersion":"1.0.0","name":"net","type":"bridge","mtu":"1400"}', None),
        (b'{"cniVersion":7,"name":"net","type":"bridge"}', None),
    ],
)
def test_malformed_configurations(
    node: Node, plugins: str, box: Netns, stdin: bytes, code: int | None
) -> None:
    before = snapshot(node, [box])
    got = node.cni("ADD", f"{plugins}/bridge", stdin, "c1", box)
    assert got.error is not None
    assert got.code == code if code is not None else got.code > 0
    assert got.error["msg"]
    assert b"Traceback" not in got.finished.stdout + got.finished.stderr
    assert_clean(node, before, boxes=[box])


def test_its_own_namespace_is_refused_before_any_change(node: Node, plugins: str) -> None:
    before = snapshot(node)
    got = node.cni("ADD", f"{plugins}/bridge", conf(), "c1", "/proc/self/ns/net")
    assert got.code == 8, got
    assert_clean(node, before)


def test_a_file_that_is_no_namespace_is_refused(node: Node, plugins: str) -> None:
    before = snapshot(node)
    got = node.cni("ADD", f"{plugins}/bridge", conf(), "c1", "/etc/hostname")
    assert got.code in (4, 8), got
    assert_clean(node, before)


def test_an_error_names_its_version(node: Node, plugins: str, box: Netns) -> None:
    got = node.cni("ADD", f"{plugins}/bridge", conf("0.4.0", vlan=5000), "c1", box)
    assert got.error is not None and got.error["cniVersion"] == "0.4.0"
