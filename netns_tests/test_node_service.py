"""The node service as plugins meet it: same answers, other namespaces, and every way for it to be gone."""

from __future__ import annotations

import json
import random
import signal
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from netns_tests.compare import OF_THE_CALL
from netns_tests.node import Answer, Netns, Node, Running, answer, started, until
from netns_tests.plugins import MESOKIT, remove_sockets, service, signal_service
from netns_tests.process import memory_of
from netns_tests.snapshot import assert_clean, snapshot

SOCKET = "/run/mesokit/node.sock"


def bridge(**keys: Any) -> dict[str, Any]:
    return {
        "cniVersion": "1.0.0",
        "name": "net",
        "type": "bridge",
        "bridge": "br0",
        "isGateway": True,
        "ipam": {"type": "host-local", "subnet": "10.9.0.0/16"},
        **keys,
    }


def start(node: Node, *arguments: str) -> Running:
    """A service that listens, where none did."""
    running = node.popen([MESOKIT, "node", *arguments])
    until(lambda: running.errors() or node.path(SOCKET).is_socket(), what="the node service listens")
    return running


def _replaced(node: Node, pid: int) -> bool:
    return bool(status(node)["pid"] != pid)


def status(node: Node) -> dict[str, Any]:
    answered = node.json(MESOKIT, "node", "status", "--json")
    assert isinstance(answered, dict)
    return answered


def in_parallel(count: int, work: Callable[[int], object]) -> None:
    """Runs `work(0..count-1)` at once; the first failure is raised here."""
    failures: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def records(node: Node) -> list[list[dict[str, Any]]]:
    """Attachment records, without what differs from one call to the next."""
    found = []
    for path in sorted(node.path("/run/mesokit/attachments").rglob("*")):
        if path.is_file():
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            for line in lines:
                for name in OF_THE_CALL:
                    line.pop(name, None)
            found.append(lines)
    return found


def normal(value: Any) -> str:
    """JSON without hardware addresses and the names of veths, which are drawn by lot."""
    text = json.dumps(value)
    for word in set(text.replace('"', " ").replace(",", " ").split()):
        if word.count(":") == 5 or (word.startswith("veth") and word != "veth"):  # which is a kind of step
            text = text.replace(word, "X")
    return text


def test_with_and_without_service_all_is_the_same(node: Node, ours: str) -> None:
    """Results, errors, records and what `VERSION` says."""

    def everything(box: Netns) -> list[Any]:
        told: list[Any] = []

        def call(verb: str, plugin: str, conf: dict[str, Any], **more: Any) -> Answer:
            answered = node.cni(verb, f"{ours}/{plugin}", conf, "c1", box, **more)
            told.append((verb, plugin, answered.result, answered.error, answered.finished.status))
            return answered

        loopback = {"cniVersion": "1.0.0", "name": "lo", "type": "loopback"}
        call("ADD", "loopback", loopback, ifname="lo")
        call("DEL", "loopback", loopback, ifname="lo")
        result = call("ADD", "bridge", bridge()).ok()
        told.append(records(node))
        call("CHECK", "bridge", bridge(prevResult=result))
        call("ADD", "bridge", bridge())
        call("DEL", "bridge", bridge())
        call("DEL", "bridge", bridge())
        call("ADD", "bridge", bridge(cniVersion="9.9.9"))
        call("ADD", "bridge", bridge(mtu="many"))
        call("ADD", "bridge", bridge(), ifname="much-too-long-for-one")
        call("NONSENSE", "bridge", bridge())
        call("VERSION", "bridge", {})
        call("STATUS", "host-local", {"cniVersion": "1.1.0", "name": "n", "ipam": {"type": "host-local"}})
        return told

    alone = everything(node.netns("c1"))
    node.run(["ip", "netns", "del", "c1"])
    node.shell("rm -rf /var/lib/cni/networks/*")
    with service(node):
        assert normal(everything(node.netns("c1"))) == normal(alone)
        assert sum(row["calls"] for row in status(node)["calls"]) == 13
    assert any(row[3] for row in alone if isinstance(row, tuple)), "some of the calls are meant to fail"


