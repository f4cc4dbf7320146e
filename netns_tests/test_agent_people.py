"""`mesokit run` for people: plugins that hang, directories that are found, output told apart."""

from __future__ import annotations

import json
import re
import shlex
import signal
import time
from pathlib import Path

import pytest

from netns_tests.agent_run import EXECUTOR, REFERENCE, agent_run, short
from netns_tests.node import Node, Running, until
from netns_tests.plugins import MESOKIT

NET = {"n": {"type": "hang"}}


def hanging(node: Node, verbs: str) -> str:
    """A plugin directory whose only plugin hangs on these verbs, deaf to signals, with a child of its own."""
    folder = node.path("/opt/hang")
    folder.mkdir(parents=True, exist_ok=True)
    answer = shlex.quote(json.dumps({"cniVersion": "0.2.0"}))
    (folder / "hang").write_text(
        f"#!/bin/sh\ntrap '' INT TERM\necho $CNI_COMMAND >> /run/calls\n"
        f"case '{verbs}' in *$CNI_COMMAND*) sleep 1000 & wait; wait ;; esac\n"
        f"[ $CNI_COMMAND = DEL ] || echo {answer}\n"
    )
    (folder / "hang").chmod(0o755)
    return "/opt/hang"


def processes(node: Node, beginning: str) -> list[str]:
    """The numbers of the node's processes whose command lines begin so, the first one first."""
    look = (
        "import os, re, sys\n"
        "for pid in filter(str.isdigit, os.listdir('/proc')):\n"
        "    try:\n"
        "        line = open(f'/proc/{pid}/cmdline').read().replace(chr(0), ' ')\n"
        "    except OSError:\n"
        "        continue\n"
        "    if re.match(sys.argv[1], line):\n"
        "        print(pid)\n"
    )
    return sorted(node.run(["python3", "-c", look, beginning]).text.split(), key=int)


def sleepers(node: Node) -> list[str]:
    return processes(node, "sleep 1000")


