"""The machine that systemd boots keeps to itself, and nothing of it stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from netns_tests.machine import Machine
from netns_tests.node import until
from netns_tests.plugins import TOP

#: What systemd sets at boot where it may.
KERNEL_WIDE = ("fs/file-max", "fs/nr_open", "kernel/core_pattern", "kernel/pid_max", "kernel/printk")


def kernel_settings() -> dict[str, str]:
    return {name: Path("/proc/sys", name).read_text() for name in KERNEL_WIDE}


def test_it_changes_nothing_of_the_host() -> None:
    """Not its settings, not its mounts, not its control groups."""
    settings, mounts = kernel_settings(), Path("/proc/self/mountinfo").read_text()
    groups, name = Path("/proc/self/cgroup").read_text(), os.uname().nodename
    with Machine() as machine:
        assert machine.systemctl("is-system-running") == "running\n"
        assert machine.run(["sh", "-c", "echo 1 >/proc/sys/kernel/pid_max"], check=False).status != 0
        assert machine.shell("cat /sys/fs/cgroup/cgroup.procs /proc/1/cgroup").endswith("0::/init.scope\n")
        assert machine.shell("ls /sys/class/net") == "lo\n"
        machine.run(["touch", "/usr/bin/of-the-machine", "/etc/of-the-machine"])
        assert kernel_settings() == settings
        assert Path("/proc/self/mountinfo").read_text() == mounts
    assert Path("/proc/self/cgroup").read_text() == groups
    assert os.uname().nodename == name
    assert not Path("/usr/bin/of-the-machine").exists()
    assert not Path("/etc/of-the-machine").exists()


MAKER = """
from netns_tests.machine import Machine
with Machine() as machine:
    machine.popen(["sleep", "1000"])
    print(machine.pid, machine.keeper, flush=True)
    input()
"""


def make() -> tuple[subprocess.Popen[bytes], int, int]:
    """A process that has a machine, the machine's agent, its keeper."""
    pipe = subprocess.PIPE
    maker = subprocess.Popen([sys.executable, "-c", MAKER], stdin=pipe, stdout=pipe, cwd=TOP)
    assert maker.stdout is not None
    agent, keeper = map(int, maker.stdout.readline().split())
    return maker, agent, keeper


def group(agent: int) -> Path:
    """The control group of the machine in which `agent` runs, as this process can see it."""
    groups = Path(f"/proc/{agent}/cgroup").read_text().splitlines()
    (own,) = [line.removeprefix("0::").strip("/") for line in groups if line.startswith("0::")]
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[fields.index("-") + 1] == "cgroup2":
            return Path(fields[4], own).parent
    raise AssertionError("no unified hierarchy is mounted here")


def ends(agent: int) -> None:
    until(lambda: not Path(f"/proc/{agent}").exists(), what="the machine has ended")


def test_it_ends_with_the_process_that_made_it() -> None:
    maker, agent, keeper = make()
    own = group(agent)
    assert own.is_dir()
    assert own.name == f"mesokit-machine-{keeper}"
    maker.send_signal(signal.SIGKILL)
    maker.communicate()
    ends(agent)
    until(lambda: not own.exists(), what="its control group has gone")


def test_it_ends_with_its_keeper() -> None:
    """The next machine removes the control group that nobody was left to remove."""
    maker, agent, keeper = make()
    own = group(agent)
    os.kill(keeper, signal.SIGKILL)
    ends(agent)
    maker.kill()
    maker.communicate()
    with Machine():
        assert not own.exists()


LOOK = """
from netns_tests.node import Node
with Node() as node:
    print(node.shell("find /usr /etc /opt /run -name '*mesokit*' -not -path '*/site-packages/*'"))
"""


def test_what_is_installed_is_not_seen(installed: Machine) -> None:
    """Tests are about the checkout, whatever the machine has installed."""
    find = ["find", "/usr", "-name", "*mesokit*"]
    assert "/usr/bin/mesokit\n" in installed.run(find).text
    python = f"{TOP}/.venv/bin/python"
    assert installed.run([python, "-c", LOOK], cwd=str(TOP)).text.strip() == ""
    assert "/usr/bin/mesokit\n" in installed.run(find).text
