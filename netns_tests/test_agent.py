"""The one-machine agent on a node: a true CNI runtime and a true agent, that leaves nothing.

Networks come from the reference plugins, or from scripts that write down how they were called.
"""

from __future__ import annotations

import json
import signal
import stat
from pathlib import Path

import pytest

from netns_tests.agent_run import EXECUTOR, STUB, AgentRun, agent_run, short
from netns_tests.conftest import BOTH_WAYS
from netns_tests.node import Node, until
from netns_tests.plugins import TOP
from netns_tests.snapshot import Snapshot, residue, snapshot

REFERENCE = "/usr/lib/cni"
BRIDGES = (
    r"node: [^=]*\b(data0|dev0)\b",
    r"node: sysctl",
    r"(file|dir|link-file|socket) /var/lib/mesokit/agent",
)
"""What the reference's bridge plugin leaves, and the sandboxes, which are kept."""

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


TWO = {"a-net": {"type": "recorder", "zebra": 1, "args": {"cni": {"x": 1}}}, "b-net": {"type": "recorder"}}
ON_BOTH = ("a-net", "b-net")


def nothing_left(node: Node, before: Snapshot) -> None:
    assert residue(node, before, allowed=BRIDGES) == []


@pytest.mark.parametrize("encoding", ["protobuf", "json"])
@pytest.mark.parametrize("how", ["", "--tcp", "--chunk-size 1", "--tcp --chunk-size 1"])
def test_executor_completes_a_task(
    node: Node, tmp_path: Path, before: Snapshot, encoding: str, how: str
) -> None:
    options = ["--executor", f"{EXECUTOR} --encoding {encoding}", *how.split()]
    with agent_run(node, tmp_path, short("echo done > result"), REFERENCE, *options) as run:
        assert run.end() == 0
        assert run.states() == ["TASK_STARTING", "TASK_RUNNING", "TASK_FINISHED"]
        (subscribed,) = run.find("ExecutorSubscribed")
        assert (subscribed["transport"], subscribed["encoding"]) == (
            "tcp" if "--tcp" in how else "unix",
            encoding,
        )
        (gone,) = run.find("ContainerGone")
        assert (node.path(gone["sandbox"]) / "result").read_text() == "done\n"
    nothing_left(node, before)


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
        assert inside("cat", "/etc/hosts") == f"127.0.0.1 localhost\n10.0.0.2 {container}\n"
        assert inside("cat", "/etc/resolv.conf") == "search example\nnameserver 192.0.2.53\n"
        assert "UP" in inside("ip", "link", "show", "lo").split("<", 1)[1].split(">")[0]
        assert node.run(["hostname"]).text.strip() == "node"
        update = run.wait_for("StatusUpdate", state="TASK_RUNNING")["status"]
        addresses = [i["ip_addresses"] for i in update["container_status"]["network_infos"]]
        assert addresses == [
            [{"protocol": "IPv4", "ip_address": "10.0.0.2"}],
            [{"protocol": "IPv6", "ip_address": "fd00::2/64"}],
        ]


def test_environment_is_an_agents_and_nothing_else(node: Node, tmp_path: Path) -> None:
    options = ("--executor", "cp /proc/self/environ environment", "--checkpoint")
    with agent_run(node, tmp_path, short("true"), REFERENCE, *options) as run:
        assert run.end() == 1
        assert run.states() == ["TASK_FAILED"]
        (update,) = run.find("StatusUpdate")
        assert (update["source"], update["reason"]) == ("AGENT", "REASON_EXECUTOR_TERMINATED")
        sandbox = Path(run.find("ContainerStarted")[0]["sandbox"])
    text = (node.path(str(sandbox)) / "environment").read_text()
    found = dict(pair.split("=", 1) for pair in text.split("\0")[:-1])
    assert found.pop("MESOS_EXECUTOR_AUTHENTICATION_TOKEN").count(".") == 2
    assert found.pop("MESOS_DOMAIN_SOCKET").endswith("/agent.sock")
    assert found.pop("MESOS_SLAVE_PID") == f"slave(1)@{found.pop('MESOS_AGENT_ENDPOINT')}"
    assert found.pop("MESOS_FRAMEWORK_ID").endswith("-0000")
    assert found.pop("MESOS_SLAVE_ID").endswith("-S0")
    assert found == {
        "MESOS_EXECUTOR_ID": "hello",
        "MESOS_DIRECTORY": str(sandbox),
        "MESOS_SANDBOX": str(sandbox),
        "MESOS_CHECKPOINT": "1",
        "MESOS_RECOVERY_TIMEOUT": "15mins",
        "MESOS_SUBSCRIPTION_BACKOFF_MAX": "2secs",
        "MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD": "5secs",
        "MESOS_HTTP_COMMAND_EXECUTOR": "0",
        "LIBPROCESS_IP": "0.0.0.0",
        "LIBPROCESS_PORT": "0",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    }


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


