"""The agent's isolator on a node: plugins are called, and results used, as Mesos' network/cni isolator does.

The plugins are the reference's, ours, and a script that writes down how it was called.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from netns_tests.agent_run import REFERENCE, agent_run, nothing_left, short
from netns_tests.node import Node
from netns_tests.plugins import TOP
from netns_tests.snapshot import Snapshot, residue, snapshot

RECORDER = """#!/bin/sh
here={log}/$CNI_COMMAND-$CNI_IFNAME
cat /proc/$$/environ > $here.env
cat > $here.stdin
[ -z "$CNI_NETNS" ] || nsenter --net=$CNI_NETNS ip -json link show lo > $here.lo
{{ [ -z "$CNI_NETNS" ] || stat -L -c %i $CNI_NETNS; }} > $here.netns
touch $here.begun
tries=0
while [ $(ls {log} | grep -c "$CNI_COMMAND-.*begun") -lt {at_once} ] && [ $tries -lt 2000 ]; do
    sleep 0.01; tries=$((tries + 1))
done
ls {log} | grep -c "$CNI_COMMAND-.*begun" > $here.together
[ ! -e {log}/$CNI_COMMAND-$CNI_IFNAME.fails ] || {{ echo '{{"code": 99, "msg": "as asked"}}'; exit 1; }}
[ $CNI_COMMAND = DEL ] || cat {log}/$CNI_IFNAME.result
"""

TWO = {"a-net": {"type": "recorder", "zebra": 1, "args": {"cni": {"x": 1}}}, "b-net": {"type": "recorder"}}
ON_BOTH = ("a-net", "b-net")


@pytest.fixture
def before(node: Node) -> Snapshot:
    return snapshot(node)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """What the recording plugin wrote down; `<ifname>.result` is what it answers."""
    folder = tmp_path / "log"
    folder.mkdir()
    result = {"ip4": {"ip": "10.0.0.2/24", "gateway": "10.0.0.1"}}
    (folder / "eth0.result").write_text(json.dumps(result))
    dns = {"nameservers": ["192.0.2.53"], "search": ["example"]}
    (folder / "eth1.result").write_text(json.dumps({"ip6": {"ip": "fd00::2/64"}, "dns": dns}))
    return folder


def recorder(log: Path, *, at_once: int = 2) -> str:
    folder = log.parent / "plugins"
    folder.mkdir(exist_ok=True)
    plugin = folder / "recorder"
    plugin.write_text(RECORDER.format(log=log, at_once=at_once))
    plugin.chmod(0o755)
    return str(folder)


def test_plugins_are_called_as_mesos_calls_them(
    node: Node, tmp_path: Path, log: Path, before: Snapshot
) -> None:
    task = short("sleep 1000", ON_BOTH, labels={"unseen": "here"})
    network = {
        "name": "a-net",
        "group": ["web"],
        "labels": {"k": "v"},
        "ipaddress": [{"ip": "10.0.0.9", "protocol": "IPv4"}],
        "port_mapping": [{"host_port": 80, "container_port": 8080}],
    }
    task["container"] = {"network": [network, {"name": "b-net"}]}
    plugins = f"/nothing/here:{recorder(log)}"
    with agent_run(node, tmp_path, task, plugins, networks=TWO) as run:
        started = run.wait_for("ContainerStarted")
        container = started["container"]
        variables = dict(pair.split("=", 1) for pair in (log / "ADD-eth0.env").read_text().split("\0")[:-1])
        root = Path(variables.pop("CNI_NETNS")).parents[1]
        assert variables == {
            "CNI_COMMAND": "ADD",
            "CNI_CONTAINERID": container,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": plugins,
            "PATH": node.environment["PATH"],
        }
        info = {
            "ip_addresses": [{"protocol": "IPv4", "ip_address": "10.0.0.9"}],
            "name": "a-net",
            "groups": ["web"],
            "labels": {"labels": [{"key": "k", "value": "v"}]},
            "port_mappings": [{"host_port": 80, "container_port": 8080}],
        }
        text = (log / "ADD-eth0.stdin").read_text()
        assert json.loads(text) == {
            "name": "a-net",
            "type": "recorder",
            "zebra": 1,
            "args": {"cni": {"x": 1}, "org.apache.mesos": {"network_info": info}},
        }
        assert text == json.dumps(json.loads(text), sort_keys=True)
        # Both at once, in the one namespace of the executor, whose lo is not up yet.
        assert {(log / f"ADD-eth{n}.together").read_text() for n in (0, 1)} == {"2\n"}
        assert {(log / f"ADD-eth{n}.netns").read_text() for n in (0, 1)} == {
            f"{(node.path('/proc') / str(started['pid']) / 'ns/net').stat().st_ino}\n"
        }
        assert json.loads((log / "ADD-eth0.lo").read_text())[0]["flags"] == ["LOOPBACK"]
        layout = node.run(["find", str(root / container), "-type", "f", "-printf", "%P\n"]).text.split()
        assert sorted(layout) == [
            "a-net/eth0/network.info",
            "a-net/network.conf",
            "b-net/eth1/network.info",
            "b-net/network.conf",
            "hostname",
            "hosts",
            "ns",
            "resolv.conf",
        ]
        run.running.kill(signal.SIGTERM)
        assert run.end() == 128 + signal.SIGTERM
    assert (log / "DEL-eth0.stdin").read_text() == text
    assert (log / "DEL-eth0.netns").read_text() == (log / "ADD-eth0.netns").read_text()
    assert {(log / f"DEL-eth{n}.together").read_text() for n in (0, 1)} == {"2\n"}
    nothing_left(node, before)


def test_inside_is_what_mesos_makes(node: Node, tmp_path: Path, log: Path) -> None:
    with agent_run(node, tmp_path, short("sleep 1000", ON_BOTH), recorder(log), networks=TWO) as run:
        started = run.wait_for("ContainerStarted")
        run.wait_for("StatusUpdate", state="TASK_RUNNING")

        def inside(*command: str) -> str:
            return node.run([*started["nsenter"], *command]).text

        container = started["container"]
        assert inside("hostname").strip() == container
        assert inside("cat", "/etc/hostname").strip() == container
        hosts = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
        hosts += [f"10.0.0.2 {container}", f"fd00::2 {container}"]
        assert inside("cat", "/etc/hosts").splitlines() == hosts
        assert inside("cat", "/etc/resolv.conf") == "search example\nnameserver 192.0.2.53\n"
        assert "UP" in inside("ip", "link", "show", "lo").split("<", 1)[1].split(">")[0]
        assert node.run(["hostname"]).text.strip() == "node"
        update = run.wait_for("StatusUpdate", state="TASK_RUNNING")["status"]
        addresses = [i["ip_addresses"] for i in update["container_status"]["network_infos"]]
        assert addresses == [
            [{"protocol": "IPv4", "ip_address": "10.0.0.2"}],
            [{"protocol": "IPv6", "ip_address": "fd00::2/64"}],
        ]


def test_a_failed_add_fails_the_task_and_deletes_every_attachment(
    node: Node, tmp_path: Path, log: Path, before: Snapshot
) -> None:
    (log / "ADD-eth1.fails").touch()
    with agent_run(node, tmp_path, short("true", ON_BOTH), recorder(log), networks=TWO) as run:
        assert run.end() == 1
        (update,) = run.find("StatusUpdate")
        assert update["reason"] == "REASON_CONTAINER_LAUNCH_FAILED"
        assert update["message"] == "network 'b-net': recorder: as asked (code 99)"
        assert sorted(told["ifname"] for told in run.find("PluginCalled", verb="DEL")) == ["eth0", "eth1"]
    nothing_left(node, before)


def test_a_failed_del_leaves_what_another_try_needs(node: Node, tmp_path: Path, log: Path) -> None:
    (log / "DEL-eth0.fails").touch()
    with agent_run(node, tmp_path, short("true", ON_BOTH), recorder(log), networks=TWO) as run:
        assert run.end() == 1
        assert run.states()[-1] == "TASK_FINISHED"
        assert not run.find("ContainerGone")
    left = node.run(["find", "/run/mesokit/agent", "-name", "network.conf"]).text.splitlines()
    assert [Path(path).parent.name for path in left] == ["a-net"]


@pytest.mark.parametrize(
    ("networks", "wanted", "sentence"),
    [
        ({}, ["a-net"], "no network 'a-net' in"),
        ({"b": {"plugins": []}}, ["a-net"], "is a list of plugins (conflist)"),
        ({"a-net": {"type": "nothing"}}, ["a-net"], "no executable of that name"),
        ({"a_net": {"type": "loopback"}}, ["a-net"], "expected 'a_net'"),
    ],
)
def test_a_network_that_cannot_be_used_is_explained(
    node: Node, tmp_path: Path, networks: dict[str, object], wanted: list[str], sentence: str
) -> None:
    with agent_run(node, tmp_path, short("true", wanted), REFERENCE, networks=networks) as run:
        assert run.end() == 1
        (update,) = run.find("StatusUpdate")
        assert sentence in update["message"]


def test_newer_results_are_called_out(node: Node, tmp_path: Path) -> None:
    networks = {"n": {"cniVersion": "1.0.0", "type": "bridge", "bridge": "data0", "ipam": "10.9.0.0/24"}}
    with agent_run(node, tmp_path, short("true", ["n"]), REFERENCE, networks=networks) as run:
        assert run.end() == 0
        assert "in which Mesos sees no address" in run.find("Note")[0]["text"]
        assert run.find("StatusUpdate", state="TASK_RUNNING")[0]["addresses"] == []


def test_our_plugins_two_containers_at_once_on_new_bridges(node: Node, tmp_path: Path, plugins: str) -> None:
    before = snapshot(node)
    networks = {
        path.stem: json.loads(path.read_text()) for path in (TOP / "packaging/example/net.d").iterdir()
    }
    task = short("true", tuple(sorted(networks)), instances=2)
    with agent_run(node, tmp_path, task, plugins, networks=networks) as run:
        assert run.end() == 0, run.told
    assert residue(node, before, allowed=[r"(file|dir|link-file|socket) /var/lib/mesokit/agent"]) == []
