"""The entry: verbs, environment, versions, errors; and that anything at all is answered by one JSON
document.
"""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cni_plugins.conftest import World, told
from cni_plugins.main import handle
from cni_plugins.plugins.registry import MODULES
from cni_plugins.spec.call import Request
from cni_plugins.spec.versions import VERSIONS

CONF: dict[str, Any] = {"cniVersion": "1.1.0", "name": "n", "type": "bridge"}


def test_version_needs_nothing_else() -> None:
    reply = handle(Request("bridge", {"CNI_COMMAND": "VERSION"}, b"not read"))
    assert reply.status == 0
    assert json.loads(reply.stdout) == {"cniVersion": "1.1.0", "supportedVersions": list(VERSIONS)}


def test_no_command_is_a_question() -> None:
    reply = handle(Request("bridge", {}, b""))
    assert (reply.stdout, reply.status) == (b"", 0)
    assert b"0.4.0" in reply.stderr


def test_unknown_plugin() -> None:
    assert json.loads(handle(Request("no-such", {"CNI_COMMAND": "ADD"}, b"")).stdout)["code"] == 999


def test_missing_variables_are_named_together() -> None:
    reply = handle(Request("bridge", {"CNI_COMMAND": "ADD"}, json.dumps(CONF).encode()))
    document = json.loads(reply.stdout)
    assert (document["code"], reply.status) == (4, 1)
    for name in ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"):
        assert name in told(document)


@pytest.mark.parametrize(
    ("env", "code"),
    [
        ({"CNI_COMMAND": "add"}, 4),
        ({"CNI_COMMAND": ""}, 4),
        ({"CNI_CONTAINERID": "c/1"}, 4),
        ({"CNI_CONTAINERID": "c1\n"}, 4),
        ({"CNI_CONTAINERID": "-c"}, 4),
        ({"CNI_CONTAINERID": "\u00e9"}, 4),
        ({"CNI_IFNAME": "sixteen-letters-"}, 4),
        ({"CNI_IFNAME": "e:0"}, 4),
        ({"CNI_IFNAME": ".."}, 4),
        ({"CNI_IFNAME": "\u00e9" * 8}, 4),
        ({"CNI_IFNAME": "e\udcff"}, 4),
        ({"CNI_ARGS": "IP"}, 4),
        ({"CNI_ARGS": "IP=a=b"}, 4),
        ({"CNI_ARGS": "WHAT=1"}, 4),
        ({"CNI_NETNS": "/no/such/namespace"}, 8),
        ({"CNI_NETNS": "/etc/hostname"}, 8),
        ({"CNI_NETNS": "/proc/self/ns/pid"}, 8),
    ],
)
def test_bad_environment(world: World, env: dict[str, str], code: int) -> None:
    world.box("c1")
    verb = env.pop("CNI_COMMAND", "ADD")
    answer = world.call(verb, CONF, **env)
    assert answer.code == code
    assert world.links() == ["lo"]


def test_unknown_arguments_pass_when_told_so(world: World) -> None:
    world.add(CONF, CNI_ARGS="IgnoreUnknown=True;WHAT=1")


@pytest.mark.parametrize(
    ("document", "code"),
    [
        (b"", 6),
        (b"{", 6),
        (b"[]", 6),
        (b"null", 6),
        (b'{"name": "n"} x', 6),
        (b'{"name": NaN}', 6),
        (b"\xff", 6),
        (b"[" * 100_000, 6),
        (b'{"a":' + b"9" * 5000 + b"}", 6),
        (b"{}", 7),
        (b'{"name": ""}', 7),
        (b'{"name": 7}', 7),
        (b'{"name": "a b"}', 7),
        (b'{"name": "n", "cniVersion": "1.0"}', 1),
        (b'{"name": "n", "cniVersion": "2.0.0"}', 1),
        (b'{"name": "n", "cniVersion": 1}', 6),
        (b'{"name": "n", "cniVersion": "1.0.0", "prevResult": {"cniVersion": "7"}}', 1),
        (b'{"name": "n", "cniVersion": "1.0.0", "prevResult": 7}', 6),
    ],
)
def test_bad_configuration(world: World, document: bytes, code: int) -> None:
    world.box("c1")
    assert world.call("ADD", document, PLUGIN="bridge").code == code
    assert world.links() == ["lo"]


