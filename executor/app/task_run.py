"""One running task: what happens to it from its LAUNCH to its end, as a table of stages.

RECEIVED     LAUNCH has come; nothing is told.
WAITING      STARTING is told; the start waits for its turn, so that a KILL that is already here comes first.
STARTING     The warden has been asked for the process.
RUNNING      The task's process runs its program. A task that is being killed stays here until that process
             has ended; SIGTERM goes to the whole tree, SIGKILL at the deadline (task/kill_policy.py).
LINGERING    The process has ended while the task is being killed: what it left behind has the rest of the
             grace, for a shell dies of SIGTERM at once, and what it ran may need its time.
SWEEPING     SIGKILL is on its way to whatever is left.
DRAINING     Nothing lives any more; the last of the output is being put in place.
OVER         The end is told.

What can happen is an `Event`. `TABLE` says what each means in each stage; one without an entry there is late
news of something that is over. `handle` returns what the task has to say. Nothing in here waits: timers,
answers of the warden, ends of processes and results of checks all come back as events by `feed`.
"""

import logging
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mesos.v1 import mesos_pb2

from executor.app.conclusion import conclusion
from executor.app.launch_spec import LaunchSpec
from executor.app.lingering import Lingering
from executor.app.sandbox import TaskFiles
from executor.app.task_event import End, Event, Kill, ProgressMade, Said, Stage, StatusUpdate
from executor.checks.check import Checker
from executor.checks.health import Health, HealthChecker
from executor.config.settings import Settings
from executor.eventloop import Loop, Timer
from executor.output.progress_reporter import Progress
from executor.output.task_output import TaskOutput
from executor.process.launch import Exit, Launch, LaunchError, Process
from executor.process.procfs import Stat
from executor.process.signals import Sweep
from executor.process.supervisor import Supervisor
from executor.task.kill_policy import KillDeadline, grace_of
from executor.task.state import State
from executor.task.status import Ending, make_status
from executor.task.task import Task

log = logging.getLogger(__name__)

RETRY_KILL = 1.0
"""Seconds after which SIGKILL is sent again to a task that has not died of it: the kernel may hold it."""

Reason = mesos_pb2.TaskStatus.Reason


@dataclass(slots=True)
class Services:
    """What all tasks are run with. `prepare` makes a task's files, and raises OSError; `tells_killing` says
    whether the framework wants to hear of TASK_KILLING.
    """

    loop: Loop
    supervisor: Supervisor
    sweep: Sweep
    prepare: Callable[[mesos_pb2.TaskInfo, Launch, Callable[[Progress], None]], TaskFiles]
    settings: Settings
    tells_killing: bool = False


