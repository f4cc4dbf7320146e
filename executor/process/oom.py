"""Who is ended first when memory runs out: tasks, and not who looks after them (proc_pid_oom_score_adj(5)).

The kernel ends the largest process of the control group that is at its limit. A task of many small ones
reaches the limit with none that is as large as the executor, which would then be ended, and with it every
task, without a word. So executor and warden lower their own score where they may, which wants
CAP_SYS_RESOURCE, and tasks start with the one that the executor came with; where they may not, the score of
tasks is raised, which anybody may do for processes of his own.

Next to nothing is imported, because the warden lives on this module too.
"""

import os

from executor.process import procfs

# In thousandths of the memory that there is: half of a control group's is more than an executor has.
_APART = 500
_LEAST, _MOST = -999, 1000  # -1000 would be never


def lower(*others: int) -> int | None:
    """Lower the score of this process, and of others that belong to it. The score for those that it starts,
    as a rule the one that it came with; None where that is not allowed.
    """
    try:
        came_with = _read()
        lowered = max(_LEAST, came_with - _APART)
        for pid in ("self", *others):
            _write(f"/proc/{pid}/oom_score_adj", lowered)
    except (OSError, ValueError):
        return None
    return lowered + _APART


def restore(score: int) -> None:
    """Take back in a child what `lower` did."""
    try:
        _write("/proc/self/oom_score_adj", score)
    except OSError:
        return  # it starts all the same


def put_forward(pid: int, started: int) -> None:
    """Raise the score of a process that was started at `started` above this one's; nothing where it has
    ended or may not be touched.
    """
    try:
        descriptor = os.open(f"/proc/{pid}/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        now = procfs.stat(pid)
        if now is not None and now.started == started:
            os.write(descriptor, b"%d" % min(_MOST, _read() + _APART))
    except (OSError, ValueError):
        return
    finally:
        os.close(descriptor)


def _read() -> int:
    descriptor = os.open("/proc/self/oom_score_adj", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return int(os.read(descriptor, 16))
    finally:
        os.close(descriptor)


def _write(path: str, value: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, b"%d" % value)
    finally:
        os.close(descriptor)