@pytest.mark.parametrize("verbs", ["ADD", "DEL", "ADD DEL"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_third_interrupt_ends_it_whatever_a_plugin_does(
    node: Node, tmp_path: Path, verbs: str, number: signal.Signals
) -> None:
    plugins = hanging(node, verbs)
    with agent_run(node, tmp_path, short("sleep 1001", ["n"]), plugins, networks=NET) as run:
        if "ADD" in verbs:
            until(lambda: node.path("/run/calls").exists())
            until(lambda: sleepers(node))
        else:
            run.wait_for("StatusUpdate", state="TASK_RUNNING")
        began = time.monotonic()
        for count in range(1, 4):
            run.running.kill(number)
            until(lambda count=count: len(run.find("Note")) >= count)  # type: ignore[misc]
        assert run.end() == 128 + number
        assert time.monotonic() - began < 25
    until(lambda: not sleepers(node), what="the plugins' children are gone")


def test_a_plugin_has_a_deadline(node: Node, tmp_path: Path) -> None:
    plugins = hanging(node, "ADD")
    options = ("--plugin-timeout", "500ms")
    with agent_run(node, tmp_path, short("true", ["n"]), plugins, *options, networks=NET) as run:
        assert run.end() == 1
        (called,) = run.find("PluginCalled", verb="ADD")
        assert "did not end in time and was killed" in called["error"]
        assert run.find("PluginCalled", verb="DEL")[0]["error"] == ""
    assert not sleepers(node)


def test_a_clean_up_that_hangs_holds_up_no_later_run(node: Node, tmp_path: Path) -> None:
    """An agent was killed and its plugin's DEL hangs: the next run does its own work and ends."""
    plugins = hanging(node, "")
    with agent_run(node, tmp_path, short("sleep 1001", ["n"]), plugins, networks=NET) as run:
        run.wait_for("StatusUpdate", state="TASK_RUNNING")
        run.running.kill(signal.SIGKILL)
        run.end()
    hanging(node, "DEL")
    began = time.monotonic()
    with agent_run(node, tmp_path, short("true", []), REFERENCE) as run:
        run.wait_for("StatusUpdate", state="TASK_FINISHED")
        assert time.monotonic() - began < 9, "before the clean-up is given up"
        assert run.end() == 0
        assert "goes on cleaning up" in run.find("Note")[-1]["text"]
    assert time.monotonic() - began < 40
    hanging(node, "")
    with agent_run(node, tmp_path, short("true", []), REFERENCE) as run:
        assert run.end() == 0
        assert run.find("PluginCalled", verb="DEL")[0]["error"] == ""
    with agent_run(node, tmp_path, short("true", []), REFERENCE) as run:
        assert run.end() == 0
        assert not run.find("Note")


def run_by_hand(
    node: Node, task: object, *options: str, env: dict[str, str] | None = None
) -> tuple[int, str, str]:
    done = node.run(
        [MESOKIT, "run", "-", "--executor", EXECUTOR, *options],
        input=json.dumps(task),
        check=False,
        env=env,
    )
    assert b"Traceback" not in done.stderr
    return done.status, done.stdout.decode(), done.stderr.decode()


def test_the_packages_plugins_are_found_without_an_option(node: Node, ours: str) -> None:
    node.shell(f"mkdir -p /etc/cni/net.d && ln -s {ours} /run/plugins")
    conf = {"name": "n", "type": "loopback"}
    node.path("/etc/cni/net.d/n.json").write_text(json.dumps(conf))
    task = short("true", ["n"])
    node.shell("rm -rf /opt/cni/bin")
    status, _, errors = run_by_hand(node, task, env={"CNI_PATH": "/nothing:/run/plugins"})
    assert status == 0, errors
    # /usr is the machine's: the package's folder is made in a layer above it, which is the node's.
    layers = "lowerdir=/usr/lib,upperdir=/run/layer/upper,workdir=/run/layer/work"
    node.shell(f"mkdir -p /run/layer/upper /run/layer/work; mount -t overlay -o {layers} none /usr/lib")
    node.shell(f"mkdir -p /usr/lib/mesokit; ln -s {ours} /usr/lib/mesokit/plugins")
    status, _, errors = run_by_hand(node, task)
    assert status == 0, errors
    assert "ADD loopback eth0" in errors


def test_broken_network_files_are_named_at_once(node: Node, tmp_path: Path) -> None:
    (tmp_path / "net.d").mkdir()
    (tmp_path / "net.d/broken.json").write_text('{"name": "m", ')
    with agent_run(node, tmp_path, short("true", ["data-net"]), REFERENCE) as run:
        assert run.end() == 0
        (note,) = run.find("Note")
        assert "broken.json: line 1, column 15" in note["text"]
    with agent_run(node, tmp_path, short("true", []), REFERENCE) as run:
        assert run.end() == 0
        assert not run.find("Note"), "a task without networks has no interest in them"


def test_names_are_whole_and_output_has_them_in_front(node: Node) -> None:
    long = "a-task-with-a-rather-long-name"
    tasks = [
        {"name": long, "command": {"cmd": "echo one; printf two; printf '\\033[2Jthree' >&2"}},
        {"name": "b", "command": {"cmd": "echo four; exit 0"}},
    ]
    status, output, errors = run_by_hand(node, tasks, "--follow")
    assert status == 0, errors
    assert sorted(output.splitlines()) == [f"{long} | one", f"{long} | two", f"{'b':<{len(long)}} | four"]
    assert f"{long} | \\x1b[2Jthree" in errors
    assert f"{long} TASK_FINISHED" in errors
    alone = run_by_hand(node, tasks[1], "--follow")
    assert alone[1] == "four\n"


def test_colours_are_for_terminals_that_take_them(node: Node, tmp_path: Path) -> None:
    tasks = [{"name": name, "command": {"cmd": f"echo {name}"}} for name in ("one", "two")]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    command = f"{MESOKIT} run {tmp_path}/tasks.json --follow --executor {EXECUTOR}"

    def on_a_terminal(**env: str) -> str:
        return node.run(["script", "-qec", command, "/dev/null"], env=env).text

    assert "\x1b[36mone |\x1b[0m one" in on_a_terminal(TERM="xterm")
    assert "\x1b[" not in on_a_terminal(TERM="dumb")
    assert "\x1b[" not in on_a_terminal(TERM="xterm", NO_COLOR="1")
    assert b"\x1b[" not in node.run(["sh", "-c", command], env={"TERM": "xterm"}).stdout


def test_sandboxes_go_with_the_run_unless_they_are_to_stay(node: Node, tmp_path: Path) -> None:
    work = node.path("/var/lib/mesokit/agent")
    with agent_run(node, tmp_path, short("true", []), REFERENCE) as run:
        assert run.end() == 0
        kept = Path(run.find("ContainerGone")[0]["sandbox"])
    with agent_run(node, tmp_path, short("sleep 1001", []), REFERENCE) as other:
        living = Path(other.wait_for("ContainerStarted")["sandbox"])
        outside = node.path("/run/precious")
        outside.mkdir()
        (outside / "file").touch()
        cmd = "ln -s /run/precious link; mkdir -p a/b; touch a/b/c; mkfifo f; chmod 0 a"
        with agent_run(node, tmp_path, short(cmd, []), REFERENCE, keep=False) as run:
            assert run.end() == 0
            gone = Path(run.find("ContainerGone")[0]["sandbox"])
        assert not node.path(str(gone)).exists()
        assert node.path(str(kept)).exists()
        assert node.path(str(living)).exists()
        assert (outside / "file").exists()
        assert len(list((work / "slaves").iterdir())) == 2
        other.running.kill(signal.SIGTERM)
        other.end()


def test_the_last_words_of_a_failed_task_are_told(node: Node) -> None:
    status, _, errors = run_by_hand(node, short("echo it is broken >&2; exit 3", []))
    assert status == 1
    assert "it is broken" in errors
    assert not list(node.path("/var/lib/mesokit/agent").rglob("stderr"))


def test_ps_shows_addresses_and_that_nothing_is_there_is_no_error(node: Node, tmp_path: Path) -> None:
    nothing = node.run([MESOKIT, "ps"])
    assert (nothing.status, nothing.stdout) == (0, b"")
    assert b"no executor runs here" in nothing.stderr
    with agent_run(node, tmp_path, short("sleep 1001", ["data-net"]), REFERENCE) as run:
        run.wait_for("StatusUpdate", state="TASK_RUNNING")
        (update,) = run.find("StatusUpdate", state="TASK_RUNNING")
        address = update["addresses"][0].partition("/")[0]
        assert f"addresses {address}" in node.run([MESOKIT, "ps"]).text
        assert json.loads(node.run([MESOKIT, "ps", "--json"]).text)["addresses"] == [address]
        run.running.kill(signal.SIGTERM)
        run.end()


def test_watch_is_a_table_in_place_on_a_terminal_and_lines_elsewhere(node: Node, tmp_path: Path) -> None:
    tasks = [
        {"name": "web", "instances": 3, "command": {"cmd": "sleep 1001"}},
        {"name": "bad", "command": {"cmd": "printf '\\033[2Joops' >&2; exit 3"}},
    ]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    command = f"{MESOKIT} run {tmp_path}/tasks.json --watch --executor {EXECUTOR}"

    def interrupted(terminal: bool, **env: str) -> tuple[int, str]:
        """Ctrl-C once all of them run: what was shown."""
        line = f"stty cols 60 rows 30; exec {command}"
        words = ["script", "-qefc", line, "/dev/null"] if terminal else ["sh", "-c", f"exec {command}"]
        running = node.popen(words, env=env)
        shown = r"web-\d .*running|TASK_RUNNING"
        until(lambda: len(set(re.findall(r"web-\d", " ".join(_lines_with(running, shown))))) == 3, seconds=30)
        until(lambda: _lines_with(running, "failed|TASK_FAILED"))
        program, *_its_children = processes(node, rf"\S*python\S* \S*mesokit run {tmp_path}")
        node.run(["kill", "-INT", program])
        finished = running.wait()
        assert b"Traceback" not in finished.stdout + finished.stderr
        return finished.status, finished.stdout.decode()

    status, told = interrupted(terminal=True, TERM="xterm")
    assert status == 130
    assert "\x1b[32m" in told and "\x1b[5A\x1b[J" not in told and "\x1b[6A\x1b[J" in told
    assert "\x1b[2J" not in told and "SIGINT: killing the tasks" in told
    last = told.rpartition("\x1b[J")[2]
    assert re.search(r"web-1 +killed .*\n", last) and "4 tasks: 3 killed, 1 failed" in last
    bare = re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", told)
    assert max(len(line) for line in bare.splitlines() if line.startswith(("web", "bad", "TASK "))) <= 60
    status, told = interrupted(terminal=True, TERM="xterm", NO_COLOR="1")
    assert status == 130 and not re.search(r"\x1b\[\d+m", told) and "\x1b[6A" in told
    for terminal, term in ((True, "dumb"), (False, "xterm")):
        status, told = interrupted(terminal=terminal, TERM=term)
        assert status == 130 and "\x1b" not in told
        assert len(re.findall("web-. +TASK_KILLED", told)) == 3


def _lines_with(running: Running, pattern: str) -> list[str]:
    return [line for line in running.output().decode().splitlines() if re.search(pattern, line)]


def test_a_reader_that_leaves_ends_watch(node: Node, tmp_path: Path) -> None:
    (tmp_path / "task.json").write_text(json.dumps(short("sleep 1001", [])))
    command = f"{MESOKIT} run {tmp_path}/task.json --watch --executor {EXECUTOR}"
    told = node.run(["bash", "-c", f"{command} | head -n 1; exit ${{PIPESTATUS[0]}}"], check=False)
    assert told.status == 128 + signal.SIGPIPE and b"Traceback" not in told.stderr