@dataclass(slots=True, eq=False)
class TaskRun:
    """See the module. `feed` brings an event to `handle` soon, on the owner thread. `process` is there while
    the task's own process lives, `started` from its start on, `ending` from its end on; `lingering` are
    the processes that it left behind.
    """

    task: Task
    services: Services
    feed: Callable[["TaskRun", Event, Any], None]
    stage: Stage = Stage.RECEIVED
    spec: LaunchSpec | None = None
    files: TaskFiles | None = None
    process: Process | None = None
    started: Process | None = None
    ending: Ending | None = None
    lingering: Lingering = field(default_factory=Lingering)
    health: HealthChecker | None = None
    checker: Checker | None = None
    _start: int = 0
    _defect: str = ""
    _finishing: bool = False
    _escalation: Timer | None = None
    _completion: Timer | None = None
    _said: list[Said] = field(default_factory=list)

    @property
    def output(self) -> TaskOutput | None:
        """Its output, from its start on."""
        return self.files.output if self.files is not None else None

    @property
    def progress(self) -> Progress | None:
        """The last that it has said of its progress."""
        watcher = self.files.progress if self.files is not None else None
        return watcher.latest if watcher is not None else None

    def handle(self, event: Event, what: Any = None) -> list[Said]:
        """Do what an event means now; what there is to tell."""
        handler = TABLE[self.stage].get(event)
        if handler is not None:
            handler(self, what)
        elif event is Event.KILL:
            log.info("task %r has ended already", self.task.id)
        said, self._said = self._said, []
        return said

    def break_down(self, why: str) -> list[Said]:
        """A defect was met: end this task, and nothing else. May be repeated."""
        self._defect = why
        self._silence()
        if self.process is not None and self.stage is Stage.RUNNING:
            now = self.services.loop.now()
            self.task.kill = KillDeadline(now, now)
            self._escalate()
        elif self.stage is not Stage.OVER:
            if self.stage is Stage.STARTING:
                self.services.supervisor.cancel(self._start)
            self._over(End(State.FAILED, why, begun=True))
        said, self._said = self._said, []
        return said

    def _soon(self, event: Event) -> Callable[..., None]:
        """A callback that brings an event."""

        def call(what: Any = None) -> None:
            self.feed(self, event, what)

        return call

    def _accept(self, spec: LaunchSpec) -> None:
        self.spec = spec
        self.task.check_status = spec.check_status()
        self._step(State.STARTING)
        self.stage = Stage.WAITING

    def _begin(self, _: object) -> None:
        assert self.spec is not None
        services = self.services
        try:
            self.files = services.prepare(self.task.info, self.spec.launch, self._progress_made)
            self._start = services.supervisor.begin(self.files.launch, self._outcome, self._soon(Event.ENDED))
        except LaunchError as error:
            self._not_started(error)
        except (OSError, ValueError, RuntimeError, MemoryError) as error:
            text = f"cannot prepare the task: {str(error) or type(error).__name__}"
            self._over(End(State.FAILED, text, Reason.REASON_CONTAINER_LAUNCH_FAILED))
        else:
            self.stage = Stage.STARTING

    def _outcome(self, outcome: Process | LaunchError) -> None:
        event = Event.NOT_STARTED if isinstance(outcome, LaunchError) else Event.STARTED
        self.feed(self, event, outcome)

    def _not_started(self, error: LaunchError) -> None:
        if self.task.kill is not None:
            self._over(End(State.KILLED, f"killed before it was started: {error.text}"))
        else:
            self._over(End(State.FAILED, error.text, Reason.REASON_CONTAINER_LAUNCH_FAILED))

    def _run(self, process: Process) -> None:
        assert self.files is not None
        self.process = self.started = process
        self.stage = Stage.RUNNING
        self.files.output.started()
        self._step(State.RUNNING)
        if self.task.kill is not None:
            self._tell_killing(Kill(0.0, "killed while it was being started"))
            self._terminate()
            return
        info, loop = self.task.info, self.services.loop
        if info.HasField("max_completion_time"):
            limit = max(info.max_completion_time.nanoseconds, 0) / 1e9
            self._completion = loop.call_at(loop.now() + limit, self._soon(Event.EXPIRED))
        self._start_checks(self.files.check_launch)

    def _start_checks(self, launch: Launch) -> None:
        assert self.spec is not None
        loop, supervisor = self.services.loop, self.services.supervisor
        if (health := self.spec.health(launch)) is not None:
            self.health = HealthChecker(loop, supervisor, health, self._soon(Event.HEALTH))
            self.health.start()
        if (check := self.spec.check(launch)) is not None:
            self.checker = Checker(loop, supervisor, check, self._soon(Event.CHECK))
            self.checker.start()

    def _kill_before_start(self, kill: Kill) -> None:
        self._over(End(State.KILLED, f"{kill.why} before it was started"))

    def _kill_start(self, kill: Kill) -> None:
        """Its start is under way: most likely it runs in a moment and can be killed as any other; one that
        hangs is given up when the grace is over.
        """
        if self._set_deadline(kill.grace):
            self._escalate_at_deadline()

    def _kill(self, kill: Kill) -> None:
        first = self.task.kill is None
        if not self._set_deadline(kill.grace):
            return
        if first:
            log.info("killing task %r, %g s of grace: %s", self.task.id, kill.grace, kill.why)
            self._silence()
            self._tell_killing(kill)
            self._terminate()
        else:
            self._escalate_at_deadline()

    def _set_deadline(self, grace: float) -> bool:
        """Set the deadline of a kill, or bring it nearer; whether that changed anything."""
        task = self.task
        wanted = (
            KillDeadline.after(self.services.loop.now(), grace)
            if task.kill is None
            else task.kill.shortened(grace)
        )
        changed, task.kill = wanted != task.kill, wanted
        return changed

    def _tell_killing(self, kill: Kill) -> None:
        if kill.told and self.services.tells_killing:
            self._step(State.KILLING, kill.why)
        else:
            self.task.step(State.KILLING, time.time())

    def _terminate(self) -> None:
        kill = self.task.kill
        assert kill is not None
        if kill.at > kill.began:
            self._signal(signal.SIGTERM)
        self._escalate_at_deadline()

    def _escalate_at_deadline(self) -> None:
        kill, loop = self.task.kill, self.services.loop
        assert kill is not None
        self._cancel_escalation()
        if kill.at <= loop.now():
            self.feed(self, Event.DEADLINE, None)
        else:
            self._escalation = loop.call_at(kill.at, self._soon(Event.DEADLINE))

    def _escalate(self, _: object = None) -> None:
        self._signal(signal.SIGKILL)
        self._cancel_escalation()
        again = self.services.loop.now() + RETRY_KILL
        self._escalation = self.services.loop.call_at(again, self._soon(Event.DEADLINE))

    def _give_up_start(self, _: object) -> None:
        self.services.supervisor.cancel(self._start)
        self._over(End(State.KILLED, "killed before it was started"))

    def _signal(self, number: signal.Signals) -> None:
        assert self.started is not None
        self.services.sweep.signal(self.started, number)

    def _ended(self, ending: Exit) -> None:
        self.process = None
        self.ending = Ending(ending.code, ending.signal, ending.core)
        self._silence()
        kill = self.task.kill
        if kill is not None and kill.at > self.services.loop.now():
            self.stage = Stage.LINGERING
            self._look_for_survivors()
        else:
            self._sweep()

    def _look_for_survivors(self, _: object = None) -> None:
        self.lingering.forget(self.services.loop)
        assert self.started is not None
        self.services.sweep.survivors(self.started, self._soon(Event.SURVIVORS))

    def _wait_for(self, survivors: list[Stat]) -> None:
        self.lingering.forget(self.services.loop)
        if not self.lingering.watch(self.services.loop, survivors, self._soon(Event.LEFT)):
            self._drain()

    def _sweep(self, _: object = None) -> None:
        assert self.started is not None
        self._cancel_escalation()
        self.lingering.forget(self.services.loop)
        self.stage = Stage.SWEEPING
        self.services.sweep.signal(self.started, signal.SIGKILL, self._soon(Event.SWEPT))

    def _drain(self, _: object = None) -> None:
        assert self.files is not None
        self._cancel_escalation()
        self.lingering.forget(self.services.loop)
        self.stage = Stage.DRAINING
        self.files.output.drain(self.services.loop, self._soon(Event.DRAINED))

    def _tell_ending(self, _: object) -> None:
        assert self.files is not None
        assert self.ending is not None
        self._finish_progress()
        if self.files.output.problem:
            log.warning("task %r: %s", self.task.id, self.files.output.problem)
        self._over(conclusion(self.task, self.ending, self.progress, self._defect))

    def _expire(self, _: object) -> None:
        if self.task.kill is None:
            self.task.expired = True
            self._kill(Kill(0.0, "max_completion_time reached", told=False))

    def _hear_health(self, news: Health) -> None:
        if self.task.kill is not None:
            return
        self.task.healthy = news.healthy
        self._step(State.RUNNING, news.text, Reason.REASON_TASK_HEALTH_CHECK_STATUS_UPDATED)
        if news.kill:
            grace = grace_of([self.task.info.kill_policy], self.services.settings.kill_grace)
            self._kill(Kill(grace, f"killed after {news.failures} failed health checks: {news.text}"))

    def _hear_check(self, status: mesos_pb2.CheckStatusInfo) -> None:
        if self.task.kill is None:
            self.task.check_status = status
            self._step(State.RUNNING, "", Reason.REASON_TASK_CHECK_STATUS_UPDATED)

    def _progress_made(self, progress: Progress) -> None:
        if self._finishing:
            # The last report comes before the end that is just being told.
            self._hear_progress(progress)
        else:
            self.feed(self, Event.PROGRESS, progress)

    def _finish_progress(self) -> None:
        if self.files is not None and self.files.progress is not None:
            self._finishing = True
            self.files.progress.finish()

    def _hear_progress(self, progress: Progress) -> None:
        self._said.append(ProgressMade(self.task.id, progress))

    def _over(self, end: End) -> None:
        """The one place where a task ends."""
        self._silence()
        if self.files is not None:
            self.files.output.close()
        self._finish_progress()
        self._cancel_escalation()
        self.lingering.forget(self.services.loop)
        if end.begun and self.task.state is State.RECEIVED:
            self._step(State.STARTING)
        self._step(end.state, end.message, end.reason, end.facts)
        self.stage = Stage.OVER

    def _silence(self) -> None:
        """No check may speak of the task from here on, and no limit of time end it."""
        if self.health is not None:
            self.health.pause()
        if self.checker is not None:
            self.checker.pause()
        if self._completion is not None:
            self._completion.cancel()
            self._completion = None

    def _cancel_escalation(self) -> None:
        if self._escalation is not None:
            self._escalation.cancel()
            self._escalation = None

    def _step(
        self,
        state: State,
        message: str = "",
        reason: mesos_pb2.TaskStatus.Reason | None = None,
        facts: Mapping[str, object] | None = None,
    ) -> None:
        """Go to a state and tell of it."""
        now, task = time.time(), self.task
        before, known = task.state, len(task.history)
        task.step(state, now)
        try:
            executor_id = self.services.settings.executor_id
            status = make_status(task, executor_id, now, message=message, reason=reason, facts=facts)
        except BaseException:
            # What cannot be told has not happened: for want of memory it is tried again.
            task.state = before
            del task.history[known:]
            raise
        log.info("task %r: %s%s", task.id, state.name, f": {message}" if message else "")
        self._said.append(StatusUpdate(status))