def test_a_task_without_networks_stays_on_the_nodes(node: Node, tmp_path: Path, before: Snapshot) -> None:
    with agent_run(node, tmp_path, short("readlink /proc/self/ns/net > ns", []), REFERENCE) as run:
        assert run.end() == 0
        (started,) = run.find("ContainerStarted")
        assert "--net" not in started["nsenter"]
        assert not run.find("PluginCalled")
        here = node.run(["readlink", "/proc/self/ns/net"]).text
        assert (node.path(started["sandbox"]) / "ns").read_text() == here
    nothing_left(node, before)


def test_a_group_is_one_container_and_instances_are_several(
    node: Node, tmp_path: Path, before: Snapshot
) -> None:
    networks = {"type": "MESOS", "network_infos": [{"name": "data-net"}]}
    group = {
        "tasks": [
            {"name": n, "task_id": {"value": n}, "command": {"value": "true"}, "container": networks}
            for n in ("one", "two")
        ]
    }
    with agent_run(node, tmp_path, [group, short("true", instances=2)], REFERENCE) as run:
        assert run.end() == 0
        tasks = sorted(told["tasks"] for told in run.find("ContainerStarted"))
        assert tasks == [["hello-1"], ["hello-2"], ["one", "two"]]
        for task in ("one", "two", "hello-1", "hello-2"):
            assert run.states(task)[-1] == "TASK_FINISHED"
        addresses = [told["addresses"][0] for told in run.find("StatusUpdate", state="TASK_FINISHED")]
        assert len(set(addresses)) == 3
    nothing_left(node, before)


def test_volumes_uris_and_the_hostname_are_there(node: Node, tmp_path: Path, before: Snapshot) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/file").write_text("from the host\n")
    (tmp_path / "tool").write_text("#!/bin/sh\necho fetched\n")
    task = {
        "name": "hello",
        "task_id": {"value": "hello"},
        "command": {
            "value": "cat data/file > seen; ./tool >> seen; hostname >> seen; ! touch data/new",
            "uris": [{"value": str(tmp_path / "tool"), "executable": True}],
        },
        "container": {
            "type": "MESOS",
            "hostname": "named",
            "network_infos": [{"name": "data-net"}],
            "volumes": [{"container_path": "data", "host_path": str(tmp_path / "shared"), "mode": "RO"}],
        },
    }
    with agent_run(node, tmp_path, task, REFERENCE) as run:
        assert run.end() == 0
        sandbox = node.path(run.find("ContainerGone")[0]["sandbox"])
        assert (sandbox / "seen").read_text() == "from the host\nfetched\nnamed\n"
    nothing_left(node, before)


def test_the_kill_says_killing_where_the_framework_can_take_it(
    node: Node, tmp_path: Path, before: Snapshot
) -> None:
    for option, states in (
        (["--kill-after", "1ms"], ["TASK_KILLING", "TASK_KILLED"]),
        (["--kill-after", "1ms", "--no-killing-state"], ["TASK_KILLED"]),
    ):
        with agent_run(node, tmp_path, short("sleep 1000"), REFERENCE, *option) as run:
            assert run.end() == 0
            assert run.states() == ["TASK_STARTING", "TASK_RUNNING", *states]
    nothing_left(node, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["at once", "ContainerStarted", "TASK_RUNNING"])
