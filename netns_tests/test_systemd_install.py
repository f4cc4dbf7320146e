"""packaging/install and packaging/uninstall, their Python parts, on a machine with systemd."""

from __future__ import annotations

import sys

import pytest

from netns_tests.load import load
from netns_tests.machine import Machine
from netns_tests.plugins import TOP
from netns_tests.snapshot import assert_clean, snapshot
from netns_tests.unit import (
    FILES,
    ITSELF,
    PATH,
    SERVICE,
    SOCKET,
    address,
    anew,
    attached,
    call,
    calls,
    main_pid,
    socket_since,
)

pytestmark = [pytest.mark.timeout(900), pytest.mark.usefixtures("built")]  # the first of them builds

PLUGINS = "/opt/cni/bin"
BRIDGE = f"{PLUGINS}/bridge"


def run(machine: Machine, script: str, *arguments: str) -> str:
    """What `install` or `uninstall` prints; they have nothing to complain about."""
    ended = machine.run([sys.executable, "-B", str(TOP / f"packaging/bundle/{script}.py"), *arguments])
    assert ended.stderr == b""
    return ended.text


def release(machine: Machine) -> str:
    """The release that the service's process runs in."""
    program = machine.shell(f"readlink /proc/{main_pid(machine)}/exe")
    return program.partition("/releases/")[2].partition("/")[0]


def other_release(machine: Machine) -> str:
    """The build in the checkout counts as another one, on this machine only."""
    machine.shell(f"echo 99.0 other >/run/release; mount --bind /run/release {TOP}/build/release/RELEASE")
    return "99.0-other"


def test_installed_it_is_started_by_a_call(machine: Machine) -> None:
    said = run(machine, "install")
    assert "its socket is enabled, and the first call starts it" in said
    assert machine.systemctl("is-enabled", SOCKET) == "enabled\n"
    assert machine.property(SOCKET, "ActiveState") == "active"
    assert main_pid(machine) == "0"
    box = machine.netns("c1")
    before = snapshot(machine, [box], FILES)
    result = call(machine, "ADD", box, plugin=BRIDGE).ok()
    assert result["ips"][0]["address"] == f"{address(box)}/16"
    call(machine, "DEL", box, plugin=BRIDGE).ok()
    assert calls(machine) == {"ADD": 1, "DEL": 1}
    assert_clean(machine, before, boxes=[box], files=FILES, allowed=ITSELF)


def test_a_second_time_changes_nothing(machine: Machine) -> None:
    run(machine, "install")
    call(machine, "VERSION", machine.netns("c1"), plugin=BRIDGE).ok()
    old, opened = main_pid(machine), socket_since(machine)
    said = run(machine, "install").splitlines()
    assert [line for line in said if "is there already" not in line] == ["the node service is running"]
    assert (main_pid(machine), socket_since(machine)) == (old, opened)


def test_an_upgrade_under_calls(machine: Machine) -> None:
    """No call fails, the socket stays open, and the old release goes with the service that ran in it."""
    run(machine, "install")
    kept = machine.netns("kept")
    boxes = [machine.netns(f"c{number}") for number in range(3)]
    before = snapshot(machine, [*boxes, kept], FILES)
    call(machine, "ADD", kept, plugin=BRIDGE).ok()
    opened, first = socket_since(machine), release(machine)
    with load(machine, PLUGINS, boxes) as running:
        running.more()
        old, newer = main_pid(machine), other_release(machine)
        said = run(machine, "install")
        assert anew(machine, old)
        running.more()
    assert f"the node service was restarted: it is release {newer} now" in said
    assert release(machine) == newer
    assert socket_since(machine) == opened
    assert (f"removed the old release {first}" in said) != (f"kept the old release {first}" in said)
    run(machine, "install")
    releases = machine.path("/usr/local/lib/mesokit/releases")
    assert [path.name for path in releases.iterdir()] == [newer]
    assert attached(machine, kept)
    call(machine, "DEL", kept, plugin=BRIDGE).ok()
    assert_clean(machine, before, boxes=[*boxes, kept], files=FILES, allowed=ITSELF)


def test_an_upgrade_leaves_no_old_release(machine: Machine) -> None:
    """When only the service ran in it."""
    run(machine, "install")
    call(machine, "VERSION", machine.netns("c1"), plugin=BRIDGE).ok()
    first, newer = release(machine), other_release(machine)
    assert f"removed the old release {first}" in run(machine, "install")
    assert release(machine) == newer


def gone(machine: Machine) -> None:
    """Nothing is left of the service."""
    for unit in (SERVICE, SOCKET):
        assert machine.property(unit, "ActiveState") == "inactive"
        assert machine.property(unit, "LoadState") == "not-found"
    assert machine.shell("find /etc/systemd /usr/local -name 'mesokit-node.s*'") == ""
    assert not machine.path(PATH).exists()
    assert machine.systemctl("is-system-running") == "running\n"


def test_uninstalled_and_installed_again(machine: Machine) -> None:
    """Containers keep their network, and what undoes it."""
    box = machine.netns("c1")
    before = snapshot(machine, [box], FILES)
    files = "find /usr/local /opt /etc/systemd ! -type d | sort"
    found = machine.shell(files)
    run(machine, "install")
    call(machine, "ADD", box, plugin=BRIDGE).ok()
    said = run(machine, "uninstall")
    assert "stopped the node service" in said
    gone(machine)
    assert attached(machine, box)
    assert machine.shell(files) == found
    run(machine, "install")
    call(machine, "DEL", box, plugin=BRIDGE).ok()
    assert calls(machine) == {"DEL": 1}
    run(machine, "uninstall")
    assert_clean(machine, before, boxes=[box], files=FILES)


def test_the_service_given_up(machine: Machine) -> None:
    """Installed again without it: its units are gone, and calls are done one-shot."""
    run(machine, "install")
    box = machine.netns("c1")
    call(machine, "ADD", box, plugin=BRIDGE).ok()
    said = run(machine, "install", "--no-service")
    assert "stopped the node service" in said
    assert "no node service: plugins do their work themselves" in said
    gone(machine)
    call(machine, "DEL", box, plugin=BRIDGE).ok()
    assert "the first call starts it" in run(machine, "install")
    call(machine, "VERSION", box, plugin=BRIDGE).ok()
    assert main_pid(machine) != "0"