Handler = Callable[[TaskRun, Any], None]

TABLE: Mapping[Stage, Mapping[Event, Handler]] = {
    Stage.RECEIVED: {
        Event.ACCEPTED: TaskRun._accept,
        Event.REFUSED: TaskRun._over,
        Event.KILL: TaskRun._kill_before_start,
    },
    Stage.WAITING: {
        Event.TURN: TaskRun._begin,
        Event.KILL: TaskRun._kill_before_start,
    },
    Stage.STARTING: {
        Event.STARTED: TaskRun._run,
        Event.NOT_STARTED: TaskRun._not_started,
        Event.KILL: TaskRun._kill_start,
        Event.DEADLINE: TaskRun._give_up_start,
        # It may say so before we have heard of its start.
        Event.PROGRESS: TaskRun._hear_progress,
    },
    Stage.RUNNING: {
        Event.KILL: TaskRun._kill,
        Event.DEADLINE: TaskRun._escalate,
        Event.ENDED: TaskRun._ended,
        Event.EXPIRED: TaskRun._expire,
        Event.HEALTH: TaskRun._hear_health,
        Event.CHECK: TaskRun._hear_check,
        Event.PROGRESS: TaskRun._hear_progress,
    },
    Stage.LINGERING: {
        Event.KILL: TaskRun._kill,
        Event.DEADLINE: TaskRun._sweep,
        Event.LEFT: TaskRun._look_for_survivors,
        Event.SURVIVORS: TaskRun._wait_for,
        Event.PROGRESS: TaskRun._hear_progress,
    },
    Stage.SWEEPING: {
        Event.SWEPT: TaskRun._drain,
        Event.PROGRESS: TaskRun._hear_progress,
    },
    Stage.DRAINING: {
        Event.DRAINED: TaskRun._tell_ending,
        Event.PROGRESS: TaskRun._hear_progress,
    },
    Stage.OVER: {},
}
"""What an event means in each stage."""
