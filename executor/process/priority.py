"""Who runs first where more want to than there are processors: executor and warden, and then tasks.

A task of some hundred processes that fork and end leaves the executor one turn in so many: a KILL would wait
for its turn before it is heard, and again for each look at the tree. So both raise their priority where they
may, which wants CAP_SYS_NICE (or RLIMIT_NICE), and tasks start with the one that the executor came with. It
counts among the processes of one control group alone: other containers lose nothing by it.

Where the kernel gives each session a share of its own (sched(7), autogroup), that of a session counts and not
that of a process.

Next to nothing is imported, because the warden lives on this module too.
"""

import os

_FIRST = -20
_AUTOGROUP = "/proc/self/autogroup"


def raise_own() -> int | None:
    """Raise the priority of this thread, and of all that it makes. The nice value for tasks; None where that
    is not allowed.
    """
    came_with = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, _FIRST)
    except OSError:
        return None
    return came_with


def raise_session() -> None:
    """The same for the session that this process leads, where sessions count."""
    if os.getsid(0) != os.getpid():
        return  # what else is in it is not ours
    try:
        descriptor = os.open(_AUTOGROUP, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.write(descriptor, b"%d" % _FIRST)
    except OSError:
        return
    finally:
        os.close(descriptor)


def restore(nice: int) -> None:
    """Take back in a child what `raise_own` did."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    except OSError:
        return  # it starts all the same
