"""What a start needs, and what comes of it: a process, or an error that says which step failed and why."""

import errno
import os
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from executor.process.identity import Identity


class Stage(Enum):
    """The step of a start that failed, in the order in which they are taken."""

    WARDEN = "warden"
    FORK = "fork"
    SESSION = "session"
    OUTPUT = "output"
    RLIMIT = "rlimit"
    USER = "user"
    DIRECTORY = "directory"
    EXEC = "exec"


class LaunchError(Exception):
    """A process that could not be started. `errno` is 0 where the kernel had no say; `text` is a whole
    sentence.
    """

    def __init__(self, stage: Stage, number: int, text: str) -> None:
        super().__init__(text)
        self.stage = stage
        self.errno = number
        self.text = text


@dataclass(frozen=True, slots=True)
class Limit:
    """One resource limit: `resource` is a RLIMIT_* number of setrlimit(2); -1 is unlimited."""

    resource: int
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class Launch:
    """A process to start, in a session of its own.

    `program` is the file to run, `argv[0]` when empty; without a slash it is looked up in PATH of `env`,
    which is the whole environment. `user` None keeps the executor's. `stdin`, `stdout`, `stderr` are open
    descriptors that stay the caller's; -1 is /dev/null.
    """

    key: str
    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    user: Identity | None = None
    rlimits: Sequence[Limit] = ()
    stdin: int = -1
    stdout: int = 1
    stderr: int = 2
    program: str = ""

    @property
    def file(self) -> str:
        """What is run: `program`, else `argv[0]`."""
        return self.program or self.argv[0]


@dataclass(frozen=True, slots=True)
class Process:
    """A process that was started.

    `pidfd` is readable once it has ended; the supervisor closes it. `started` is its start time in clock
    ticks since boot; with `pid` it names this process and no later one. `cookie` (the value of
    MESOKIT_TASK) and `mark` are on it and on all that it starts.
    """

    key: str
    pid: int
    pidfd: int
    started: int
    cookie: str
    token: int = field(repr=False)
    mark: int = field(repr=False, default=0)


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended: `code` or `signal` is set, not both.

    Processor time is that of the process and of the children it waited for; None where it was lost.
    """

    code: int | None
    signal: int | None
    core: bool = False
    user_seconds: float | None = None
    system_seconds: float | None = None


_LIMIT_NAMES = {
    getattr(resource, name): name
    for name in dir(resource)
    if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"
}


def explain(launch: Launch, stage: Stage, number: int, detail: bytes) -> LaunchError:
    """The error for what the warden or the child reported."""
    reason = os.strerror(number) if number else os.fsdecode(detail) or "unknown reason"
    match stage:
        case Stage.FORK:
            text = f"cannot start a process: {reason}"
        case Stage.RLIMIT:
            text = f"cannot set {_limit_text(launch, detail)}: {reason}"
        case Stage.USER:
            user = launch.user
            text = f"cannot become user {user.name!r} (uid {user.uid}): {reason}" if user else reason
        case Stage.DIRECTORY:
            text = f"cannot enter the working directory {os.fsdecode(detail)!r}: {reason}"
        case Stage.EXEC:
            text = f"cannot run {_short(launch.file)!r}: {_exec_reason(launch, number, reason, detail)}"
        case _:
            text = f"cannot prepare the process ({stage.value}): {reason}"
    return LaunchError(stage, number, text)


def _short(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "…"


def _limit_text(launch: Launch, detail: bytes) -> str:
    kind = int(detail or b"-1")
    wanted = (limit for limit in launch.rlimits if limit.resource == kind)
    values = next((f" to {limit.soft}:{limit.hard}" for limit in wanted), "")
    return f"{_LIMIT_NAMES.get(kind, f'resource limit {kind}')}{values}"


def _exec_reason(launch: Launch, number: int, reason: str, detail: bytes) -> str:
    """errno's text, made plainer where the same number has several causes."""
    if number == errno.E2BIG:
        arguments = sum(len(os.fsencode(entry)) + 1 for entry in launch.argv)
        variables = sum(len(os.fsencode(entry)) + 2 for pair in launch.env.items() for entry in pair)
        return (
            f"{reason} ({len(launch.argv)} arguments of {arguments} bytes and {len(launch.env)} environment "
            f"variables of {variables} bytes in all)"
        )
    if number == errno.ENOENT:
        if "/" not in launch.file:
            return f"{reason} (looked in PATH={launch.env.get('PATH', '')})"
        if detail:
            return f"{reason}: its interpreter {os.fsdecode(detail)!r}"
    if number == errno.ETIMEDOUT:
        return "it did not start within the time allowed"
    return reason