def test_an_interrupt_at_any_moment_leaves_nothing(
    node: Node, tmp_path: Path, before: Snapshot, number: signal.Signals, moment: str
) -> None:
    with agent_run(node, tmp_path, short("sleep 1000"), REFERENCE) as run:
        if moment == "at once":
            until(lambda: node.path("/run/mesokit/agent").exists(), what="the agent begins")
        elif moment == "ContainerStarted":
            run.wait_for("ContainerStarted")
        else:
            run.wait_for("StatusUpdate", state=moment)
        run.running.kill(number)
        assert run.end() == 128 + number
        assert run.states()[-1:] in (["TASK_KILLED"], [])
    nothing_left(node, before)


def test_a_reader_that_leaves_ends_the_tasks(node: Node, tmp_path: Path, before: Snapshot) -> None:
    with agent_run(node, tmp_path, short("sleep 1005"), REFERENCE) as run:
        command = " ".join(run.running.argv)
        run.wait_for("StatusUpdate", state="TASK_RUNNING")
        run.running.kill(signal.SIGHUP)
        assert run.end() == 128 + signal.SIGHUP
    for option in ("", " --follow"):
        node.run(["sh", "-c", f"{command}{option} | head -n 3"], timeout=60)
    nothing_left(node, before)


def test_a_deaf_executor_is_destroyed(node: Node, tmp_path: Path, before: Snapshot) -> None:
    options = ("--executor", f"{STUB} json deaf", "--shutdown-grace", "200ms", "--kill-grace", "0ns")
    with agent_run(
        node, tmp_path, short("exec sleep 1000"), REFERENCE, "--kill-after", "1ms", *options
    ) as run:
        assert run.end() == 1
        assert run.states() == ["TASK_STARTING", "TASK_RUNNING", "TASK_FAILED"]
        assert "did not exit within its grace period" in run.find("StatusUpdate")[-1]["message"]
    nothing_left(node, before)


def test_an_executor_that_stays_is_sent_home(node: Node, tmp_path: Path, before: Snapshot) -> None:
    options = ("--executor", f"{STUB} protobuf stay", "--shutdown-grace", "200ms")
    with agent_run(node, tmp_path, short("exit 0"), REFERENCE, *options) as run:
        assert run.end() == 0
        assert run.find("ExecutorExited")[0]["exit"] == "exited with status 0"
    nothing_left(node, before)


def test_an_executor_that_never_subscribes_is_given_up(node: Node, tmp_path: Path, before: Snapshot) -> None:
    options = ("--executor", f"{STUB} json never-subscribe", "--registration-timeout", "300ms")
    with agent_run(node, tmp_path, short("true"), REFERENCE, *options) as run:
        assert run.end() == 1
        (update,) = run.find("StatusUpdate")
        assert update["reason"] == "REASON_EXECUTOR_REGISTRATION_TIMEOUT"
    nothing_left(node, before)


def test_nothing_survives_an_executor_killed_with_9(node: Node, tmp_path: Path, before: Snapshot) -> None:
    task = short("setsid sleep 1001 & exec sleep 1002")
    with agent_run(node, tmp_path, task, REFERENCE) as run:
        run.wait_for("StatusUpdate", state="TASK_RUNNING")
        node.run(["kill", "-9", str(run.find("ContainerStarted")[0]["pid"])])
        assert run.end() == 1
        assert run.states()[-1] == "TASK_FAILED"
        assert run.find("ExecutorExited")[0]["exit"] == "was ended by signal 9"
    nothing_left(node, before)