def test_the_caller_decides_whose_host_it_is(node: Node, ours: str) -> None:
    """A caller in another network namespace gets its bridge there, not where the service lives."""
    elsewhere, box = node.netns("elsewhere"), node.netns("c1")
    with service(node):
        env = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_NETNS": box.path, "CNI_IFNAME": "eth0"}
        env["CNI_PATH"] = ours
        finished = elsewhere.run([f"{ours}/bridge"], input=json.dumps(bridge()), env=env)
        assert answer(finished).ok()["ips"]
        assert status(node)["calls"][0]["calls"] == 1
        assert elsewhere.json("ip", "-j", "link", "show", "br0")
        assert node.run(["ip", "link", "show", "br0"], check=False).status != 0
        elsewhere.run([f"{ours}/bridge"], input=json.dumps(bridge()), env={**env, "CNI_COMMAND": "DEL"})
        assert elsewhere.run(["ip", "link", "show", "br0"], check=False).status != 0


def test_killed_in_the_middle_of_calls_nothing_fails_and_nothing_leaks(node: Node, ours: str) -> None:
    """kill -9 at random moments under ADDs and DELs; the launchers finish what the service began."""
    boxes = [node.netns(f"c{number}") for number in range(6)]
    before = snapshot(node, boxes)
    chance = random.Random(20261122)
    for victims in ("all", "workers", "keeper", "all"):
        with started(start(node)):
            pause = chance.uniform(0, 0.06)

            def work(number: int) -> None:
                for verb in ("ADD", "DEL", "ADD"):
                    node.cni(verb, f"{ours}/bridge", bridge(), f"c{number}", boxes[number]).ok()

            killer = threading.Timer(pause, signal_service, (node, "KILL", victims))
            killer.start()
            in_parallel(len(boxes), work)
            killer.join()
            signal_service(node, "KILL")
        remove_sockets(node)
        addresses = [box.json("ip", "-j", "-4", "addr", "show", "eth0") for box in boxes]
        assert len({each[0]["addr_info"][0]["local"] for each in addresses}) == len(boxes)
        for number, box in enumerate(boxes):
            node.cni("DEL", f"{ours}/bridge", bridge(), f"c{number}", box).ok()
        assert_clean(node, before, boxes=boxes)


@pytest.mark.parametrize("plugin", ["bridge", "host-local"])
def test_an_answer_lost_after_the_work_was_done_is_given_again(node: Node, ours: str, plugin: str) -> None:
    """The service is stopped before it can answer and killed: the launcher's repetition is no second ADD."""
    box = node.netns("c1")
    conf = bridge() if plugin == "bridge" else bridge(type="host-local")
    with started(start(node)) as running:
        first = node.cni("ADD", f"{ours}/{plugin}", conf, "c1", box, env={"MESOKIT_ROOT": ""}).ok()
        running.kill(signal.SIGKILL)
        running.wait()
    call = {} if plugin != "bridge" else {"MESOKIT_CALL": call_id(node)}
    again = node.run(
        [MESOKIT.replace("/mesokit", "/python"), "-m", "cni_plugins.main"],
        input=json.dumps(conf),
        env={
            "CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_NETNS": box.path, "CNI_IFNAME": "eth0",
            "CNI_PATH": ours, "MESOKIT_PLUGIN": plugin, "MESOKIT_REPEATS": "1", **call,
        },
    )  # fmt: skip
    repeated = json.loads(again.stdout)
    if plugin == "bridge":
        assert repeated == first
    else:
        assert len(repeated["ips"]) == 1
        reserved = [each.name for each in node.path("/var/lib/cni/networks/net").iterdir()]
        assert len([name for name in reserved if name.startswith("10.9.")]) == 1


def call_id(node: Node) -> str:
    (record,) = [path for path in node.path("/run/mesokit/attachments").rglob("*") if path.is_file()]
    found = json.loads(record.read_text().splitlines()[0])["call"]
    assert isinstance(found, str)
    assert found
    return found


