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

from executor.app.preload import load_everything
from executor.app.task_run import TaskRun
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
class Equipment:
    """What all tasks are equipped from. `in_output` says whether progress is looked for in stdout and
    stderr; `unpacked` is where a one-file bundle lies, which its boot loader removes at the end.
    """

    loop: Loop
    sandbox: Directory
    pump: Pump
    policy: OutputPolicy
    pattern: re.Pattern[bytes]
    in_output: bool
    file: PurePath | None
    interval: float
    unpacked: Path | None

    @classmethod
    def of(cls, settings: Settings, loop: Loop, sandbox: Directory) -> "Equipment":
        """From the settings."""
        policy = OutputPolicy(sandbox, settings.output_size, settings.output_backups)
        with suppress(OSError):  # each task will be told
            policy.prepare()
        bundle = Path(getattr(sys, "_MEIPASS", ""))
        return cls(
            loop=loop,
            sandbox=sandbox,
            pump=Pump(loop),
            policy=policy,
            pattern=settings.progress_regex or compile_pattern(DEFAULT_PATTERN),
            in_output=settings.progress_regex is not None,
            file=settings.progress_file,
            interval=settings.progress_interval,
            unpacked=bundle if bundle.name.startswith("_MEI") else None,
        )

    def equip(self, kept: TaskRun, launch: Launch, tell: Callable[[Progress], None]) -> Launch:
        """The launch with all that it needs; `kept.output`, `kept.progress` and `kept.launch` are set, the
        last to what commands that check the task are derived from. Raises OSError.
        """
        user = launch.user
        if user is not None and user.uid != os.geteuid():
            self._admit(user)
        environment = launch.env
        file: ProgressFile | None = None
        if self.file is not None:
            file, path = self._progress_file(self.file, kept.task.id, user)
            environment = {PROGRESS_VARIABLE: str(path), **environment}
        if self.in_output or file is not None:
            kept.progress = ProgressWatcher(self.loop, self.pattern, self.interval, tell, file)
        tap = kept.progress.tap if kept.progress is not None and self.in_output else None
        info = kept.task.info
        checked = info.health_check.HasField("command") or info.check.HasField("command")
        kept.output = TaskOutput(
            self.pump, self.policy, kept.task.id, tap, for_checks=checked and self.policy.size > 0
        )
        equipped = replace(launch, env=environment, stdout=kept.output.stdout, stderr=kept.output.stderr)
        kept.launch = equipped if self.policy.size else replace(launch, env=environment)
        return equipped

    def _admit(self, user: Identity) -> None:
        """Make ready for a task of another user than ours. Raises OSError."""
        load_everything()
        try:
            self.sandbox.share(user)
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
        folder = self.sandbox.enter(folders, make=True, owner=owner)
        try:
            if user is not None and os.fstat(folder.descriptor).st_uid == os.geteuid():
                folder.share(user)
        except BaseException:
            folder.close()
            raise
        return ProgressFile(folder, name, owner), self.sandbox.path.joinpath(*folders, name)
