"""First process of a private node: mounts its file systems, then starts the programs that its owner asks for.

It runs as process 1 of new network, mount, uts, ipc and pid namespaces (`unshare` makes them, or warm.py) and
listens on one SOCK_SEQPACKET descriptor, its first argument; the second is the host name. When the owner goes
away, however it goes, the descriptor reads end-of-file, this process ends, and with it the kernel ends every
process of the node, unmounts its mounts and frees its network. That is the whole clean-up, and nothing has to
survive to perform it.

Messages are JSON objects with descriptors attached:

    {"run": [argv...], "env": {...}, "cwd": path, "netns": path or null}   + stdin, stdout, stderr, status
    pipe {"kill": pid, "signal": number}

On the status pipe come lines: the pid, then the wait status. A request costs about a millisecond. Only the
standard library's small modules are imported: this file runs with `python -I -S`.
"""

import contextlib
import ctypes
import errno
import fcntl
import functools
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

CLONE_NEWNET = 0x40000000
MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
MS_BIND, MS_MOVE, MS_REC, MS_PRIVATE, MS_SHARED = 0x1000, 0x2000, 0x4000, 1 << 18, 1 << 20

#: Directories that keep the machine's content but lose every change with the node.
COPIES = ("/etc", "/opt", "/var", "/root")
#: Directories that start empty. /var/lib/containers must not lie on an overlay: podman mounts its own there.
EMPTY = ("/var/lib/cni", "/var/lib/mesokit", "/var/lib/containers", "/var/lib/containerd", "/var/tmp")
#: What else was installed for the whole machine and would change what a node does.
HIDDEN = ("/etc/cni", "/opt/cni")

#: A mesokit that is installed on this machine, in either way, which is not what is tested.
INSTALLED = (
    "/etc/mesokit",
    "/etc/systemd/system/mesokit-*",
    "/etc/systemd/system/*.wants/mesokit-*",
    "/usr/bin/mesokit*",
    "/usr/lib/mesokit",
    "/usr/lib/systemd/system/mesokit-*",
    "/usr/share/*/mesokit*",
    "/usr/share/*/*/*mesokit*",
    "/usr/local/bin/mesokit*",
    "/usr/local/lib/mesokit",
    "/usr/local/share/*/*/*mesokit*",
)

SIOCSIFFLAGS, IFF_UP = 0x8914, 1

libc = ctypes.CDLL(None, use_errno=True)

Started = TypeVar("Started")
#: What a forked child runs in the place of a program; it does not return.
Body = Callable[[], None]
#: Looks whether this process itself can stand for a program: a request, its standard input -> what to run.
Known = Callable[[dict[str, Any], int], "Body | None"]