def test_services_come_and_go_under_load(node: Node, ours: str) -> None:
    """Successors take the socket over, the last one is stopped, a new one starts: no call notices."""
    boxes = [node.netns(f"c{number}") for number in range(4)]
    before = snapshot(node, boxes)
    done = threading.Event()
    calls = [0] * len(boxes)

    def work(number: int) -> None:
        while not done.is_set():
            for verb in ("ADD", "DEL"):
                node.cni(verb, f"{ours}/bridge", bridge(), f"c{number}", boxes[number]).ok()
                calls[number] += 1

    def replace(_: int) -> None:
        try:
            running = [start(node)]
            for _ in range(3):
                successor = node.popen([MESOKIT, "node"])
                assert running[-1].wait().status == 0
                running.append(successor)
            running[-1].kill(signal.SIGTERM)
            assert running[-1].wait().status == 0
            assert not node.path(SOCKET).exists()
            with started(start(node)):
                seen = sum(calls)
                until(lambda: sum(calls) > seen + 8)
            remove_sockets(node)
        finally:
            done.set()

    in_parallel(len(boxes) + 1, lambda number: replace(number) if number == len(boxes) else work(number))
    assert_clean(node, before, boxes=boxes)


def test_a_stopped_service_is_no_obstacle(node: Node, ours: str) -> None:
    """One that takes connections and does nothing: the launcher waits five seconds and works by itself."""
    box = node.netns("c1")
    with started(start(node)):
        assert status(node)["workers"]  # all of them are there to be stopped
        signal_service(node, "STOP")
        node.cni("ADD", f"{ours}/bridge", bridge(), "c1", box).ok()
        signal_service(node, "CONT")
        node.cni("DEL", f"{ours}/bridge", bridge(), "c1", box).ok()
        calls = {row["verb"]: row["calls"] for row in status(node)["calls"]}
        assert calls == {"DEL": 1}


def test_a_slow_plugin_of_others_holds_up_nobody(node: Node, ours: str) -> None:
    boxes = [node.netns("c0"), node.netns("c1")]
    slow = node.path("/opt/slow")
    slow.mkdir(parents=True)
    (slow / "wait-ipam").write_text(
        "#!/bin/sh\n"
        '[ "$CNI_COMMAND" = ADD ] || exit 0\n'
        "touch /run/waiting\n"
        "while [ ! -e /run/go ]; do sleep 0.05; done\n"
        'echo \'{"cniVersion":"1.0.0","ips":[{"address":"10.9.7.7/16","gateway":"10.9.0.1"}]}\'\n'
    )
    (slow / "wait-ipam").chmod(0o755)
    with service(node):
        conf = bridge(ipam={"type": "wait-ipam"})
        waiting = node.cni_start("ADD", f"{ours}/bridge", conf, "c0", boxes[0], cni_path="/opt/slow")
        until(node.path("/run/waiting").exists)
        node.cni("ADD", f"{ours}/bridge", bridge(name="other"), "c1", boxes[1]).ok()
        assert status(node)["running_calls"] == 1
        node.shell("touch /run/go")
        assert answer(waiting.wait()).ok()["ips"][0]["address"] == "10.9.7.7/16"


def test_only_root_is_served(node: Node, ours: str) -> None:
    with service(node):
        assert node.path(SOCKET).stat().st_mode & 0o777 == 0o600
        node.shell(f"chmod 0666 {SOCKET}")
        nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        assert node.run([*nobody, "python3", "-c", KNOCK, SOCKET]).text == "nothing\n"
        assert "200 OK" in node.run(["python3", "-c", KNOCK, SOCKET]).text


KNOCK = """
import socket, sys
with socket.socket(socket.AF_UNIX) as asking:
    asking.connect(sys.argv[1])
    try:
        asking.sendall(b"GET /status HTTP/1.0")
        print(asking.recv(20).decode() or "nothing")
    except (BrokenPipeError, ConnectionResetError):
        print("nothing")
"""

ACTIVATE = """
import os, socket, sys
listening = socket.socket(socket.AF_UNIX)
os.makedirs("/run/mesokit", exist_ok=True)
listening.bind("/run/mesokit/node.sock")
listening.listen(64)
os.dup2(listening.fileno(), 3)
os.set_inheritable(3, True)
while True:
    if os.fork() == 0:
        os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
        os.execv(sys.argv[1], [sys.argv[1], "node"])
    os.wait()
"""


def test_the_socket_of_systemd_outlives_the_service(node: Node, ours: str) -> None:
    """A stand-in for systemd keeps the socket: calls made while no service runs wait for the next one."""
    box = node.netns("c1")
    with started(node.popen(["python3", "-c", ACTIVATE, MESOKIT])):
        for _ in range(3):
            node.cni("ADD", f"{ours}/bridge", bridge(), "c1", box).ok()
            pid = status(node)["pid"]
            node.run(["kill", "-TERM", str(pid)])
            node.cni("DEL", f"{ours}/bridge", bridge(), "c1", box).ok()
            assert node.path(SOCKET).exists()
            until(partial(_replaced, node, pid))


