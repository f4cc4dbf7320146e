"""The node service under a real systemd: started by its socket, restarted, killed and stopped under calls.

The package is installed by dpkg; what becomes of it later is in test_systemd_package.py.
"""

from __future__ import annotations

import random
import shutil
import signal
from functools import partial

import pytest

from netns_tests.load import bridge, load
from netns_tests.machine import Machine
from netns_tests.node import until
from netns_tests.snapshot import assert_clean, snapshot
from netns_tests.unit import (
    FILES,
    ITSELF,
    PATH,
    PLUGINS,
    SERVICE,
    SOCKET,
    address,
    alive,
    anew,
    call,
    calls,
    foreign,
    main_pid,
    processes,
    start_waiting,
    status,
    waiting,
)

pytestmark = pytest.mark.timeout(900)  # the first of them builds


def test_the_first_call_starts_the_service(installed: Machine) -> None:
    """And is served by it: the kernel has the attachment, the service has the call."""
    machine, box = installed, installed.netns("c1")
    assert machine.systemctl("is-enabled", SOCKET) == "enabled\n"
    assert machine.property(SOCKET, "ActiveState") == "active"
    assert machine.property(SERVICE, "ActiveState") == "inactive"
    socket = machine.path(PATH).stat()
    assert (socket.st_mode & 0o777, socket.st_uid, socket.st_gid) == (0o600, 0, 0)
    before = snapshot(machine, [box], FILES)
    result = call(machine, "ADD", box).ok()
    assert result["ips"][0]["address"] == f"{address(box)}/16"
    assert calls(machine) == {"ADD": 1}
    assert str(status(machine)["pid"]) in processes(machine)
    call(machine, "CHECK", box, bridge(prevResult=result)).ok()
    call(machine, "DEL", box).ok()
    assert calls(machine) == {"ADD": 1, "CHECK": 1, "DEL": 1}
    assert_clean(machine, before, boxes=[box], files=FILES, allowed=ITSELF)


def test_what_systemd_says_of_it(installed: Machine) -> None:
    machine = installed
    call(machine, "VERSION", machine.netns("c1")).ok()
    assert machine.property(SERVICE, "Type") == "notify"
    assert machine.property(SERVICE, "ActiveState") == "active"
    assert machine.property(SERVICE, "SubState") == "running"
    assert "Active: active (running)" in machine.systemctl("status", SERVICE)
    assert "Active: active (running)" in machine.systemctl("status", SOCKET)
    assert machine.systemctl("is-system-running") == "running\n"
    said = machine.journal(SERVICE).splitlines()
    assert [line.split()[0] for line in said] == ["Starting", "Started"], "and nothing of its own"


def test_a_service_is_started_when_it_is_ready(installed: Machine) -> None:
    """`systemctl start` waits for its word: the status is answered at once, by it."""
    installed.systemctl("start", SERVICE)
    assert str(status(installed)["pid"]) in processes(installed)
    assert installed.property(SERVICE, "NotifyAccess") == "main"


def test_only_root_reaches_it(installed: Machine) -> None:
    knock = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    refused = installed.run([*nobody, "python3", "-c", knock, PATH], check=False)
    assert b"PermissionError" in refused.stderr
    assert main_pid(installed) == "0"


def test_restarts_turn_no_call_away(installed: Machine) -> None:
    machine = installed
    boxes = [machine.netns(f"c{number}") for number in range(3)]
    before = snapshot(machine, boxes, FILES)
    with load(machine, PLUGINS, boxes) as running:
        for _ in range(4):
            running.more()
            old = main_pid(machine)
            machine.systemctl("restart", SERVICE)
            assert anew(machine, old)
        running.more()
        assert calls(machine)["ADD"] > 2, "the new one serves"
    assert machine.property(SERVICE, "NRestarts") == "0", "it stopped each time because it was told to"
    assert_clean(machine, before, boxes=boxes, files=FILES, allowed=ITSELF)


def test_an_upgrade_of_systemd_goes_unnoticed(installed: Machine) -> None:
    """systemd executes itself anew and keeps the socket and the service."""
    machine = installed
    boxes = [machine.netns(f"c{number}") for number in range(2)]
    with load(machine, PLUGINS, boxes) as running:
        running.more(1)
        old = main_pid(machine)
        machine.systemctl("daemon-reexec")
        running.more()
        assert main_pid(machine) == old
        machine.systemctl("restart", SERVICE)
        running.more()


