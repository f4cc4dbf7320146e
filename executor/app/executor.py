"""The executor: joins the session, the link and the keeper of tasks, all on one thread.

Threads of the link post what they read to the loop. Every report goes through the session, and what the
session asks for is done at once and in order; then the loop sleeps until something happens or the
session's next deadline.
"""

import json
import logging
from collections.abc import Sequence
from functools import partial

from mesos.v1 import mesos_pb2
from mesos.v1.executor import executor_pb2

from executor.app.equipment import Equipment
from executor.app.keeper import Keeper
from executor.app.preparation import Surroundings
from executor.codec import encode_call
from executor.config.settings import Settings
from executor.link import (
    CallAnswered,
    EventReceived,
    Link,
    Noise,
    Report,
    StreamLost,
    StreamOpened,
    StreamRefused,
    Target,
)
from executor.progress.reporter import Progress
from executor.session import (
    Acknowledged,
    Action,
    Deliver,
    Drained,
    Drop,
    Phase,
    Policy,
    Send,
    Session,
    Shutdown,
    Subscribe,
)
from executor.supervisor.loop import SelectorLoop, Timer
from executor.supervisor.supervisor import Supervisor

log = logging.getLogger(__name__)

_Event = executor_pb2.Event


class Executor:
    """One executor, from its first SUBSCRIBE to its exit status."""

    def __init__(
        self,
        settings: Settings,
        loop: SelectorLoop,
        supervisor: Supervisor,
        target: Target,
        *,
        around: Surroundings,
        equipment: Equipment,
    ) -> None:
        self._settings = settings
        self._loop = loop
        self.session = Session(settings.framework_id, settings.executor_id, policy_of(settings))
        self.keeper = Keeper(
            loop,
            supervisor,
            around,
            equipment,
            tell=self._update,
            tell_progress=self._tell_progress,
            empty=self._leave_when_done,
        )
        self._link = Link(target, lambda report: loop.post(partial(self._hear, report)))
        self._alarm: tuple[float, Timer] | None = None
        self._leaving: Shutdown | None = None
        self._status: int | None = None

    def run(self) -> int:
        """Everything; the exit status."""
        self._perform(self.session.start(self._loop.now()))
        while self._status is None:
            self._loop.run_once()
        self._link.close()
        return self._status

    @property
    def shutting_down(self) -> bool:
        """Whether it is on its way out."""
        return self._leaving is not None

    def stop(self, reason: str, status: int = 0) -> None:
        """Kill every task within the shutdown grace period, then leave."""
        self._shut_down(Shutdown(reason, status))

    def _hear(self, report: Report) -> None:
        now = self._loop.now()
        match report:
            case StreamOpened(_, address):
                self.keeper.address = address
            case EventReceived(attempt, event):
                self._perform(self.session.receive(attempt, event, now))
            case CallAnswered(attempt, uuid, status, body):
                self._perform(self.session.sent(attempt, uuid, status, body, now))
            case StreamLost(attempt, reason):
                self._perform(self.session.lost(attempt, reason, now))
            case StreamRefused(attempt, status, body):
                self._perform(self.session.refused(attempt, status, body, now))
            case Noise(attempt):
                self.session.heard(attempt, now)

    def _perform(self, actions: Sequence[Action]) -> None:
        encoding = self._settings.encoding
        for action in actions:
            match action:
                case Subscribe(attempt, call):
                    self._link.subscribe(attempt, encode_call(call, encoding))
                case Send(attempt, call, uuid):
                    self._link.send(attempt, uuid, encode_call(call, encoding))
                case Drop():
                    self._link.drop()
                case Deliver(event):
                    self._handle(event)
                case Acknowledged(task_id, _):
                    log.debug("an update of task %r is acknowledged", task_id)
                case Shutdown():
                    self._shut_down(action)
                case Drained(lost):
                    self._finish(lost)
        self._set_alarm()

    def _set_alarm(self) -> None:
        deadline = self.session.next_deadline()
        if self._alarm is not None:
            if self._alarm[0] == deadline:
                return
            self._alarm[1].cancel()
        self._alarm = None if deadline is None else (deadline, self._loop.call_at(deadline, self._ring))

    def _ring(self) -> None:
        self._alarm = None
        self._perform(self.session.timer(self._loop.now()))

    def _handle(self, event: executor_pb2.Event) -> None:
        match event.type:
            case _Event.SUBSCRIBED:
                self._subscribed(event.subscribed)
            case _Event.LAUNCH:
                self._launch([event.launch.task], grouped=False)
            case _Event.LAUNCH_GROUP:
                self._launch(list(event.launch_group.task_group.tasks), grouped=True)
            case _Event.KILL:
                self.keeper.kill(event.kill.task_id.value, event.kill.kill_policy)
            case _Event.MESSAGE:
                log.info("ignoring a framework message of %d bytes", len(event.message.data))

    def _subscribed(self, subscribed: executor_pb2.Event.Subscribed) -> None:
        log.info("subscribed with agent %s", subscribed.agent_info.id.value)
        self.keeper.executor_info = subscribed.executor_info
        kinds = {capability.type for capability in subscribed.framework_info.capabilities}
        self.keeper.tells_killing = mesos_pb2.FrameworkInfo.Capability.TASK_KILLING_STATE in kinds
        idle = self._settings.idle_timeout
        if idle and not self.keeper.received:
            self._loop.call_at(self._loop.now() + idle, self._leave_when_idle)

    def _launch(self, tasks: list[mesos_pb2.TaskInfo], *, grouped: bool) -> None:
        for task in tasks:
            if not self.keeper.knows(task.task_id.value):
                self.session.track(task)
        if self._leaving is not None:
            self.keeper.refuse(tasks, "the executor is shutting down")
            return
        self.session.resume()
        self.keeper.launch(tasks, grouped=grouped)

    def _update(self, status: mesos_pb2.TaskStatus) -> None:
        self._perform(self.session.update(status, self._loop.now()))

    def _tell_progress(self, task_id: str, progress: Progress) -> None:
        """A framework message with the keys that Cook's scheduler reads."""
        message = {
            "task-id": task_id,
            "progress-sequence": progress.sequence,
            "progress-percent": progress.percent,
            "progress-message": progress.message,
        }
        self._perform(self.session.message(json.dumps(message, ensure_ascii=False).encode()))

    def _shut_down(self, why: Shutdown) -> None:
        if self._leaving is None:
            log.info("shutting down: %s", why.reason)
            self._leaving = why
        self.keeper.kill_all(kill_grace(self._settings.shutdown_grace), f"killed: {why.reason}")
        self._leave_when_done()

    def _leave_when_idle(self) -> None:
        if not self.keeper.received:
            self.stop(f"no task has come within {self._settings.idle_timeout:g} s")

    def _leave_when_done(self) -> None:
        """Nothing runs: wait for the last acknowledgements, unless this executor is to stay."""
        if not self.keeper.living and (self._leaving is not None or not self._settings.stay):
            self._perform(self.session.drain(self._loop.now()))

    def _finish(self, lost: int) -> None:
        self._status = self._leaving.status if self._leaving is not None else 0
        if lost:
            log.error("%d updates were never acknowledged", lost)
            if self.session.phase is not Phase.CLOSED:
                self._status = self._status or 1


def policy_of(settings: Settings) -> Policy:
    """The session's clocks."""
    return Policy(
        checkpoint=settings.checkpoint,
        recovery_timeout=settings.recovery_timeout,
        backoff_max=settings.backoff_max,
        registration_timeout=settings.registration_timeout,
        subscribe_timeout=settings.subscribe_timeout,
        ack_timeout=settings.ack_timeout,
        watchdog=settings.watchdog,
        heartbeat_interval=settings.heartbeat_interval,
    )


def kill_grace(shutdown_grace: float) -> float:
    """What tasks get of the shutdown grace period: the rest is for SIGKILL, the last updates and the agent,
    which looks for ended executors only once a second.
    """
    return max(shutdown_grace - min(2.0, 0.4 * shutdown_grace), 0.0)
