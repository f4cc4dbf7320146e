"""`mesokit cni add, del, check, gc, status, validate`, on our plugins and on the reference's."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest

from netns_tests.case import V4, bridge
from netns_tests.node import Finished, Node, answer, until
from netns_tests.plugins import MESOKIT
from netns_tests.runtime import network
from netns_tests.snapshot import assert_clean, snapshot
from netns_tests.test_flannel import PUBLISHED
from netns_tests.test_runtimes_networks import LISTS

CNI = [MESOKIT, "cni"]
RESULTS = "/var/lib/cni/results"


def write(node: Node, config: dict[str, Any], name: str = "10-net.conflist") -> None:
    node.path(f"/etc/cni/net.d/{name}").write_text(json.dumps(config))


def mesokit(node: Node, *words: str, folder: str = "", check: bool = True) -> Finished:
    return node.run([*CNI, *words], env={"CNI_PATH": folder} if folder else {}, check=check)


@pytest.mark.parametrize("whose", ["ours in this process", "ours", "the reference's"])
def test_a_container_comes_and_goes(node: Node, plugins: str, reference: str, whose: str) -> None:
    """The result is printed and kept in libcni's cache; the reference's plugins are served the same way."""
    folder = {"ours": plugins, "the reference's": reference}.get(whose, "/nowhere")
    mapped = {"type": "portmap", "capabilities": {"portMappings": True}}
    config = network([bridge(V4, isDefaultGateway=True), mapped])
    write(node, config)
    before = snapshot(node)
    box = node.netns("blue")
    ports = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}
    added = mesokit(node, "add", "net", "blue", "--capabilities", json.dumps(ports), folder=folder)
    result = added.json()
    assert result["ips"][0]["address"] == "10.9.0.2/24"
    assert box.ping("10.9.0.1")
    (path,) = node.path(RESULTS).iterdir()
    cached = json.loads(path.read_text())
    assert path.name == f"net-{cached['containerId']}-eth0"
    assert cached["kind"] == "cniCacheV1" and cached["networkName"] == "net" and cached["ifName"] == "eth0"
    assert cached["netns"] == "/run/netns/blue" and cached["capabilityArgs"] == ports
    assert json.loads(base64.b64decode(cached["config"])) == config
    assert cached["result"] == result
    assert mesokit(node, "check", "net", "blue", folder=folder, check=whose == "ours").stderr is not None
    box.delete()
    mesokit(node, "del", "net", cached["containerId"], folder=folder)
    mesokit(node, "del", "net", "blue", folder=folder)
    assert not list(node.path(RESULTS).iterdir())
    if whose != "the reference's":
        assert_clean(node, before)


def test_what_failed_is_taken_down(node: Node, plugins: str) -> None:
    write(node, network([bridge(V4), {"type": "tuning", "sysctl": {"net.ipv4.no_such_thing": "1"}}]))
    before = snapshot(node)
    box = node.netns("blue")
    failed = mesokit(node, "add", "net", "blue", folder=plugins, check=False)
    assert failed.status == 1 and b"no_such_thing" in failed.stderr and b"Traceback" not in failed.stderr
    box.delete()
    assert_clean(node, before)


def test_a_single_plugins_file_and_a_file_by_path(node: Node, plugins: str) -> None:
    node.netns("blue")
    write(node, {"cniVersion": "0.2.0", "name": "old", **bridge(V4)}, "old.conf")
    result = mesokit(node, "add", "/etc/cni/net.d/old.conf", "/run/netns/blue", folder=plugins).json()
    assert result["ip4"]["ip"] == "10.9.0.2/24"
    mesokit(node, "del", "old", "blue", folder=plugins)
    wrong = mesokit(node, "add", "old", "green", check=False)
    assert wrong.status == 1 and b"green" in wrong.stderr
    wrong = mesokit(node, "add", "new", "blue", check=False)
    assert wrong.status == 1 and b"old" in wrong.stderr
    wrong = mesokit(node, "check", "old", "blue", folder=plugins, check=False)
    assert wrong.status == 1 and b"0.4.0" in wrong.stderr


def test_gc_keeps_what_lives(node: Node, plugins: str) -> None:
    """A container of another runtime, known by our record alone, is kept; one whose namespace has gone is
    taken down; --all leaves nothing."""
    write(node, network([bridge(V4)], version="1.1.0"))
    before = snapshot(node)
    boxes = {name: node.netns(name) for name in ("alive", "dead", "other")}
    for name in ("alive", "dead"):
        mesokit(node, "add", "net", name, "--container-id", name, folder=plugins)
    conf = {"cniVersion": "1.1.0", "name": "net", **bridge(V4)}
    node.cni("ADD", f"{plugins}/bridge", conf, "other", boxes["other"]).ok()
    boxes["dead"].delete()
    said = json.loads(mesokit(node, "gc", "net", "--dry-run", "--json", folder=plugins).text)
    assert said["kept"] == ["alive:eth0", "other:eth0"] and said["detached"] == ["dead:eth0"]
    mesokit(node, "gc", "net", folder=plugins)
    held = {path.name for path in node.path("/var/lib/cni/networks/net").iterdir()}
    assert {"10.9.0.2", "10.9.0.4"} <= held and "10.9.0.3" not in held
    assert boxes["alive"].ping("10.9.0.4")
    assert mesokit(node, "status", "net", folder=plugins).text.strip() == "net is ready"
    mesokit(node, "gc", "net", "--all", folder=plugins)
    for name in ("alive", "other"):
        boxes[name].delete()
    assert_clean(node, before)


WRONG: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "web",
    "disableChek": True,
    "plugins": [
        {
            **{"type": "bridge", "isGatway": True, "foo": 1, "mtu": "x", "vlan": 5000},
            "ipam": {
                "type": "host-local",
                "subnets": "10.0.0.0/24",
                "ranges": [[{"subnet": "10.0.0.0/24", "gw": 1}]],
            },
        },
        {
            **{"type": "portmap", "capabilities": {"portMapping": True}, "markMasqBit": 3},
            "externalSetMarkChain": "X",
        },
        {"type": "firewal"},
        {"type": "macvlan", "master": "nope0"},
        {"type": "calico"},
    ],
}
PROBLEMS = {
    ("disableChek", "misspelt"),
    ("plugins[0].isGatway", "misspelt"),
    ("plugins[0].foo", "unknown"),
    ("plugins[0].mtu", "wrong"),
    ("plugins[0].vlan", "wrong"),
    ("plugins[0].ipam.subnets", "misspelt"),
    ("plugins[1].capabilities.portMapping", "misspelt"),
    ("plugins[1]", "contradictory"),
    ("plugins[2].type", "misspelt"),
    ("plugins[3].master", "missing"),
    ("plugins[4].type", "missing"),
}


def test_validate_says_all_that_is_wrong(node: Node) -> None:
    write(node, WRONG)
    said = mesokit(node, "validate", "/etc/cni/net.d", "--json", check=False)
    assert said.status == 1
    found = {(item["where"], item["kind"]) for item in json.loads(said.text)["problems"]}
    assert found >= PROBLEMS, PROBLEMS - found


def test_validate_accepts_what_is_right(node: Node) -> None:
    """The lists of the manual and of the runtimes' tests."""
    for name, config in {"flannel": PUBLISHED, **LISTS}.items():
        write(node, config, f"{name}.conflist")
    said = mesokit(node, "validate", "/etc/cni/net.d", check=False)
    assert said.status == 0, said.text


