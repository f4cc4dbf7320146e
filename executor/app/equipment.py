"""What a task gets besides its process: a sandbox it may use, a way for its output, and somebody who looks
for progress in it.
"""

import contextlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from executor.app.task_run import TaskRun
from executor.config.settings import Settings
from executor.eventloop import Loop
from executor.output.progress import DEFAULT_PATTERN, compile_pattern
from executor.output.progress_reporter import Progress
from executor.output.progress_watcher import ProgressWatcher
from executor.output.pump import Pump
from executor.output.task_output import OutputPolicy, TaskOutput
from executor.process.identity import Identity
from executor.process.launch import Launch

PROGRESS_VARIABLE = "MESOKIT_PROGRESS_FILE"
"""Tells a task where to write its progress. In the option's value `{task}` stands for the task's id."""


@dataclass(frozen=True, slots=True)
class Equipment:
    """What all tasks are equipped from. `in_output` says whether progress is looked for in stdout and
    stderr.
    """

    loop: Loop
    pump: Pump
    policy: OutputPolicy
    pattern: re.Pattern[bytes]
    in_output: bool
    file: Path | None
    interval: float

    @classmethod
    def of(cls, settings: Settings, loop: Loop) -> "Equipment":
        """From the settings."""
        return cls(
            loop=loop,
            pump=Pump(loop),
            policy=OutputPolicy(settings.sandbox, settings.output_size, settings.output_backups),
            pattern=settings.progress_regex or compile_pattern(DEFAULT_PATTERN),
            in_output=settings.progress_regex is not None,
            file=settings.sandbox / settings.progress_file if settings.progress_file else None,
            interval=settings.progress_interval,
        )

    def equip(self, kept: TaskRun, launch: Launch, tell: Callable[[Progress], None]) -> Launch:
        """The launch with all that it needs; `kept.output` and `kept.progress` are set. Raises OSError."""
        if launch.user is not None:
            admit(launch.cwd, launch.user)
        environment = launch.env
        file: Path | None = None
        if self.file is not None:
            file = Path(str(self.file).replace("{task}", kept.task.id))
            _make_room(file, launch)
            environment = {PROGRESS_VARIABLE: str(file), **environment}
        if self.in_output or file is not None:
            kept.progress = ProgressWatcher(self.loop, self.pattern, self.interval, tell, file)
        tap = kept.progress.tap if kept.progress is not None and self.in_output else None
        kept.output = TaskOutput(self.pump, self.policy, kept.task.id, tap)
        return replace(launch, env=environment, stdout=kept.output.stdout, stderr=kept.output.stderr)


def admit(sandbox: Path, user: Identity) -> None:
    """Give the sandbox to a task's user where that user could not work in it: agents make it for the
    executor's user alone (mode 0750). Of several such users the latest has it. Raises OSError.
    """
    status = sandbox.stat()
    if status.st_uid == user.uid:
        return
    wanted = 0o070 if status.st_gid in user.groups else 0o007
    if user.uid != 0 and status.st_mode & wanted != wanted:
        # An executor that may not do this cannot become that user either, and the start will say so.
        with contextlib.suppress(PermissionError):
            os.chown(sandbox, user.uid, -1)


def _make_room(file: Path, launch: Launch) -> None:
    """The progress file's directory, which the task's user can write to if it had to be made."""
    if not file.parent.is_dir():
        file.parent.mkdir(parents=True)
        if launch.user is not None:
            os.chown(file.parent, launch.user.uid, launch.user.gid)
