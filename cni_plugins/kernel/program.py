"""Programs run in a namespace: delegates that are not ours, iptables.

A program is over when its process has ended, not when everybody has closed its output: one that leaves a
child behind (a DHCP daemon, a logger) leaves it with the pipes, and would hold the call for as long as that
child lives. What it had written by then is its output.

`subprocess` is imported when the first one runs: hardly any call runs one, and each would pay for it when no
service does the work.
"""

import errno
import fcntl
import os
import select
import signal
import struct
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cni_plugins.kernel.namespace import entered
from cni_plugins.spec.deadline import Deadline
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.namespace import Namespace

if TYPE_CHECKING:
    import subprocess

_BUSY_TRIES = 5
_LONGEST_OUTPUT = 16 << 20  # bytes of standard output and error together
_CHUNK = 1 << 16
_FIONREAD = 0x541B  # pipe(7): the bytes that wait in it
_REAP_SECONDS = 1.0  # for a killed process to be gone; one that sleeps in the kernel may take longer


@dataclass(frozen=True, slots=True)
class Finished:
    """`status` is negative for a signal."""

    status: int
    out: bytes
    err: bytes


def run(
    namespace: Namespace, argv: Sequence[str], env: Mapping[str, str], stdin: bytes, deadline: Deadline
) -> Finished:
    """Run a program to its end, in a session of its own. A text file that is busy (somebody is writing it) is
    tried again.

    CniError 11 when the deadline passes, 999 if it cannot be started or floods its output; it is killed then,
    with all of its process group.
    """
    process = _start(namespace, argv, env, deadline)
    name = argv[0].rpartition("/")[2]
    over = False
    try:
        out, err = _converse(process, name, stdin, deadline)
        over = True
    finally:
        if not over:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with suppress(OSError):  # what was not written to it yet
                    pipe.close()
        status = _reap(process)
    return Finished(status, out, err)


def _start(
    namespace: Namespace, argv: Sequence[str], env: Mapping[str, str], deadline: Deadline
) -> "subprocess.Popen[bytes]":
    import subprocess  # noqa: PLC0415 - see above

    attempt = 0
    while True:
        deadline.require(argv[0])
        try:
            with entered(namespace):
                return subprocess.Popen(
                    argv,
                    env=env,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                    bufsize=0,
                )
        except OSError as error:
            attempt += 1
            if error.errno != errno.ETXTBSY or attempt == _BUSY_TRIES:
                raise CniError(Code.INTERNAL, f"cannot run {argv[0]}", str(error)) from error
            time.sleep(min(1.0, deadline.require(f"{argv[0]}, which is being written")))


def _converse(
    process: "subprocess.Popen[bytes]", name: str, stdin: bytes, deadline: Deadline
) -> tuple[bytes, bytes]:
    """Give the program its input and take its output until its process ends. CniError 11 or 999."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    out, err = bytearray(), bytearray()
    outputs = {process.stdout.fileno(): out, process.stderr.fileno(): err}
    source = process.stdin.fileno()
    left = memoryview(stdin)
    os.set_blocking(source, False)
    end = os.pidfd_open(process.pid)
    events = select.poll()
    events.register(end, select.POLLIN)
    for fd in outputs:
        events.register(fd, select.POLLIN)
    events.register(source, select.POLLOUT)
    try:
        while True:
            patience = deadline.remaining()
            if not patience:
                raise CniError(Code.TRY_AGAIN, f"{name} was not done after {deadline.seconds:g} s")
            ready = {fd for fd, _ in events.poll(patience * 1000 + 1)}
            if source in ready and not (left := _give(source, left)):
                events.unregister(source)
                process.stdin.close()
            for fd in ready & outputs.keys():
                if not _take(fd, outputs[fd], _CHUNK):
                    events.unregister(fd)
            if end in ready:
                for fd, taken in outputs.items():
                    # Only what was there at its end: a child of its may write for ever.
                    waiting = struct.unpack("i", fcntl.ioctl(fd, _FIONREAD, bytes(4)))[0]
                    while waiting > 0 and (got := _take(fd, taken, waiting)):
                        waiting -= got
                return bytes(out), bytes(err)
            if len(out) + len(err) > _LONGEST_OUTPUT:
                raise CniError(Code.INTERNAL, f"{name} wrote more than {_LONGEST_OUTPUT >> 20} MiB")
    finally:
        os.close(end)


def _give(fd: int, data: memoryview) -> memoryview:
    """Write what fits; what is left, nothing if nobody reads it."""
    try:
        return data[os.write(fd, data[:_CHUNK]) :]
    except BlockingIOError:
        return data
    except OSError:
        return data[:0]


def _take(fd: int, into: bytearray, most: int) -> int:
    """Read what is there; the number of bytes, 0 at the end of the file."""
    chunk = os.read(fd, most)
    into += chunk
    return len(chunk)


def _reap(process: "subprocess.Popen[bytes]") -> int:
    import subprocess  # noqa: PLC0415 - see above

    try:
        return process.wait(_REAP_SECONDS)
    except subprocess.TimeoutExpired:
        return -signal.SIGKILL