def test_validate_takes_several_files_and_directories(node: Node, tmp_path: Path) -> None:
    """Of one name only within a directory: nobody reads two directories as one."""
    for folder, name in (("one", "a"), ("one", "b"), ("two", "a")):
        (tmp_path / folder).mkdir(exist_ok=True)
        document = {"cniVersion": "1.0.0", "name": name, "plugins": [{"type": "loopback"}]}
        (tmp_path / folder / f"{name}.conflist").write_text(json.dumps(document))
    first, second = tmp_path / "one/a.conflist", tmp_path / "two"
    said = node.run([*CNI, "validate", str(first), str(second)], check=False)
    assert (said.status, said.text) == (0, "2 files, 0 problems\n")
    assert "2 files" in node.run([*CNI, "validate", str(first), str(tmp_path / "one")], check=False).text
    (tmp_path / "two/b.conflist").write_text((tmp_path / "two/a.conflist").read_text())
    said = node.run([*CNI, "validate", str(first), str(second)], check=False)
    assert said.status == 1 and "is in a.conflist already" in said.text
    assert node.run([*CNI, "validate"], check=False).status == 2


def test_forget_takes_the_beginning_of_an_id(node: Node, plugins: str) -> None:
    """Which is enough where one container on that network begins so."""
    for name, container in (("net", "4c7f-web"), ("net", "9ab2-db"), ("other", "4c7f-too")):
        subnet = "10.9.0.0/24" if name == "net" else "10.8.0.0/24"
        conf: dict[str, Any] = {"cniVersion": "1.0.0", "name": name, "type": "ptp"}
        conf |= {"ipam": {"type": "host-local", "subnet": subnet}}
        node.cni("ADD", f"{plugins}/ptp", conf, container, node.netns(container)).ok()
    said = mesokit(node, "forget", "net", "4c7")
    assert said.text == "eth0 of 4c7f-web is detached from net\n"
    left = node.run([MESOKIT, "ls", "-q"]).text.split()
    assert left == ["9ab2-db", "4c7f-too"]


def test_validate_twice_and_torn(node: Node, tmp_path: Path) -> None:
    path = tmp_path / "x.conflist"
    path.write_text('{"name": "a", "name": "b", "plugins": [{"type": "loopback"}]}')
    said = node.run([*CNI, "validate", str(path)], check=False)
    assert said.status == 1 and "twice" in said.text
    path.write_text('{"name": "a", ')
    assert "JSON" in node.run([*CNI, "validate", str(path)], check=False).text