@pytest.mark.parametrize("victim", ["main", "any"])
def test_killed_under_calls_it_comes_again(installed: Machine, victim: str) -> None:
    """kill -9 of the main process, or of any other that it may have: launchers finish what it began."""
    machine, chance = installed, random.Random(20261126)
    boxes = [machine.netns(f"c{number}") for number in range(3)]
    before = snapshot(machine, boxes, FILES)
    with load(machine, PLUGINS, boxes) as running:
        for _ in range(5):
            running.more(1)
            old = main_pid(machine)
            pid = old if victim == "main" else chance.choice(processes(machine))
            machine.run(["kill", "-KILL", pid], check=False)  # a foreign plugin may have ended by itself
            if pid == old:
                until(partial(anew, machine, old), what="the service runs again")
        running.more()
    assert machine.property(SERVICE, "ActiveState") == "active"
    assert_clean(machine, before, boxes=boxes, files=FILES, allowed=ITSELF)


def test_a_restart_waits_for_the_call_in_work(installed: Machine) -> None:
    """The call ends as if nothing were, its foreign plugin undisturbed; one that comes meanwhile is done."""
    machine, box, other = installed, installed.netns("c1"), installed.netns("c2")
    ended = start_waiting(machine, box)
    old = main_pid(machine)
    machine.systemctl("restart", "--no-block", SERVICE)
    until(lambda: machine.property(SERVICE, "ActiveState") == "deactivating")
    call(machine, "ADD", other).ok()
    machine.shell("touch /run/go")
    assert ended().ok()["ips"][0]["address"] == f"{address(box)}/16"
    until(partial(anew, machine, old))
    assert len(waiting(machine)) == 1, "it was not run a second time"
    assert machine.property(SERVICE, "Result") == "success"


def test_killed_in_mid_call_it_takes_its_foreign_plugins_along(installed: Machine) -> None:
    """The launcher does the call again; what the dead service had started cannot get in its way."""
    machine, box = installed, installed.netns("c1")
    before = snapshot(machine, [box], FILES)
    ended = start_waiting(machine, box)
    old = main_pid(machine)
    (abandoned,) = waiting(machine)
    machine.run(["kill", f"-{signal.SIGKILL}", old])
    until(lambda: len(waiting(machine)) == 2, what="the call is done again")
    until(lambda: not alive(machine, abandoned))
    machine.shell("touch /run/go")
    assert ended().ok()["ips"][0]["address"] == f"{address(box)}/16"
    until(partial(anew, machine, old))
    conf = bridge(ipam={"type": "wait-ipam"})
    call(machine, "DEL", box, conf, cni_path="/opt/cni/bin").ok()
    assert_clean(machine, before, boxes=[box], files=FILES, allowed=ITSELF)


def test_stopped_it_is_started_by_the_next_call(installed: Machine) -> None:
    machine, box = installed, installed.netns("c1")
    call(machine, "ADD", box).ok()
    machine.systemctl("stop", SERVICE)
    assert main_pid(machine) == "0"
    assert machine.property(SOCKET, "ActiveState") == "active"
    call(machine, "DEL", box).ok()
    assert calls(machine) == {"DEL": 1}


def test_without_its_socket_calls_are_done_one_shot(installed: Machine) -> None:
    """And the socket started again finds the service that starts with it."""
    machine, box = installed, installed.netns("c1")
    before = snapshot(machine, [box], FILES)
    call(machine, "ADD", box).ok()
    machine.systemctl("stop", SOCKET)
    assert machine.property(SERVICE, "ActiveState") == "inactive", "it ends with its socket"
    assert not machine.path(PATH).exists()
    call(machine, "DEL", box).ok()
    call(machine, "ADD", box).ok()
    assert main_pid(machine) == "0"
    told = machine.run(["mesokit", "node", "status"], check=False)
    assert (told.status, b"no node service listens" in told.stderr) == (1, True)
    machine.systemctl("start", SOCKET)
    call(machine, "DEL", box).ok()
    assert calls(machine) == {"DEL": 1}
    assert_clean(machine, before, boxes=[box], files=FILES, allowed=ITSELF)


