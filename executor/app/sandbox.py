"""What a task gets besides its process: a sandbox it may use, a way for its output, and somebody who looks
for progress in it. Everything below the sandbox is reached through its descriptor (output/directory.py).
"""

import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from mesos.v1 import mesos_pb2

from executor.app.preload import load_everything
from executor.config.settings import Settings
from executor.eventloop import Loop
from executor.output.directory import Directory, file_name, unsafe_ancestor
from executor.output.progress import DEFAULT_PATTERN, compile_pattern
from executor.output.progress_reporter import Progress
from executor.output.progress_watcher import ProgressFile, ProgressWatcher
from executor.output.pump import Pump
from executor.output.task_output import OutputPolicy, TaskOutput
from executor.process.identity import Identity
from executor.process.launch import Launch

PROGRESS_VARIABLE = "MESOKIT_PROGRESS_FILE"
"""Tells a task where to write its progress. In the option's value `{task}` stands for the task's id."""


@dataclass(frozen=True, slots=True)
class TaskFiles:
    """What a task has of the sandbox: the launch with its descriptors and variables, the one that commands
    that check the task are derived from, and who looks after its output and progress.
    """

    launch: Launch
    check_launch: Launch
    output: TaskOutput
    progress: ProgressWatcher | None


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What all tasks get theirs from. `in_output` says whether progress is looked for in stdout and
    stderr; `unpacked` is where a one-file bundle lies, which its boot loader removes at the end.
    """

    loop: Loop
    directory: Directory
    pump: Pump
    policy: OutputPolicy
    pattern: re.Pattern[bytes]
    in_output: bool
    file: PurePath | None
    interval: float
    unpacked: Path | None

    @classmethod
    def of(cls, settings: Settings, loop: Loop, sandbox: Directory) -> "Sandbox":
        """From the settings."""
        policy = OutputPolicy(sandbox, settings.output_size, settings.output_backups)
        with suppress(OSError):  # each task will be told
            policy.prepare()
        pump = Pump(loop)
        if policy.size or settings.progress_regex is not None:
            # Made at start: later a task may leave no room for a thread. If there is none now, each task
            # tries.
            with suppress(OSError):
                pump.start()
        bundle = Path(getattr(sys, "_MEIPASS", ""))
        return cls(
            loop=loop,
            directory=sandbox,
            pump=pump,
            policy=policy,
            pattern=settings.progress_regex or compile_pattern(DEFAULT_PATTERN),
            in_output=settings.progress_regex is not None,
            file=settings.progress_file,
            interval=settings.progress_interval,
            unpacked=bundle if bundle.name.startswith("_MEI") else None,
        )

    def prepare(
        self, info: mesos_pb2.TaskInfo, launch: Launch, tell: Callable[[Progress], None]
    ) -> TaskFiles:
        """What a task gets of it; `tell` hears of its progress. Raises OSError."""
        user, task_id = launch.user, info.task_id.value
        if user is not None and user.uid != os.geteuid():
            self._admit(user)
        environment = launch.env
        file: ProgressFile | None = None
        progress: ProgressWatcher | None = None
        if self.file is not None:
            file, path = self._progress_file(self.file, task_id, user)
            environment = {PROGRESS_VARIABLE: str(path), **environment}
        if self.in_output or file is not None:
            progress = ProgressWatcher(self.loop, self.pattern, self.interval, tell, file)
        tap = progress.tap if progress is not None and self.in_output else None
        checked = info.health_check.HasField("command") or info.check.HasField("command")
        rotated = self.policy.size > 0
        try:
            output = TaskOutput(self.pump, self.policy, task_id, tap, for_checks=checked and rotated)
        except BaseException:
            if progress is not None:
                progress.finish()
            raise
        checks = launch if environment is launch.env else replace(launch, env=environment)
        equipped = checks
        if (output.stdout, output.stderr) != (checks.stdout, checks.stderr):
            equipped = replace(checks, stdout=output.stdout, stderr=output.stderr)
        if rotated:
            checks = equipped
        return TaskFiles(equipped, checks, output, progress)

    def _admit(self, user: Identity) -> None:
        """Make ready for a task of another user than ours. Raises OSError."""
        load_everything()
        try:
            self.directory.share(user)
        except PermissionError:
            if os.geteuid() == 0:
                raise
            return  # one that may not do this cannot become that user either, and the start will say so
        unsafe = unsafe_ancestor(self.unpacked) if self.unpacked is not None else None
        if unsafe is not None:
            raise OSError(
                f"this one-file executor runs no task of user {user.name!r} here: it was unpacked below "
                f"{unsafe}, where others than root may rename; use the directory bundle "
                "(mesokit-executor.tar.gz)"
            )

    def _progress_file(
        self, file: PurePath, task_id: str, user: Identity | None
    ) -> tuple[ProgressFile, Path]:
        """The file in its directory, where the task's user can write, and its path for the task."""
        *folders, name = [part.replace("{task}", file_name(task_id)) for part in file.parts]
        owner = user.uid if user is not None else None
        folder = self.directory.enter(folders, make=True, owner=owner)
        try:
            if user is not None and os.fstat(folder.descriptor).st_uid == os.geteuid():
                folder.share(user)
        except BaseException:
            folder.close()
            raise
        return ProgressFile(folder, name, owner), self.directory.path.joinpath(*folders, name)