def test_whoever_is_not_root_is_told_to_be(node: Node, ours: str) -> None:
    """What changes the node says so in one sentence, whatever file or socket it met first."""
    conf = {
        "cniVersion": "1.0.0",
        "name": "n",
        "type": "ptp",
        "ipam": {"type": "host-local", "subnet": "10.9.0.0/24"},
    }
    node.path("/etc/cni/net.d").mkdir(parents=True, exist_ok=True)
    node.path("/etc/cni/net.d/n.conf").write_text(json.dumps(conf))
    node.cni("ADD", f"{ours}/ptp", conf, "c1", node.netns("c1")).ok()
    # He may read all files here, since the checkout may lie where only its owner can.
    capability = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *capability, MESOKIT]
    for words in (
        ["update", "c1", "mtu=1400"],
        ["update", "c1", "--add-network", "n"],
        ["reload"],
        ["cni", "add", "n", "/run/netns/c1"],
    ):
        said = node.run([*nobody, *words], check=False)
        assert said.status != 0
        errors = said.stderr.decode()
        assert "root" in errors and "internal error" not in errors and "Traceback" not in errors, (
            words,
            errors,
        )


SLOW = """#!/bin/sh
case "$CNI_COMMAND" in
ADD) sed 's/.*"prevResult": *//; s/}$//' ;;
DEL) touch /run/asked; until test -e /run/go; do sleep 0.05; done ;;
esac
"""


@pytest.mark.parametrize("everything", [[], ["--all"]])
def test_what_is_attached_while_gc_works_stays(node: Node, plugins: str, everything: list[str]) -> None:
    """Its list was made before; of a container that is gone something takes its time."""
    place = node.path("/opt/cni/bin")
    place.mkdir(parents=True, exist_ok=True)
    (place / "slow").write_text(SLOW)
    (place / "slow").chmod(0o755)
    ptp = {"type": "ptp", "ipam": {"type": "host-local", "subnet": "10.9.0.0/24"}}
    document = {"cniVersion": "1.1.0", "name": "n", "plugins": [ptp, {"type": "slow"}]}
    node.path("/etc/cni/net.d").mkdir(parents=True, exist_ok=True)
    node.path("/etc/cni/net.d/n.conflist").write_text(json.dumps(document))
    where = ["--plugin-dir", f"{plugins}:/opt/cni/bin"]
    old = node.netns("old")
    node.run([MESOKIT, "cni", "add", "n", old.path, *where])
    old.delete()
    collecting = node.popen([MESOKIT, "cni", "gc", "n", *everything, *where])
    until(node.path("/run/asked").exists, what="the old one is being detached")
    young = {"cniVersion": "1.1.0", "name": "n", **ptp}
    box = node.netns("young")
    result = node.cni("ADD", f"{plugins}/ptp", young, "young", box).ok()
    node.path("/run/go").touch()
    assert collecting.wait().status == 0
    node.cni("CHECK", f"{plugins}/ptp", {**young, "prevResult": result}, "young", box).ok()
    node.run([MESOKIT, "cni", "gc", "n", "--all", *where])
    assert (
        node.cni("CHECK", f"{plugins}/ptp", {**young, "prevResult": result}, "young", box).error is not None
    )


SLOW_IPAM = """#!/bin/sh
if [ "$CNI_COMMAND" = ADD ]; then
    touch /run/asked; until test -e /run/go; do sleep 0.05; done
    echo '{"cniVersion": "1.1.0", "ips": [{"address": "10.9.0.2/24", "gateway": "10.9.0.1"}]}'
fi
"""


def test_an_add_that_was_not_over_when_gc_made_its_list_stays(node: Node, plugins: str) -> None:
    """libcni's cache learns of an attachment when its ADD is over, and a list of records that is read while
    an ADD starts lacks it as well. Found by the mixed load: a container's interface was gone."""
    place = node.path("/opt/cni/bin")
    place.mkdir(parents=True, exist_ok=True)
    (place / "slow").write_text(SLOW_IPAM)
    (place / "slow").chmod(0o755)
    conf = {"cniVersion": "1.1.0", "name": "n", "type": "ptp", "ipam": {"type": "slow"}}
    box, path = node.netns("young"), f"{plugins}:/opt/cni/bin"
    attaching = node.cni_start("ADD", f"{plugins}/ptp", conf, "young", box, cni_path=path)
    until(node.path("/run/asked").exists, what="the ADD is half done")
    listed = {"MESOKIT_LISTED": str(time.clock_gettime_ns(time.CLOCK_BOOTTIME))}
    node.path("/run/go").touch()
    result = answer(attaching.wait(60)).ok()
    nobody = conf | {"cni.dev/valid-attachments": []}
    node.cni("GC", f"{plugins}/ptp", nobody, cni_path=path, ifname="", env=listed).ok()
    node.cni("CHECK", f"{plugins}/ptp", {**conf, "prevResult": result}, "young", box, cni_path=path).ok()
    node.cni("GC", f"{plugins}/ptp", nobody, cni_path=path, ifname="").ok()
    assert box.run(["ip", "link", "show", "eth0"], check=False).status != 0
