"""A machine that is booted by systemd: what makes it, its first process until systemd takes over, its end.

Three processes, all of this file (machine.py starts the first):

    keeper    outside. Makes the control group, waits until the agent has gone, ends process 1 and with it the
              machine, and removes the group. If it is killed itself, process 1 dies with it, and the next
              machine's keeper removes the empty group.
    process 1 in new namespaces of every kind but user: mounts what a machine has, then executes systemd.
    agent     its child, in the same namespaces: starts the programs that the owner asks for, as in a node. It
              ends when the owner goes away, however it goes.

What reaches the kernel of all is out of reach in there: /proc/sys is read-only except for the network, /dev
is its own with no device in it, and the capabilities in DROPPED are gone for good.
"""

import contextlib
import ctypes
import os
import signal
import socket
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # python -I leaves even the script's folder out

from netns_tests.node_init import COPIES, MS_BIND, MS_PRIVATE, MS_REC, build, libc, mount, serve

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS = 0x20000, 0x02000000, 0x04000000
CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET = 0x08000000, 0x20000000, 0x40000000
PR_SET_PDEATHSIG, PR_CAPBSET_DROP = 1, 24
MS_RDONLY, MS_NOSUID, MS_NOEXEC, MS_REMOUNT, MS_MOVE = 1, 2, 8, 0x20, 0x2000

SYSTEMD = "/lib/systemd/systemd"
CGROUPS = Path("/sys/fs/cgroup")
TARGET = "mesokit-test.target"
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "container": "mesokit-test",  # systemd leaves alone what belongs to the host of a container
    "LANG": "C.UTF-8",
}
#: sys_rawio, sys_module, sys_time, mac_override, mac_admin, syslog, wake_alarm, block_suspend, audit_control
DROPPED = (17, 16, 25, 32, 33, 34, 35, 36, 30)
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
#: What systemd would start by itself and may: the journal, to see what the services said.
KEPT = ("systemd-journald.service", "systemd-journald.socket", "systemd-journald-dev-log.socket")

_FILES = {
    f"system/{TARGET}": "[Unit]\nRequires=basic.target\nAfter=basic.target\nAllowIsolate=yes\n",
    "journald.conf": "[Journal]\nStorage=volatile\nAudit=no\nReadKMsg=no\nRateLimitBurst=0\n",
    "system.conf": "[Manager]\nDefaultTimeoutStartSec=60s\n",
}


def unshare(flags: int) -> None:
    if libc.unshare(flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"unshare: {os.strerror(number)}")