def test_the_next_agent_cleans_up_after_one_killed_with_9(
    node: Node, tmp_path: Path, before: Snapshot
) -> None:
    with agent_run(node, tmp_path, short("sleep 1003"), REFERENCE) as run:
        run.wait_for("StatusUpdate", state="TASK_RUNNING")
        run.running.kill(signal.SIGKILL)
        run.end()
    with agent_run(node, tmp_path, short("true", []), "/nothing/here") as run:
        assert run.end() == 0
        assert "cleaning up after an agent that died" in run.find("Note")[0]["text"]
        assert len(run.find("PluginCalled", verb="DEL")) == 2
    nothing_left(node, before)


def test_a_checkpointing_executor_outlives_a_restart_of_the_agent(
    node: Node, tmp_path: Path, before: Snapshot
) -> None:
    options = ("--checkpoint", "--restart-after", "1ms", "--restart-for", "300ms")
    task = short("while [ ! -e done ]; do sleep 0.05; done")
    with agent_run(node, tmp_path, task, REFERENCE, *options) as run:
        until(lambda: len(run.find("ExecutorSubscribed")) == 2, what="subscribed again")
        node.path(run.find("ContainerStarted")[0]["sandbox"]).joinpath("done").touch()
        assert run.end() == 0
        assert run.states() == ["TASK_STARTING", "TASK_RUNNING", "TASK_FINISHED"]
    nothing_left(node, before)


def test_an_executor_that_does_not_checkpoint_ends_with_its_agent(
    node: Node, tmp_path: Path, before: Snapshot
) -> None:
    with agent_run(node, tmp_path, short("sleep 1004"), REFERENCE, "--restart-after", "1ms") as run:
        assert run.end() == 1
        assert run.states()[-1] == "TASK_FAILED"
        assert run.find("StatusUpdate")[-1]["source"] == "AGENT"
    nothing_left(node, before)


@pytest.mark.parametrize("plugins", BOTH_WAYS, indirect=True)
def test_our_plugins_two_containers_at_once_on_new_bridges(node: Node, tmp_path: Path, plugins: str) -> None:
    before = snapshot(node)
    networks = {
        path.stem: json.loads(path.read_text()) for path in (TOP / "packaging/example/net.d").iterdir()
    }
    task = short("true", tuple(sorted(networks)), instances=2)
    with agent_run(node, tmp_path, task, plugins, networks=networks) as run:
        assert run.end() == 0, run.told
    assert residue(node, before, allowed=[r"(file|dir|link-file|socket) /var/lib/mesokit/agent"]) == []


def test_output_is_followed_and_kept(node: Node, tmp_path: Path) -> None:
    cmd = "echo to stdout; echo to stderr >&2"
    with agent_run(node, tmp_path, short(cmd, []), REFERENCE, "--follow") as run:
        assert run.end() == 0
        streams = {told["stream"]: told["data"] for told in run.find("Output")}
        assert streams["stdout"] == "to stdout\n"
        assert "to stderr\n" in streams["stderr"]
        sandbox = node.path(run.find("ContainerGone")[0]["sandbox"])
        assert (sandbox / "stdout").read_text() == "to stdout\n"


def test_the_socket_is_for_all_users_only_with_tokens(node: Node, tmp_path: Path) -> None:
    for options, mode in (([], 0o666), (["--no-authentication"], 0o600)):
        with agent_run(node, tmp_path, short("sleep 1000", []), REFERENCE, *options) as run:
            run.wait_for("StatusUpdate", state="TASK_RUNNING")
            (socket,) = node.path("/run/mesokit/agent").glob("*/agent.sock")
            assert stat.S_IMODE(socket.stat().st_mode) == mode
            run.running.kill(signal.SIGTERM)
            run.end()


def test_two_agents_at_once_do_not_meet(node: Node, tmp_path: Path, before: Snapshot) -> None:
    runs: list[AgentRun] = []
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    with (
        agent_run(node, folders[0], short("true"), REFERENCE) as one,
        agent_run(node, folders[1], short("true"), REFERENCE) as two,
    ):
        runs += [one, two]
        assert [run.end() for run in runs] == [0, 0]
    nothing_left(node, before)