@pytest.mark.parametrize(("verb", "version"), [("CHECK", "0.3.1"), ("GC", "1.0.0"), ("STATUS", "1.0.0")])
def test_verbs_came_with_versions(world: World, verb: str, version: str) -> None:
    world.box("c1")
    answer = world.call(verb, CONF | {"cniVersion": version})
    assert (answer.code, version in told(answer.document)) == (1, True)


def test_own_namespace_is_refused_before_anything_is_done(world: World) -> None:
    world.boxes["c1"] = world.host
    assert world.call("ADD", CONF).code == 8
    assert world.call("DEL", CONF).status == 0
    assert world.links() == ["lo"]
    assert not world.records()
    del world.boxes["c1"]


def test_delete_forgives_what_it_can(world: World) -> None:
    for change in (
        {"cniVersion": "2.0.0"},
        {"cniVersion": 7},
        {"prevResult": 7},
        {"bridge": 7},
        {"isGatway": 1},
    ):
        world.delete(CONF | change)
    world.delete(CONF, CNI_ARGS="rubbish")
    world.delete(CONF, CNI_NETNS="/etc/hostname")
    assert world.call("DEL", b"{", PLUGIN="bridge").code == 6
    assert world.call("DEL", {"type": "bridge"}).code == 7


@pytest.mark.parametrize(
    "bad",
    [
        {"prevResult": 7},
        {"args": {"org.apache.mesos": {"network_info": {"port_mappings": [{"host_port": "x"}]}}}},
        {"mtu": "many", "bridge": 7},
    ],
)
def test_gc_forgives_what_it_can(world: World, bad: dict[str, Any]) -> None:
    conf = CONF | {"type": "bridge", "cniVersion": "1.1.0"}
    world.add(conf)
    assert world.call("GC", conf | bad | {"cni.dev/valid-attachments": []}).status == 0
    assert world.links() == ["lo"]


def test_the_error_carries_the_version_that_was_asked_for(world: World) -> None:
    assert world.refused(CONF | {"cniVersion": "0.4.0", "mtu": "x"})["cniVersion"] == "0.4.0"


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.sampled_from(("\ud800", "a\udc00b", 2**40, -1))
)
KEYS = st.sampled_from(
    (
        "name",
        "type",
        "cniVersion",
        "ipam",
        "bridge",
        "mtu",
        "vlan",
        "vlanTrunk",
        "args",
        "runtimeConfig",
        "prevResult",
        "dns",
        "delegate",
        "plugins",
        "subnet",
        "ranges",
        "isGateway",
        "ipMasq",
        "sysctl",
        "addresses",
        "routes",
        "portMappings",
        "ips",
        "mac",
        "master",
        "mode",
        "cni",
        "network_info",
        "org.apache.mesos",
    )
)
VALUES = st.recursive(
    SCALARS | st.sampled_from(("host-local", "bridge", "static", "10.0.0.0/24", "n", "1.0.0", "0.2.0")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    document=VALUES | st.dictionaries(KEYS, VALUES, max_size=6),
    plugin=st.sampled_from(sorted(MODULES)),
    verb=st.sampled_from(("ADD", "DEL", "CHECK", "GC", "STATUS")),
)
@example(document={"name": "n", "ipam": {"type": "host-local"}}, plugin="bridge", verb="ADD")
@example(document={"bridge": "\udfff\udc00"}, plugin="bridge", verb="ADD")
@example(document={"plugins": [{"type": "\udfff"}]}, plugin="chain", verb="GC")
@example(
    document={
        "ipam": {"type": "host-local", "subnet": "10.0.0.0/24", "routes": [{"dst": "::/0", "table": 2**40}]}
    },
    plugin="bridge",
    verb="ADD",
)
def test_anything_is_answered_by_one_document(world: World, document: Any, plugin: str, verb: str) -> None:
    """No traceback and no second document; and a refused ADD leaves no link, no record and no reservation."""
    world.box("c1")
    if isinstance(document, dict):
        document = {"name": "n", "cniVersion": "1.1.0"} | document
    answer = world.call(verb, json.dumps(document).encode(), PLUGIN=plugin)
    if answer.status:
        assert {"code", "msg", "cniVersion"} <= set(answer.document)
        assert "internal error" not in answer.document["msg"], answer.document
        assert world.links("c1") == ["lo"]
        assert world.links() == ["lo"]
    elif verb == "ADD":
        assert answer.document["cniVersion"] in VERSIONS
        world.delete({"name": "n"} | document, PLUGIN=plugin)
    else:
        assert answer.document is None