def test_one_that_cannot_start_is_no_obstacle(installed: Machine) -> None:
    """A call is done one-shot; the socket does not give up, so that a service put right is found."""
    machine, box = installed, installed.netns("c1")
    folder = f"/run/systemd/system/{SERVICE}.d"
    machine.path(folder).mkdir(parents=True)
    machine.path(f"{folder}/broken.conf").write_text("[Service]\nExecStart=\nExecStart=/bin/false\n")
    machine.systemctl("daemon-reload")
    call(machine, "ADD", box).ok()
    assert machine.property(SOCKET, "ActiveState") == "active"
    machine.shell(f"rm -r {folder}; systemctl daemon-reload")
    until(partial(anew, machine, "0"), what="the service starts")
    call(machine, "DEL", box).ok()
    assert calls(machine) == {"DEL": 1}


REPORT = """#!/bin/sh
[ "$CNI_COMMAND" = ADD ] || exit 0
{ grep -E '^(NoNewPrivs|Seccomp|Cap...):' /proc/self/status
  readlink /proc/self/ns/mnt /proc/self/ns/pid; pwd; umask
} > /run/seen
echo '{"cniVersion":"1.0.0","ips":[{"address":"10.9.7.7/16"}]}'
"""


def test_plugins_of_others_may_what_they_may_without_it(installed: Machine) -> None:
    """Privileges, system calls, mounts: the unit takes nothing away that a one-shot call has."""
    machine, box = installed, installed.netns("c1")
    foreign(machine, "report", REPORT)
    conf = bridge(ipam={"type": "report"})

    def seen() -> str:
        for verb in ("ADD", "DEL"):
            call(machine, verb, box, conf, cni_path="/opt/cni/bin").ok()
        return machine.path("/run/seen").read_text()

    served = seen()
    assert calls(machine) == {"ADD": 1, "DEL": 1}
    machine.systemctl("stop", SOCKET)
    assert seen() == served


def test_a_reference_plugin_works_in_it(installed: Machine, reference: str) -> None:
    """`firewall`, which runs iptables, in a chain behind our bridge."""
    machine, box = installed, installed.netns("c1")
    conf = {
        "cniVersion": "1.0.0",
        "name": "net",
        "type": "chain",
        "plugins": [bridge(), {"type": "firewall"}],
    }

    def chain(verb: str) -> None:
        path = f"{PLUGINS}:{reference}"
        machine.cni(verb, f"{PLUGINS}/chain", conf, "c1", box, cni_path=path).ok()

    chain("ADD")
    own = f"-s {address(box)}/32"
    assert own in machine.run(["iptables", "-S"]).text
    chain("DEL")
    assert own not in machine.run(["iptables", "-S"]).text
    assert calls(machine) == {"ADD": 1, "DEL": 1}


def test_it_needs_none_of_its_files_while_it_runs(installed: Machine) -> None:
    """An upgrade replaces them under it. Calls of all plugins, good and bad ones, are served as before."""
    machine, box = installed, installed.netns("c1")
    call(machine, "VERSION", box).ok()
    shutil.rmtree(machine.path("/usr/lib/mesokit/mesokit-cni.d"))
    for conf in (bridge(), bridge(ipam={"type": "static", "addresses": [{"address": "10.9.7.7/16"}]})):
        result = call(machine, "ADD", box, conf).ok()
        call(machine, "CHECK", box, {**conf, "prevResult": result}).ok()
        call(machine, "DEL", box, conf).ok()
    for plugin in sorted(path.name for path in machine.path(PLUGINS).iterdir()):
        for verb in ("ADD", "CHECK", "STATUS", "GC", "DEL"):
            poor = {"cniVersion": "1.1.0", "name": "n", "type": plugin, "plugins": [{}], "ipam": {}}
            answered = machine.cni(verb, f"{PLUGINS}/{plugin}", poor, "c1", box)
            assert "mesokit-cni.d" not in str(answered.error), "a launcher found no service, and no bundle"
    assert main_pid(machine) != "0"
    assert "Traceback" not in machine.journal(SERVICE)