def group_of_self() -> str:
    """Where this process is in the unified hierarchy, which every kernel has beside the old ones."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return line[3:].strip("/")
    raise OSError("this kernel has no cgroup2")


def remove_group(group: Path) -> None:
    """The group and those in it, when no process is left in any."""
    for inner in sorted(group.rglob("*/"), reverse=True):
        if inner.is_dir():
            inner.rmdir()
    group.rmdir()


def remove_leftovers(parent: Path) -> None:
    """Groups whose keeper has gone; of one that nobody has reaped yet, only the command line has."""
    for group in parent.glob("mesokit-machine-*"):
        keeper = Path("/proc", group.name.rpartition("-")[2], "cmdline")
        if not keeper.exists() or b"machine_init" not in keeper.read_bytes():
            with contextlib.suppress(OSError):  # another keeper was quicker, or processes still end
                remove_group(group)


def keep(control: int) -> None:
    """The keeper. The unified hierarchy is mounted here, whatever the host has at that place."""
    unshare(CLONE_NEWNS)
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("cgroup2", str(CGROUPS), "cgroup2", 0)
    group = CGROUPS / group_of_self() / f"mesokit-machine-{os.getpid()}"
    remove_leftovers(group.parent)
    group.mkdir()
    try:
        unshare(CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID)
        lifeline, held = os.pipe()
        first = os.fork()
        if first == 0:
            try:
                boot(socket.socket(fileno=control), group)
            except BaseException:
                traceback.print_exc()
            os._exit(1)
        os.close(held)
        os.close(control)
        os.read(lifeline, 1)  # returns when the agent has gone: systemd, once executed, has not the other end
        os.kill(first, signal.SIGKILL)
        os.waitpid(first, 0)  # the kernel has ended all other processes by then
    finally:
        remove_group(group)


def boot(control: socket.socket, group: Path) -> None:
    """Process 1, which becomes systemd."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.set_inheritable(control.fileno(), False)
    os.setsid()
    (group / "cgroup.procs").write_text("0")
    unshare(CLONE_NEWNS | CLONE_NEWCGROUP)
    build((*COPIES, "/usr"), with_cgroups=False)
    mount("cgroup2", str(CGROUPS), "cgroup2", 0)
    shield()
    devices()
    settings()
    for capability in DROPPED:
        libc.prctl(PR_CAPBSET_DROP, capability)
    if os.fork() == 0:
        serve(control)
        os._exit(0)
    control.close()
    nothing = os.open("/dev/null", os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    os.execve(SYSTEMD, [SYSTEMD, f"--unit={TARGET}", "--log-target=journal"], ENVIRONMENT)


def shield() -> None:
    """Settings of the kernel that are no namespace's own cannot be written."""
    mount("/proc/sys/net", "/proc/sys/net", None, MS_BIND)
    for path in ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus"):
        if not Path(path).exists():
            continue
        mount(path, path, None, MS_BIND | MS_REC)
        mount("none", path, None, MS_BIND | MS_REMOUNT | MS_RDONLY)
    mount("none", "/sys", None, MS_BIND | MS_REMOUNT | MS_RDONLY)


def devices() -> None:
    """A /dev that has what programs need, and no device of the host."""
    fresh = Path("/run/.dev")
    fresh.mkdir()
    mount("tmpfs", str(fresh), "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=0755")
    for name in DEVICES:
        (fresh / name).touch()
        mount(f"/dev/{name}", str(fresh / name), None, MS_BIND)
    for name in ("pts", "shm", "mqueue"):
        (fresh / name).mkdir()
    own_terminals = "newinstance,ptmxmode=0666,mode=0620"
    mount("devpts", str(fresh / "pts"), "devpts", MS_NOSUID | MS_NOEXEC, own_terminals)
    mount("tmpfs", str(fresh / "shm"), "tmpfs", MS_NOSUID, "mode=1777")
    for name, target in (("ptmx", "pts/ptmx"), ("fd", "/proc/self/fd"), ("stdin", "fd/0"),
                         ("stdout", "fd/1"), ("stderr", "fd/2")):  # fmt: skip
        (fresh / name).symlink_to(target)
    mount(str(fresh), "/dev", None, MS_MOVE)
    fresh.rmdir()


def settings() -> None:
    """systemd's configuration: nothing of the host's, and of what systemd brings along only what is KEPT."""
    mount("tmpfs", "/etc/systemd", "tmpfs", 0, "mode=0755")
    Path("/etc/systemd/system").mkdir()
    for name, text in _FILES.items():
        Path("/etc/systemd", name).write_text(text)
    for wanted in Path("/lib/systemd/system").glob("*.wants/*"):
        masked = Path("/etc/systemd/system", wanted.name)
        if wanted.name not in KEPT and not masked.exists():
            masked.symlink_to("/dev/null")
    # They make units from /etc/fstab, the kernel's command line and the like.
    mount("tmpfs", "/usr/lib/systemd/system-generators", "tmpfs", 0, "mode=0755")
    packages()
    machine = Path("/etc/machine-id")
    machine.unlink(missing_ok=True)
    machine.write_text("6d65736f6b69742d746573742d6d6163\n")


def packages() -> None:
    """dpkg knows of no package: the host may change its own list while the machine runs."""
    known = Path("/var/lib/dpkg")
    mount("tmpfs", str(known), "tmpfs", 0, "mode=0755")
    for name in ("info", "updates", "triggers"):
        (known / name).mkdir()
    (known / "status").touch()


if __name__ == "__main__":
    keep(int(sys.argv[1]))
