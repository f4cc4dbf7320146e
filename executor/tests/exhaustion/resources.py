"""What can be taken away from an executor and given back: threads and processes, descriptors, memory, disk,
inodes.

Each is taken from the executor and from its warden, whose children the tasks are; what a running task has of
its own stays untouched.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
from pathlib import Path
from typing import Protocol

from executor.tests.scenarios import processes
from executor.tests.scenarios.executor_process import Executor
from executor.tests.scenarios.scene import Scene
from executor.tests.scenarios.strangers import as_user


class Resource(Protocol):
    """One thing to run out of."""

    def wrap(self, scene: Scene) -> list[str]:
        """The words before the executor's program."""

    def take(self, executor: Executor) -> None:
        """Leave nothing of it."""

    def give(self, executor: Executor) -> None:
        """Give all of it back."""


class _Limited:
    """A limit of setrlimit(2), put on the executor and its warden from outside, as their own user might."""

    option: str
    """Its name for prlimit(1)."""
    title: str
    """Its name in /proc/PID/limits."""

    def __init__(self) -> None:
        self._before: dict[int, int] = {}

    def wrap(self, scene: Scene) -> list[str]:
        return []

    def used(self, pid: int) -> int:
        """The limit that leaves nothing."""
        raise NotImplementedError

    def take(self, executor: Executor) -> None:
        for pid in (executor.pid, *(child.pid for child in processes.children(executor.pid))):
            line = next(
                line
                for line in Path(f"/proc/{pid}/limits").read_text().splitlines()
                if line.startswith(self.title)
            )
            word = line[len(self.title) :].split()[0]
            self._before[pid] = -1 if word == "unlimited" else int(word)
            self._set(pid, self.used(pid))

    def give(self, executor: Executor) -> None:
        for pid, before in self._before.items():
            self._set(pid, before)
        self._before.clear()

    def _set(self, pid: int, soft: int) -> None:
        status = Path(f"/proc/{pid}/status").read_text()
        uid = next(line for line in status.splitlines() if line.startswith("Uid:")).split()[1]
        value = "unlimited" if soft < 0 else str(soft)
        subprocess.run(
            [
                *("/usr/bin/setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"),
                *("/usr/bin/prlimit", f"--pid={pid}", f"--{self.option}={value}:"),
            ],
            check=True,
        )


class Threads(_Limited):
    """No thread and no process more for the executor's user."""

    option, title = "nproc", "Max processes"

    def wrap(self, scene: Scene) -> list[str]:
        return as_user(62000 + scene.sandbox.stat().st_ino % 3000)

    def used(self, pid: int) -> int:
        return 1


class Descriptors(_Limited):
    """No descriptor more."""

    option, title = "nofile", "Max open files"

    def used(self, pid: int) -> int:
        taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}  # noqa: PTH208 - names are enough
        return next(number for number in range(len(taken) + 1) if number not in taken)


class AddressSpace(_Limited):
    """No page more of address space: MemoryError wherever something grows."""

    option, title = "as", "Max address space"

    def used(self, pid: int) -> int:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
        return pages * resource.getpagesize()


class ControlGroup:
    """No page more of memory in a control group (version 1) whose processes wait for it instead of being
    killed."""

    def __init__(self) -> None:
        self._group = Path(f"/sys/fs/cgroup/memory/mesokit-exhaustion-{os.getpid()}-{id(self)}")

    def wrap(self, scene: Scene) -> list[str]:
        self._group.mkdir()
        script = f'echo $$ >{self._group}/cgroup.procs; exec "$@"'
        return ["/bin/sh", "-c", script, "sh"]

    def take(self, executor: Executor) -> None:
        (self._group / "memory.oom_control").write_text("1")
        for _ in range(20):
            used = int((self._group / "memory.usage_in_bytes").read_text())
            with contextlib.suppress(OSError):
                (self._group / "memory.limit_in_bytes").write_text(str(used))
                return
        raise AssertionError("the group's limit cannot be set")

    def give(self, executor: Executor) -> None:
        (self._group / "memory.limit_in_bytes").write_text("-1")

    def close(self) -> None:
        processes.wait_until(lambda: not (self._group / "cgroup.procs").read_text(), "the group to be empty")
        self._group.rmdir()


class _SmallDisk:
    """A sandbox on a small file system of its own, seen by the executor and its tasks alone."""

    options = "size=1m,nr_inodes=64"

    def wrap(self, scene: Scene) -> list[str]:
        mount = f"mount -t tmpfs -o mode=777,{self.options} small {scene.sandbox}"
        script = f'{mount} && cd {scene.sandbox} && exec "$@"'
        return ["/usr/bin/unshare", "--mount", "--propagation=private", "/bin/sh", "-c", script, "sh"]

    def inside(self, executor: Executor) -> Path:
        """The sandbox as the executor sees it."""
        return Path(f"/proc/{executor.pid}/cwd")


class Disk(_SmallDisk):
    """No block more on the sandbox's disk."""

    def take(self, executor: Executor) -> None:
        with contextlib.suppress(OSError), (self.inside(executor) / "hog").open("wb", buffering=0) as hog:
            while True:
                hog.write(bytes(4096))

    def give(self, executor: Executor) -> None:
        (self.inside(executor) / "hog").unlink()


class Inodes(_SmallDisk):
    """No file more on it."""

    def take(self, executor: Executor) -> None:
        with contextlib.suppress(OSError):
            for number in range(10_000):
                (self.inside(executor) / f"hog-{number}").touch()

    def give(self, executor: Executor) -> None:
        for file in self.inside(executor).glob("hog-*"):
            file.unlink()


class Warden:
    """The warden itself, stopped: nothing is started, and no end is heard of."""

    def wrap(self, scene: Scene) -> list[str]:
        return []

    def _signal(self, executor: Executor, number: int) -> None:
        (warden,) = processes.children(executor.pid)
        os.kill(warden.pid, number)

    def take(self, executor: Executor) -> None:
        self._signal(executor, signal.SIGSTOP)

    def give(self, executor: Executor) -> None:
        self._signal(executor, signal.SIGCONT)
