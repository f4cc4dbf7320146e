"""The executor: what the agent asks for is done by the keeper of tasks, and what becomes of them is told.

It also decides when to leave: when it is told to, or when nothing runs any more and all is acknowledged.
"""

import json
import logging
from functools import partial

from mesos.v1 import mesos_pb2
from mesos.v1.executor import executor_pb2

from executor.app.connection import Connection
from executor.app.equipment import Equipment
from executor.app.launch_spec import Surroundings
from executor.app.task_manager import TaskManager
from executor.config.settings import Settings
from executor.eventloop import SelectorLoop
from executor.output.progress_reporter import Progress
from executor.process.supervisor import Supervisor
from executor.protocol import Acknowledged, Action, Deliver, Drained, Phase, Shutdown

log = logging.getLogger(__name__)

TOLERATED_DEFECTS = 20
"""Errors that should not be possible, after which the executor gives up."""

_Event = executor_pb2.Event


class Executor:
    """One executor, from a connection that is being opened to its exit status."""

    def __init__(
        self,
        settings: Settings,
        loop: SelectorLoop,
        supervisor: Supervisor,
        connection: Connection,
        *,
        around: Surroundings,
        equipment: Equipment,
    ) -> None:
        self._settings = settings
        self._loop = loop
        self._connection = connection
        self._leaving: Shutdown | None = None
        self._status: int | None = None
        self.tasks = TaskManager(
            loop,
            supervisor,
            around,
            equipment,
            tell=connection.update,
            tell_progress=self._tell_progress,
            empty=self._leave_when_done,
        )
        connection.handler = self._act

    def run(self) -> int:
        """Everything; the exit status. Raises what a defect raises that comes again and again: one that
        met a single event must not end tasks that have nothing to do with it.
        """
        defects = 0
        while self._status is None:
            try:
                self._loop.run_once()
            except Exception:
                defects += 1
                log.exception("a defect of this executor; what it was doing is given up")
                if defects > TOLERATED_DEFECTS:
                    raise
        return self._status

    @property
    def shutting_down(self) -> bool:
        """Whether it is on its way out."""
        return self._leaving is not None

    def stop(self, reason: str, status: int = 0) -> None:
        """Kill every task within the shutdown grace period, then leave."""
        self._shut_down(Shutdown(reason, status))

    def _act(self, action: Action) -> None:
        match action:
            case Deliver(event):
                self._handle(event)
            case Acknowledged(task_id, _):
                log.debug("an update of task %r is acknowledged", task_id)
            case Shutdown():
                self._shut_down(action)
            case Drained(lost) if self._leaving is not None:
                self._finish(lost)
            case Drained(lost):
                # A LAUNCH may have come already and wait behind the last acknowledgement.
                self._loop.post(partial(self._finish, lost))

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
        self.tasks.executor_info = subscribed.executor_info
        kinds = {capability.type for capability in subscribed.framework_info.capabilities}
        self.tasks.tells_killing = mesos_pb2.FrameworkInfo.Capability.TASK_KILLING_STATE in kinds
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
            return
        self._connection.session.resume()
        self.tasks.launch(tasks, grouped=grouped)

    def _tell_progress(self, task_id: str, progress: Progress) -> None:
        """A framework message with the keys that Cook's scheduler reads."""
        message = {
            "task-id": task_id,
            "progress-sequence": progress.sequence,
            "progress-percent": progress.percent,
            "progress-message": progress.message,
        }
        self._connection.message(json.dumps(message, ensure_ascii=False).encode())

    def _shut_down(self, why: Shutdown) -> None:
        if self._leaving is None:
            log.info("shutting down: %s", why.reason)
            self._leaving = why
        self.tasks.kill_all(kill_grace(self._settings.shutdown_grace), f"killed: {why.reason}")
        self._leave_when_done()

    def _leave_when_idle(self) -> None:
        if not self.tasks.received:
            self.stop(f"no task has come within {self._settings.idle_timeout:g} s")

    def _leave_when_done(self) -> None:
        """Nothing runs: wait for the last acknowledgements, unless this executor is to stay."""
        if not self.tasks.living and (self._leaving is not None or not self._settings.stay):
            self._connection.drain()

    def _finish(self, lost: int) -> None:
        if self.tasks.living:
            return
        self._status = self._leaving.status if self._leaving is not None else 0
        if lost:
            log.error("%d updates were never acknowledged", lost)
            if self._connection.session.phase is not Phase.CLOSED:
                self._status = self._status or 1


def kill_grace(shutdown_grace: float) -> float:
    """What tasks get of the shutdown grace period: the rest is for SIGKILL, the last updates and the agent,
    which looks for ended executors only once a second.
    """
    return max(shutdown_grace - min(2.0, 0.4 * shutdown_grace), 0.0)
