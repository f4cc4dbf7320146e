"""The executor: what the agent asks for is done by the task manager, and what becomes of it is told.

One turn of the owner thread is: whatever the loop has to call is called; then what came for the executor is
handed to the tasks, and what the tasks say to the connection, until there is nothing more; then it is asked
whether it is time to leave. Nobody calls back: both sides are asked for what they have (`take`).
"""

import contextlib
import json
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial

from mesos.v1 import mesos_pb2
from mesos.v1.executor import executor_pb2

from executor.app.connection import Connection, News
from executor.app.task_event import ProgressMade, Said, StatusUpdate
from executor.app.task_manager import TaskManager
from executor.config.settings import Settings
from executor.eventloop import Timer, TurningLoop
from executor.output.progress_reporter import Progress
from executor.protocol import Acknowledged, Deliver, Shutdown

log = logging.getLogger(__name__)

TOLERATED_DEFECTS = 20
DEFECT_WINDOW = 3600.0
"""Errors that should not be possible and that no task accounts for: beyond so many within so many seconds the
executor gives up."""

MEMORY_PAUSE = 0.05
"""Seconds until what there was no memory for is tried again."""

_Event = executor_pb2.Event


class Executor:
    """One executor, from a connection that is being opened to its exit status."""

    def __init__(
        self,
        settings: Settings,
        loop: TurningLoop,
        connection: Connection,
        tasks: TaskManager,
    ) -> None:
        self._settings = settings
        self._loop = loop
        self._connection = connection
        self._leaving: Shutdown | None = None
        self._leave_by = math.inf
        self._leave_timer: tuple[float, Timer] | None = None
        self._about_to_leave = False
        self._status: int | None = None
        self._defects: deque[float] = deque()
        self.container_id: str | None = None
        self.tasks = tasks

    def run(self) -> int:
        """Everything; the exit status. Raises what a defect raises that comes again and again: one that
        met a single event must not end tasks that have nothing to do with it.
        """
        while self._status is None:
            self.turn()
        return self._status

    def turn(self) -> int | None:
        """One turn; the exit status once it is time to leave."""
        self._guarded(self._loop.run_once)
        self._guarded(self._settle)
        return self._status

    @property
    def shutting_down(self) -> bool:
        """Whether it is on its way out."""
        return self._leaving is not None

    def stop(self, reason: str, status: int = 0) -> None:
        """Kill every task within the shutdown grace period, then leave."""
        self._shut_down(Shutdown(reason, status))

    def _guarded(self, step: Callable[[], object]) -> None:
        try:
            step()
        except MemoryError:
            # No mistake of ours: what was done is done again when others have let go of some.
            log.warning("out of memory: trying again")
            time.sleep(MEMORY_PAUSE)
            self._loop.post(_nothing)
        except Exception:
            now = self._loop.now()
            while self._defects and self._defects[0] <= now - DEFECT_WINDOW:
                self._defects.popleft()
            self._defects.append(now)
            log.exception("a defect of this executor; what it was doing is given up")
            if len(self._defects) > TOLERATED_DEFECTS:
                raise

    def _settle(self) -> None:
        """Hand on what was said, until nobody says anything."""
        while True:
            if (news := self._connection.take()) is not None:
                with _not_lost(partial(self._connection.put_back, news)):
                    self._act(news)
            elif (said := self.tasks.take()) is not None:
                with _not_lost(partial(self.tasks.put_back, said)):
                    self._tell(said)
            else:
                break
        self._consider_leaving()

    def _act(self, news: News) -> None:
        match news:
            case Deliver(event):
                self._handle(event)
            case Acknowledged(task_id, _):
                log.debug("an update of task %r is acknowledged", task_id)
            case Shutdown():
                self._shut_down(news)

    def _tell(self, said: Said) -> None:
        match said:
            case StatusUpdate(status):
                self._connection.update(status)
            case ProgressMade(task_id, progress):
                self._connection.message(progress_message(task_id, progress))

    def _handle(self, event: executor_pb2.Event) -> None:
        match event.type:
            case _Event.SUBSCRIBED:
                self._subscribed(event.subscribed)
            case _Event.LAUNCH:
                self._launch([event.launch.task], grouped=False)
            case _Event.LAUNCH_GROUP:
                self._launch(list(event.launch_group.task_group.tasks), grouped=True)
            case _Event.KILL:
                self.tasks.kill(event.kill.task_id.value, event.kill.kill_policy)
            case _Event.MESSAGE:
                log.info("ignoring a framework message of %d bytes", len(event.message.data))

    def _subscribed(self, subscribed: executor_pb2.Event.Subscribed) -> None:
        log.info("subscribed with agent %s", subscribed.agent_info.id.value)
        self.container_id = subscribed.container_id.value or None
        self.tasks.executor_info = subscribed.executor_info
        kinds = {capability.type for capability in subscribed.framework_info.capabilities}
        self.tasks.tell_killing(mesos_pb2.FrameworkInfo.Capability.TASK_KILLING_STATE in kinds)
        idle = self._settings.idle_timeout
        if idle and not self.tasks.received:
            self._loop.call_at(self._loop.now() + idle, self._leave_when_idle)

    def _launch(self, tasks: list[mesos_pb2.TaskInfo], *, grouped: bool) -> None:
        for task in tasks:
            if not self.tasks.knows(task.task_id.value):
                self._connection.session.track(task)
        self.tasks.address = self._connection.address
        if self._leaving is not None:
            self.tasks.refuse(tasks, "the executor is shutting down")
        else:
            self.tasks.launch(tasks, grouped=grouped, unlaunchable=self._connection.unlaunchable)
        for task in tasks:
            self._connection.unlaunchable.pop(task.task_id.value, None)

    def _shut_down(self, why: Shutdown) -> None:
        if self._leaving is None:
            log.info("shutting down: %s", why.reason)
            self._leaving = why
            self._leave_by = self._loop.now() + leave_grace(self._settings.shutdown_grace)
        self.tasks.kill_all(kill_grace(self._settings.shutdown_grace), f"killed: {why.reason}")

    def _leave_when_idle(self) -> None:
        if not self.tasks.received:
            self.stop(f"no task has come within {self._settings.idle_timeout:g} s")

    def _leave_at(self) -> float | None:
        """From when on there is nothing to stay for, as things are now; None while there is."""
        if self.tasks.living:
            return None
        session = self._connection.session
        if self._leaving is not None:
            # An agent that takes no updates ends us after the grace it gave, acknowledged or not.
            return min(session.wait_until(), self._leave_by if session.told_to_leave else math.inf)
        if self._settings.stay or not self.tasks.received:
            return None
        return max(session.wait_until(), session.changed_at + self._settings.linger)

    def _consider_leaving(self) -> None:
        at = self._leave_at()
        due = at is not None and at <= self._loop.now()
        if due and self._about_to_leave:
            self._finish()
        elif due:
            # A LAUNCH may have come already and wait to be called: one more turn.
            self._about_to_leave = True
            self._loop.post(_nothing)
        else:
            self._about_to_leave = False
            self._wake_up_at(at)

    def _wake_up_at(self, at: float | None) -> None:
        if self._leave_timer is not None:
            if self._leave_timer[0] == at:
                return
            self._leave_timer[1].cancel()
        self._leave_timer = None if at is None else (at, self._loop.call_at(at, _nothing))

    def _finish(self) -> None:
        session = self._connection.session
        self._status = self._leaving.status if self._leaving is not None else 0
        if lost := len(session.unacknowledged):
            log.error("%d updates were never acknowledged", lost)
            # An agent that asked to leave may have done with its framework, and takes no more of it.
            if session.refused_updates or not session.told_to_leave:
                self._status = self._status or 1


@contextlib.contextmanager
def _not_lost(put_back: Callable[[], None]) -> Iterator[None]:
    """For want of memory, what was taken is put back."""
    try:
        yield
    except MemoryError:
        put_back()
        raise


def progress_message(task_id: str, progress: Progress) -> bytes:
    """A framework message with the keys that Cook's scheduler reads."""
    message = {
        "task-id": task_id,
        "progress-sequence": progress.sequence,
        "progress-percent": progress.percent,
        "progress-message": progress.message,
    }
    return json.dumps(message, ensure_ascii=False).encode()


def kill_grace(shutdown_grace: float) -> float:
    """What tasks get of the shutdown grace period: the rest is for SIGKILL, the last updates and the agent,
    which looks for ended executors only once a second.
    """
    return max(shutdown_grace - min(2.0, 0.4 * shutdown_grace), 0.0)


def _nothing() -> None:
    """For a turn in which only the state is looked at anew."""


def leave_grace(shutdown_grace: float) -> float:
    """Seconds after which an executor that its agent told to leave leaves, whatever was not acknowledged."""
    return max(shutdown_grace - min(1.0, 0.2 * shutdown_grace), 0.0)