def mount(source: str, target: str, fstype: str | None, flags: int, data: str | None = None) -> None:
    encoded = [None if text is None else text.encode() for text in (source, target, fstype)]
    if libc.mount(*encoded, ctypes.c_ulong(flags), None if data is None else data.encode()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mount {source} on {target}: {os.strerror(number)}")


def build(copies: tuple[str, ...] = COPIES, *, with_cgroups: bool = True) -> None:
    """Gives this mount namespace its own proc, sysfs, /run and writable copies of the directories that
    plugins write. The machine's control groups stay in sight unless told otherwise."""
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755")
    if with_cgroups and Path("/sys/fs/cgroup").is_dir():
        Path("/run/.cgroup").mkdir()
        mount("/sys/fs/cgroup", "/run/.cgroup", None, MS_BIND | MS_REC)
    mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    if Path("/run/.cgroup").is_dir():
        mount("/run/.cgroup", "/sys/fs/cgroup", None, MS_MOVE)
        Path("/run/.cgroup").rmdir()
    if (installed := found()) and "/usr" not in copies:
        copies = (*copies, "/usr")
    Path("/run/.copies").mkdir()
    mount("tmpfs", "/run/.copies", "tmpfs", 0, "mode=0755")
    for path in copies:
        upper, work = f"/run/.copies{path}", f"/run/.copies{path}.work"
        Path(upper).mkdir()
        Path(work).mkdir()
        mount("overlay", path, "overlay", 0, f"lowerdir={path},upperdir={upper},workdir={work}")
    # The mounts above keep it alive; unmounted here, nothing in the node sees it.
    libc.umount2(b"/run/.copies", 2)
    Path("/run/.copies").rmdir()
    for each in installed:
        hide(each)
    for path in EMPTY:
        Path(path).mkdir(parents=True, exist_ok=True)
        mount("tmpfs", path, "tmpfs", 0, "mode=1777" if path == "/var/tmp" else "mode=0755")
    for path in HIDDEN:
        Path(path).mkdir(parents=True, exist_ok=True)
        mount("tmpfs", path, "tmpfs", 0, "mode=0755")
    Path("/etc/cni/net.d").mkdir(parents=True)
    Path("/opt/cni/bin").mkdir(parents=True)
    Path("/run/netns").mkdir(parents=True)
    mount("/run/netns", "/run/netns", None, MS_BIND)  # else the first `ip netns add` does it
    mount("none", "/run/netns", None, MS_SHARED)
    Path("/run/lock").mkdir(parents=True)


@functools.cache
def found() -> tuple[Path, ...]:
    """What INSTALLED names on this machine; looking takes as long as all else that makes a node."""
    return tuple(path for pattern in INSTALLED for path in sorted(Path("/").glob(pattern.lstrip("/"))))


def hide(path: Path) -> None:
    """Removes it from the copy that this node has; what lay on a mount of its own there is gone already."""
    if not os.path.lexists(path):
        return
    if path.is_dir() and not path.is_symlink():
        for inner in path.iterdir():
            hide(inner)
        path.rmdir()
    else:
        path.unlink()


def enter(netns: int) -> None:
    if libc.setns(netns, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def patiently(start: Callable[[], Started]) -> Started:
    """Starts a process. A machine that is out of them, or of memory, has some in a moment: this waits for
    ten seconds.
    """
    end = time.monotonic() + 10
    while True:
        try:
            return start()
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ENOMEM) or time.monotonic() > end:
                raise
            time.sleep(0.05)


def execute(message: dict[str, Any], fds: list[int], home: int) -> int:
    """Starts a program; its pid. It begins in the namespace it is to be in, for which this process goes there
    and back to `home`: a program is started without a copy of this process (vfork)."""
    netns = message["netns"]
    try:
        if netns:
            handle = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
            try:
                enter(handle)
            finally:
                os.close(handle)
        started = patiently(lambda: subprocess.Popen(
            message["run"], stdin=fds[0], stdout=fds[1], stderr=fds[2], start_new_session=True,
            env=message["env"], cwd=message["cwd"],
        ))  # fmt: skip
    finally:
        if netns:
            enter(home)
    started.returncode = 0  # `reap` waits for it
    return started.pid


def fail(message: dict[str, Any], fds: list[int], error: OSError) -> int:
    """What could not be started is a line on its stderr and status 127; the pid of a process that says so."""
    pid = patiently(os.fork)
    if pid == 0:
        os.write(fds[2], f"{message['run'][0]}: {error}\n".encode())
        os._exit(127)
    return pid


def become(message: dict[str, Any], fds: list[int], body: Body) -> int:
    """A child that runs `body` as a program of its own would run; its pid."""
    pid = patiently(os.fork)
    if pid != 0:
        return pid
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        # As an interpreter that starts has them.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_IGN)
        for target, fd in enumerate(fds[:3]):
            os.dup2(fd, target)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        if message["netns"]:
            handle = os.open(message["netns"], os.O_RDONLY | os.O_CLOEXEC)
            enter(handle)
            os.close(handle)
        os.chdir(message["cwd"])
        body()
    except OSError as error:
        os.write(2, f"{message['run'][0]}: {error}\n".encode())
    finally:
        os._exit(127)


def reap(waiting: dict[int, int]) -> None:
    """Collects every process that has ended; the owner of one it started hears the status."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        answer = waiting.pop(pid, None)
        if answer is not None:
            with contextlib.suppress(BrokenPipeError):
                os.write(answer, f"{os.waitstatus_to_exitcode(status)}\n".encode())
            os.close(answer)


def obey(
    message: dict[str, Any], fds: list[int], waiting: dict[int, int], home: int, known: Known | None
) -> None:
    """Starts a program, or sends a signal to one that was started here."""
    if "kill" in message:
        if message["kill"] in waiting:
            os.kill(message["kill"], message["signal"])
        return
    body = known(message, fds[0]) if known is not None else None
    if body is not None:
        pid = become(message, fds, body)
    else:
        try:
            pid = execute(message, fds, home)
        except (OSError, ValueError) as error:
            pid = fail(message, fds, error if isinstance(error, OSError) else OSError(str(error)))
    waiting[pid] = fds[3]
    for used in fds[:3]:
        os.close(used)
    os.write(fds[3], f"{pid}\n".encode())


def serve(control: socket.socket, known: Known | None = None) -> None:
    """Starts programs on request until the owner goes away."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.signal(signal.SIGINT, lambda _number, _frame: None)  # unlike SIG_IGN, no program inherits it
    waiting: dict[int, int] = {}
    control.send(b"ready")
    poller = select.poll()
    poller.register(control, select.POLLIN)
    poller.register(wake_read, select.POLLIN)
    while True:
        for fd, _event in poller.poll():
            if fd == wake_read:
                os.read(wake_read, 4096)
                reap(waiting)
                continue
            data, fds, _flags, _address = socket.recv_fds(control, 1 << 20, 4)
            if not data:
                return
            obey(json.loads(data), fds, waiting, home, known)


def name_and_loopback(hostname: str) -> None:
    socket.sethostname(hostname)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))


def run(control: socket.socket, hostname: str, known: Known | None = None) -> None:
    """What process 1 of a node does, until its owner goes away."""
    os.set_inheritable(control.fileno(), False)
    build()
    name_and_loopback(hostname)
    serve(control, known)


if __name__ == "__main__":
    run(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])
