"""Process attributes that Python has no call for: who adopts orphans, what a parent's death does, a mark."""

import ctypes
import os

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_TIMERSLACK = 29
_PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def set_parent_death_signal(signal: int) -> None:
    """Have `signal` sent to this process when the thread that made it ends; lost by a change of user."""
    _prctl(_PR_SET_PDEATHSIG, signal)


def set_timer_slack(nanoseconds: int) -> None:
    """How late this process's timers may be. Children inherit it, and it survives exec."""
    _prctl(_PR_SET_TIMERSLACK, nanoseconds)


def become_subreaper() -> None:
    """Adopt every descendant whose parent dies, whatever session or group it has moved to."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def hide_memory() -> None:
    """Let no process of the same user look into this one: not by ptrace(2), and not through /proc/PID's mem,
    environ, maps, fd, cwd and root, which belong to root from now on. Children inherit it until they exec.
    """
    _prctl(_PR_SET_DUMPABLE, 0)
