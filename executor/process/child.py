"""From fork to exec: what a task's process does to itself before it becomes the task.

Runs in the child of the single-threaded warden, so ordinary Python is safe here. A step that fails is told,
with its errno, through a pipe that a successful exec closes; so nobody ever takes a failed start for a run.
"""

import errno
import marshal
import os
import resource
import signal

from executor.process import prctl, procfs

TYPE_CHECKING = False  # as type checkers see it: the warden does without `typing`
if TYPE_CHECKING:
    from typing import NoReturn

#: uid, gid and supplementary groups to become.
Ids = tuple[int, int, list[int]]
#: program, argv, environment, working directory, ids, (resource, soft, hard) limits, and the mark (see proc).
Plan = tuple[bytes, list[bytes], dict[bytes, bytes], bytes, Ids | None, list[tuple[int, int, int]], int]


def become(plan: Plan, descriptors: list[int], report: int, ignored: list[signal.Signals]) -> "NoReturn":
    """Turn this process into the task, or write (stage, errno, detail) to `report` and end.

    `descriptors` become 0, 1 and 2; every other descriptor must have its close-on-exec flag set. `ignored`
    are the signals that the task should not find ignored.
    """
    program, argv, environment, directory, ids, limits, mark = plan
    warden = os.getppid()
    stage, detail = "session", b""
    try:
        # Before it has a session of its own: what is in one and has no mark is no start of ours (tree.py).
        prctl.set_timer_slack(procfs.MARK_BASE + mark)
        os.setsid()
        stage = "output"
        _move(descriptors)
        for number in ignored:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        stage = "rlimit"
        for kind, soft, hard in limits:
            detail = b"%d" % kind
            # setrlimit would have us guess between EINVAL and EPERM: Python makes a ValueError of both.
            resource.prlimit(0, kind, (soft, hard))
        if ids is not None:
            stage, detail = "user", b""
            uid, gid, groups = ids
            if (os.getuid(), os.getgid()) != (uid, gid) or os.getuid() == 0:
                os.setgroups(groups)
                os.setresgid(gid, gid, gid)
                os.setresuid(uid, uid, uid)
        stage, detail = "directory", directory
        os.chdir(directory)
        # A change of user clears the signal, so it is set last; a warden that died meanwhile sends none.
        prctl.set_parent_death_signal(signal.SIGKILL)
        if os.getppid() != warden:
            os._exit(1)
        stage, detail = "exec", program
        _execute(program, argv, environment)
    except MemoryError:
        _tell(report, stage, errno.ENOMEM, detail)
    except ValueError:
        _tell(report, stage, errno.EINVAL, detail)
    except OSError as error:
        if stage == "exec" and error.errno == errno.ENOENT:
            detail = _interpreter(program)
        _tell(report, stage, error.errno or 0, detail)
    except BaseException as error:
        _tell(report, stage, 0, repr(error).encode())
    os._exit(127)


def _tell(report: int, stage: str, number: int, detail: bytes) -> None:
    os.write(report, marshal.dumps((stage, number, detail[:1024])))


def _move(descriptors: list[int]) -> None:
    """Put `descriptors` at 0, 1 and 2. They are copied above first, so that none is overwritten before its
    turn.
    """
    for target, descriptor in enumerate([os.dup(descriptor) for descriptor in descriptors]):
        os.dup2(descriptor, target)


def _execute(program: bytes, argv: list[bytes], environment: dict[bytes, bytes]) -> "NoReturn":
    """execvpe(3) with the task's own PATH: EACCES is remembered while later entries are tried; no #! means
    sh.
    """
    if b"/" in program:
        candidates = [program]
    else:
        path = environment.get(b"PATH", b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        candidates = [(entry or b".") + b"/" + program for entry in path.split(b":")]
    denied: OSError | None = None
    for candidate in candidates:
        try:
            os.execve(candidate, argv, environment)
        except OSError as error:
            if error.errno == errno.ENOEXEC:
                os.execve(b"/bin/sh", [b"/bin/sh", candidate, *argv[1:]], environment)
            if error.errno == errno.EACCES:
                denied = error
            elif error.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise
    raise denied or OSError(errno.ENOENT, os.strerror(errno.ENOENT))


def _interpreter(program: bytes) -> bytes:
    """What a program needs to run, when it is there itself and exec(2) found nothing; empty else. Looked up
    here, where the task's own rights decide what may be read.
    """
    try:
        descriptor = os.open(program, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        first = os.read(descriptor, 256).split(b"\n")[0]
    except OSError:
        first = b""
    finally:
        os.close(descriptor)
    words = first[2:].split(maxsplit=1)
    return words[0] if first.startswith(b"#!") and words else b"(the dynamic loader)"
