"""The one-machine agent on a node: a true agent for its executor, that leaves nothing, whatever happens."""

from __future__ import annotations

import signal
import stat
from pathlib import Path

import pytest

from netns_tests.agent_run import EXECUTOR, REFERENCE, STUB, agent_run, nothing_left, short
from netns_tests.node import Node, until
from netns_tests.snapshot import Snapshot, snapshot


@pytest.fixture
def before(node: Node) -> Snapshot:
    return snapshot(node)


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
        # Before it has begun to listen for signals it ends by the signal, which a shell tells the same way.
        assert run.end() in (128 + number, *([-number] if moment == "at once" else []))
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
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    with (
        agent_run(node, folders[0], short("true"), REFERENCE) as one,
        agent_run(node, folders[1], short("true"), REFERENCE) as two,
    ):
        assert [one.end(), two.end()] == [0, 0]
    nothing_left(node, before)
