"""`mesokit cni validate` and ADD agree on every key of every plugin: what ADD refuses for its configuration,
validate says before; and what validate calls wrong or contradictory, ADD refuses.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from cni_plugins.cli import cni_validate, lacking
from cni_plugins.conftest import World
from cni_plugins.plugins.registry import Plugins
from cni_plugins.plugins.tests.examples import EXAMPLES, Conf, network
from cni_plugins.plugins.tests.test_every_key import places, put
from cni_plugins.plugins.tests.test_examples import prepared
from cni_plugins.spec.config import keys_of

CONFS: dict[str, Conf] = EXAMPLES | {
    "dhcp": network(
        type="macvlan",
        master="dum0",
        ipam={
            "type": "dhcp",
            "provide": [{"option": "host-name", "value": "x"}],
            "request": [{"option": "routers"}],
            "priority": 5,
            "families": ["ipv4", "ipv6"],
            "duid": "000100010203",
        },
    ),
    "prefix": network(
        type="bridge",
        bridge="br0",
        isGateway=True,
        ipam={
            "type": "host-local",
            "subnet": "10.9.0.0/24",
            "prefixDelegation": {"uplink": "dum0", "length": 60, "subnet": 3, "duid": "000100010203"},
        },
    ),
}
ALWAYS: tuple[Any, ...] = ([], "")
SOMETIMES: tuple[Any, ...] = (
    *({}, None, 0, -1, 2**64, True, 1.5, "x", "a" * 300, ["x", "x"], [[]], [{}], [None], {"a": 1}),
    *("10.9.0.0/24", ["ipv4", "ipv4"], "0.2.0", 70000, "224.0.0.1", "host-local", "macvlan"),
)
_SHARE = 7
#: What only a container, a lease, a task or the host's own rules show.
UNFORESEEN = re.compile(
    r"the container has no such|has no such chain|container has no (IPv4 )?address|prevResult has no address"
    r"|no address of eth0 reaches|the task asked for|overlaps|no route to host"
)
_REFUSED = {2, 4, 6, 7}


def variants(conf: Conf) -> Iterator[tuple[Any, Conf]]:
    """Every key with some of the values, and misspelt."""
    for number, place in enumerate(places(conf)):
        if "labels" in place or place[-1] == "capabilities" or "capabilities" in place[:-1]:
            continue  # the first a task's, the second the runtime's affair: no plugin reads them
        for value in (*ALWAYS, *SOMETIMES[number % _SHARE :: _SHARE]):
            yield (place, value), put(conf, place, value)
    plugins = Plugins()
    for key in keys_of(plugins[conf["type"]].config):
        if len(key.key) >= 6:
            yield (key.key, "misspelt"), conf | {key.key[:2] + key.key[3:]: key.default}
    ipam = conf.get("ipam")
    if isinstance(ipam, dict):
        for key in keys_of(plugins[ipam["type"]].config) if conf["type"] != "flannel" else ():
            if len(key.key) >= 6:
                changed = ipam | {key.key[:2] + key.key[3:]: key.default}
                yield ("ipam", key.key, "misspelt"), conf | {"ipam": changed}


@pytest.mark.parametrize("name", CONFS)
def test_validate_and_add_agree(world: World, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lacking, "kernel_makes", functools.cache(lacking.kernel_makes))
    prepared(world)
    path = world.root / "10-net.conf"
    conf = CONFS[name]
    ifname = "lo" if conf["type"] == "loopback" else "eth0"

    def problems(document: Conf) -> set[tuple[str, str, str]]:
        path.write_text(json.dumps(document))
        found = cni_validate.inspect(path, world.host, ("/usr/lib/cni",))
        return {(item.where, item.kind, item.text) for item in found}

    before = problems(conf)
    assert {kind for _, kind, _ in before} <= {"missing"}, before  # a kind of link that this kernel has not
    unsaid: list[Any] = []
    untrue: list[Any] = []
    for what, changed in variants(conf):
        said = problems(changed) - before
        answer = world.call("ADD", changed, ifname=ifname, PLUGIN=conf["type"])
        gone = world.call("DEL", changed, ifname=ifname, PLUGIN=conf["type"])
        assert gone.status == 0, gone.document
        text = f"{answer.document['msg']} {answer.document.get('details', '')}" if answer.status else ""
        if answer.code in _REFUSED and not said and not UNFORESEEN.search(text):
            unsaid.append((what, text))
        if answer.status == 0 and any(kind in {"wrong", "contradictory"} for _, kind, _ in said):
            untrue.append((what, said))
    assert not unsaid
    assert not untrue


def test_an_empty_list_of_families(world: World) -> None:
    path = world.root / "10-net.conf"
    path.write_text(json.dumps(CONFS["dhcp"] | {"ipam": {"type": "dhcp", "families": []}, "master": "lo"}))
    (problem,) = cni_validate.inspect(path, world.host, ())
    assert (problem.where, problem.kind) == ("ipam", "wrong")
    assert "ipam.families is empty" in problem.text


@pytest.mark.parametrize("main", ["macvlan", "ipvlan", "vlan", "host-device", "tap", "dummy"])
def test_a_limit_after_what_has_no_end_on_the_host(world: World, main: str) -> None:
    """In a list, as a chain, around it as its delegate; asked by the file or by the runtime."""
    path = world.root / "10-net.conflist"
    limits: tuple[Conf, ...] = (
        {"ingressRate": 1000000, "ingressBurst": 80000},
        {"capabilities": {"bandwidth": True}},
    )
    for keys in limits:
        members = [{"type": main}, {"type": "bandwidth", **keys}]
        for document in (network(plugins=members), network(type="chain", plugins=members)):
            path.write_text(json.dumps(document))
            found = cni_validate.inspect(path, world.host, ())
            (text,) = [item.text for item in found if item.where == "plugins[1].type"]
            assert f"the interface that {main} makes has no end on the host" in text
    around = network(type="bandwidth", egressRate=1000000, egressBurst=80000, delegate={"type": main})
    refused = world.refused(around)
    assert refused["code"] == 7
    assert (
        refused["msg"] == f"egressRate is given, and delegate.type is '{main}', which has no end on the host"
    )
    assert "use bridge or ptp" in refused["details"]
    assert world.links("c1") == ["lo"]
