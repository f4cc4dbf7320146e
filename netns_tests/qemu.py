"""A machine with Debian's own kernel, in QEMU: for what the kernel under these tests may lack (vlan, ipvlan,
vrf, dummy, bonding, bridge vlan_filtering, connection tracking in the bridge family, ...).

A test file named `test_qemu_*.py` runs in there: the same pytest, fixtures and helpers, in a process of that
machine. conftest.py asks it for one test after another and reports what comes back, so that for its writer
nothing differs. One boot serves a session; each test has a private node (node.py) inside.

QEMU translates every instruction (no KVM: it may be there and hang), which makes programs some ten times
slower, and needs nothing of the processor. The machine has no network device. qemu_image.py makes its files,
qemu_init.py is its process 1.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from netns_tests import crash_shim, observed, qemu_image
from netns_tests.node import NodeError
from netns_tests.plugins import TOP, compiled

KERNELS = TOP / "build" / "kernel"
PORT = "/dev/vport0p1"

#: By processor: QEMU's program with its machine, and the console. An old processor: what a new one has more
#: (pages in five levels, SMAP, process-context identifiers) costs a translator a sixth of its time.
_MACHINES = {
    "x86_64": (
        "qemu-system-x86_64 -machine pc -cpu qemu64,+rdrand,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16",
        "ttyS0",
    ),
    "aarch64": ("qemu-system-aarch64 -machine virt -cpu max", "ttyAMA0"),
}
#: No work against attacks, and none for limits of memory. Programs lie where they lay the last time: the
#: translator knows them by their addresses, and would translate each anew (a program of a few milliseconds
#: took four times as long, an interpreter twice). The timer is there: on a busy machine it ticks too rarely
#: for the kernel's check, which ends in a panic.
_OPTIONS = (
    "mitigations=off random.trust_cpu=on norandmaps tsc=reliable no_timer_check "
    "cgroup_disable=memory psi=0 init_on_alloc=0 hardened_usercopy=off"
)
_MEMORY = "2048"
_BOOT_SECONDS = 300
_SILENCE_SECONDS = 500  # a test that takes longer ends itself (pytest-timeout)


def _init(preloaded: Path) -> str:
    """What the kernel starts. Process 1 has the library that kills calls (crash.c), so that what does that is
    forked too."""
    return f"""#!/bin/busybox sh
busybox mount -t proc proc /proc
busybox mount -t sysfs sysfs /sys
busybox mount -t devtmpfs dev /dev
busybox mount -t cgroup2 cgroup2 /sys/fs/cgroup
busybox chmod 1777 /tmp
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
modprobe -a virtio_pci virtio_console
until [ -e {PORT} ]; do busybox sleep 0.05; done
export ROOM="$(busybox printf '%4096s' '')"
export LD_PRELOAD={preloaded}
exec {TOP}/.venv/bin/python {TOP}/netns_tests/qemu_init.py {PORT} "$ROOM"
"""


def kernel() -> Path:
    """Where the kernel's package is unpacked; brought here on the first use, as packaging/test does."""
    if not any(KERNELS.glob("linux-image-*")):
        subprocess.run(["bash", "-ec", f". {TOP}/packaging/lib/setup.sh; need_kernel"], check=True)
    return max(KERNELS.glob("linux-image-*"), key=lambda path: path.stat().st_mtime)


class Qemu:
    """A running machine."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="mesokit-qemu-"))
        self._lines = b""
        self._ended: dict[str, Any] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._failure = "it was not booted"

    def __enter__(self) -> Self:
        try:
            self.boot()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def boot(self) -> str:
        """Returns the kernel's release. Raises NodeError when it does not come up, then and at each use."""
        self._control, self._process = self._start()
        release: str = self._message(_BOOT_SECONDS)["ready"]
        return release

    def _start(self) -> tuple[socket.socket, subprocess.Popen[bytes]]:
        image = kernel()
        (vmlinuz,) = (image / "boot").glob("vmlinuz-*")
        initramfs = self._folder / "initramfs"
        init = self._folder / "init"
        init.write_text(_init(crash_shim.compiled()))
        init.chmod(0o755)
        versions = self._folder / "versions"
        versions.write_bytes(observed.versions())
        base = qemu_image.base(image, TOP / "build" / "qemu")
        with initramfs.open("wb") as stream:
            with base.open("rb") as packages:
                shutil.copyfileobj(packages, stream, 1 << 20)
            files = qemu_image.checkout(TOP, compiled(), crash_shim.compiled())
            files = qemu_image.with_bytecode(files, base.parent) | observed.for_qemu()
            qemu_image.write(stream, {**files, "/init": init, os.fspath(observed.VERSIONS): versions})
        program, console = _MACHINES[platform.machine()]
        ours, theirs = socket.socketpair()
        argv = ["setpriv", "--pdeathsig", "KILL", *program.split(), "-accel", "tcg", "-nodefaults"]
        # One processor: two that wait for each other cost a third more, and tests run one after another.
        argv += ["-smp", "1", "-m", _MEMORY, "-no-user-config", "-display", "none", "-no-reboot"]
        argv += ["-kernel", os.fspath(vmlinuz), "-initrd", os.fspath(initramfs)]
        argv += ["-append", f"console={console} quiet panic=-1 {_OPTIONS}"]
        argv += ["-serial", f"file:{self.console}", "-device", "virtio-serial-pci"]
        argv += ["-chardev", f"socket,id=port,fd={theirs.fileno()}", "-device", "virtserialport,chardev=port"]
        # A physical device for tests that want one (modprobe virtio_net); nothing is behind it. Last:
        # the port's name counts the virtio devices before its own.
        argv += ["-device", "virtio-net-pci,romfile="]
        with theirs:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
        return ours, process

    @property
    def console(self) -> Path:
        return self._folder / "console"

    def _message(self, seconds: float) -> dict[str, Any]:
        """The next line from inside; raises NodeError when none comes or the machine has ended."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._lines:
            if self._control is None:
                raise NodeError(self._failure)
            self._control.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                chunk = self._control.recv(1 << 16)
            except TimeoutError:
                chunk = b""
            if not chunk:
                said = self.console.read_text(errors="replace")[-4000:] if self.console.exists() else ""
                self._failure = f"no answer from the machine in QEMU; its console:\n{said}"
                self._control.close()
                self._control = None
                raise NodeError(self._failure)
            self._lines += chunk
        line, _, self._lines = self._lines.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def _send(self, request: dict[str, Any]) -> None:
        if self._control is None:
            raise NodeError(self._failure)
        with contextlib.suppress(OSError):  # it has ended, as the next message will say
            self._control.sendall(json.dumps(request).encode() + b"\n")

    def collect(self, tests: Sequence[str]) -> None:
        """Says once which tests may be asked for, by their node ids."""
        self._send({"collect": list(tests)})

    def reports(self, test: str, following: str | None) -> list[dict[str, Any]]:
        """Runs a test; pytest's reports of it (set-up, call, tear-down). What it shares with the test that
        follows stays for that one."""
        if self._ended is None:
            self._send({"run": test, "next": following})
        found: list[dict[str, Any]] = []
        while not found or found[-1]["when"] != "teardown":
            if self._ended is not None:
                raise NodeError(f"in QEMU {test} did not run: {self._ended['output']}")
            message = self._message(_SILENCE_SECONDS)
            if "report" in message:
                found.append(message["report"])
            elif "observed" in message:
                observed.bring(message["observed"])
            else:
                self._ended = message
        return found

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._control is not None:
            self._control.close()
            self._control = None
        shutil.rmtree(self._folder, ignore_errors=True)