@pytest.mark.cold
def test_memory_stays_flat(node: Node, ours: str) -> None:
    box = node.netns("c1")

    def rounds(count: int) -> int:
        for _ in range(count):
            node.cni("ADD", f"{ours}/bridge", bridge(), "c1", box).ok()
            node.cni("DEL", f"{ours}/bridge", bridge(), "c1", box).ok()
        told = status(node)
        assert told["memory_bytes"]["pss"] < 45e6
        return sum(memory_of(node.path(f"/proc/{pid}")) for pid in (told["pid"], *told["workers"]))

    with service(node):
        sizes = [rounds(40)]
        # A worker that has its first calls late writes to what it shared until then, once.
        while len(sizes) == 1 or (sizes[-1] - sizes[-2] >= 1500 and len(sizes) < 5):
            sizes.append(rounds(150))
    assert sizes[-1] - sizes[-2] < 1500, sizes


def test_metrics_on_the_socket_and_on_a_loopback_port(node: Node, ours: str) -> None:
    box = node.netns("c1")
    with started(start(node, "--metrics-port", "9274")):
        node.cni("ADD", f"{ours}/bridge", bridge(), "c1", box).ok()
        node.cni("ADD", f"{ours}/bridge", bridge(ipam={"type": "absent"}), "c2", box, ifname="eth1")
        text = node.run(["busybox", "wget", "-q", "-O-", "http://127.0.0.1:9274/metrics"]).text
        assert 'mesokit_node_call_seconds_count{plugin="bridge",verb="ADD"} 2' in text
        assert 'mesokit_node_errors_total{plugin="bridge",verb="ADD",code="7"} 1' in text
        assert node.run([MESOKIT, "node", "metrics"]).text.startswith("# HELP mesokit_node_info")
        shown = node.run([MESOKIT, "node", "status"]).text
        assert "bridge" in shown


def test_without_a_service_status_says_how_to_start_one(node: Node) -> None:
    finished = node.run([MESOKIT, "node", "status"], check=False)
    assert finished.status == 1
    assert b"mesokit node" in finished.stderr


def test_the_launcher_says_what_is_missing(node: Node, ours: str) -> None:
    """Copied without its bundle, and no service: an error object, not a crash."""
    node.shell(f"mkdir -p /opt/alone && cp {ours}/bridge /opt/alone/bridge")
    answered = node.cni("ADD", "/opt/alone/bridge", bridge(), "c1", node.netns("c1"))
    assert answered.code == 5
    assert answered.error is not None
    assert "mesokit-cni.d" in answered.error["msg"]


def test_a_person_who_starts_a_plugin_is_told_what_it_is(node: Node, ours: str) -> None:
    finished = node.run([f"{ours}/bridge"])
    assert finished.stdout == b""
    assert b"CNI protocol versions supported" in finished.stderr


def test_failed_calls_are_told_and_kept(node: Node, ours: str) -> None:
    """In the service's log and in one place for all, with whose they were; so are those without one."""
    broken = bridge(ipam={"type": "absent"})
    node.cni("ADD", f"{ours}/bridge", broken, "alone", node.netns("alone"))
    with started(start(node)) as running:
        node.cni("ADD", f"{ours}/bridge", broken, "c1", node.netns("c1"), ifname="net7")
        until(lambda: b"net7" in running.errors())
        line = running.errors().decode()
        assert "ADD of bridge failed: network net, container c1, interface net7: code" in line
        assert "absent" in line
        found = status(node)["failures"]
        by = [(each["container"], each["by"]) for each in found]
        assert by == [("alone", "one-shot"), ("c1", "service")]
        assert found[1].items() >= {"network": "net", "plugin": "bridge", "verb": "ADD"}.items()
        assert "absent" in node.run([MESOKIT, "node", "status"]).text
    told = node.run([MESOKIT, "node", "failures", "--json", "-n", "1"]).text
    assert json.loads(told)["container"] == "c1"
    assert "alone" in node.run([MESOKIT, "node", "failures"]).text
