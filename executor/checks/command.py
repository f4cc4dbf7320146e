"""COMMAND checks: a process in the task's context, killed as a tree when it hangs or leaves children
behind.
"""

import errno
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace

from mesos.v1 import mesos_pb2

from executor.checks.fields import InvalidCheckError
from executor.checks.result import Probe, Result
from executor.eventloop import Loop
from executor.process.launch import Exit, Launch, LaunchError, Process, Stage
from executor.process.supervisor import Supervisor
from executor.task.command import InvalidTaskError, find_program
from executor.task.environment import of_command


@dataclass(frozen=True, slots=True)
class CommandCheck:
    """A command that is run beside the task."""

    launch: Launch

    @classmethod
    def parse(cls, field: str, command: mesos_pb2.CommandInfo, task: Launch) -> "CommandCheck":
        """Read `field` of a check. Raises InvalidCheckError."""
        try:
            return cls(derive(task, command))
        except InvalidTaskError as error:
            raise InvalidCheckError(f"{field}: {error}") from None

    def probe(self, supervisor: Supervisor) -> Probe:
        """A new run."""
        return CommandProbe(supervisor, self.launch)

    def status(self, result: Result | None) -> mesos_pb2.CheckStatusInfo:
        """What a CheckInfo reports of a result, or of none."""
        status = mesos_pb2.CheckStatusInfo(type=mesos_pb2.CheckInfo.COMMAND)
        status.command.SetInParent()
        if result is not None and result.exit_code is not None:
            status.command.exit_code = result.exit_code
        return status


class CommandProbe:
    """One run of a command."""

    def __init__(self, supervisor: Supervisor, launch: Launch) -> None:
        self._supervisor = supervisor
        self._launch = launch
        self._number = 0
        self._process: Process | None = None
        self._done: Callable[[Result], None] | None = None

    def start(self, loop: Loop, done: Callable[[Result], None]) -> None:
        self._done = done
        try:
            self._number = self._supervisor.begin(self._launch, self._started, self._ended)
        except LaunchError as error:
            self._started(error)

    def cancel(self) -> None:
        self._done = None
        if self._process is not None:
            # It is collected when it dies of this.
            self._supervisor.signal_tree(self._process, signal.SIGKILL)
        else:
            self._supervisor.cancel(self._number)

    def _started(self, outcome: Process | LaunchError) -> None:
        if isinstance(outcome, LaunchError):
            self._tell(Result(False, outcome.text, transient=_is_ours(outcome)))
        else:
            self._process = outcome

    def _ended(self, ending: Exit) -> None:
        process, self._process = self._process, None
        if process is not None:
            self._supervisor.signal_tree(process, signal.SIGKILL)
        self._tell(_result(ending))

    def _tell(self, result: Result) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(result)


def _is_ours(error: LaunchError) -> bool:
    """Whether a start failed for want of the executor's own resources, which says nothing about the task."""
    scarce = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
    return error.stage in (Stage.WARDEN, Stage.FORK, Stage.OUTPUT) or error.errno in scarce


def _result(ending: Exit) -> Result:
    if ending.signal is not None:
        # As a shell counts it; Mesos has one number for both, and a signal must not look like success.
        return Result(False, f"command terminated with signal {ending.signal}", exit_code=128 + ending.signal)
    return Result(ending.code == 0, f"command exited with status {ending.code}", exit_code=ending.code)


def derive(task: Launch, command: mesos_pb2.CommandInfo) -> Launch:
    """How a check's command is run: the task's environment, user, limits and directory; its own variables.

    `user` and `uris` of the command are ignored, as Mesos' executors do. Its output goes where the task's
    does. Raises InvalidTaskError for a command without a program and for a secret that the agent has left
    unresolved.
    """
    program = find_program(command)
    return replace(
        task,
        key=f"{task.key} (check)",
        argv=program.argv,
        program=program.file,
        env={**task.env, **of_command(command)},
        stdin=-1,
    )
