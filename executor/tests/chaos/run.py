"""One run of chaos: the plan played against a real executor, then calm, then the reckoning.

What must be true in the end: every task that reached the executor has exactly one terminal state, the agent
and the executor agree on it, a task that the agent had to declare lost never lives, and nothing runs any
more.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mesos.v1 import mesos_pb2
from mesos.v1.executor import executor_pb2

from executor.monitoring.client import look
from executor.protocol import Encoding, frame
from executor.tests.chaos.plan import Act, Fate, Kill, Kind, Launch, Murder, Strike, Trouble, plan
from executor.tests.scenarios import acknowledgements, events, processes
from executor.tests.scenarios.answers import Answer, Close, Refuse
from executor.tests.scenarios.connection import Entry
from executor.tests.scenarios.event_stream import EventStream
from executor.tests.scenarios.executor_process import Executor
from executor.tests.scenarios.ledger import state_name
from executor.tests.scenarios.scene import KILLING_STATE, Scene
from executor.tests.scenarios.scripted_agent import Call, ScriptedAgent

VARIABLES = {
    "MESOKIT_STAY": "true",
    "MESOKIT_WATCHDOG": "10mins",
    "MESOS_SUBSCRIPTION_BACKOFF_MAX": "100ms",
    "MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD": "20secs",
}
PATIENCE = 90.0


@dataclass(slots=True)
class Outcome:
    """Figures of a run."""

    seed: int
    tasks: int = 0
    dropped: int = 0
    updates: int = 0
    deliveries: int = 0
    subscriptions: int = 0
    calls: int = 0
    memory: int = 0
    finals: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        finals = ", ".join(f"{count} {name}" for name, count in sorted(self.finals.items()))
        return (
            f"seed {self.seed}: {self.tasks} tasks ({finals}; {self.dropped} lost on the way),"
            f" {self.updates} updates in {self.deliveries} deliveries, {self.calls} calls,"
            f" {self.subscriptions} subscriptions, {self.memory >> 20} MiB"
        )


class _Run:
    def __init__(self, seed: int, scene: Scene, note: Callable[[str], None]) -> None:
        self.scene = scene
        self.note = note
        self.fate = Fate(seed)
        self.agent: ScriptedAgent = scene.agent(capabilities=[KILLING_STATE])
        self.executor: Executor = scene.start(self.agent, VARIABLES)
        self.lock = threading.Lock()
        self.sent: dict[str, EventStream] = {}
        self.dropped: set[str] = set()
        self.agent.decide = self.decide
        self.agent.acks = self.acknowledge
        self.agent.on_subscribe = self.subscribed

    # What the agent does with calls

    def decide(self, call: Call) -> Answer | None:
        if call.type != Call.UPDATE:
            return None
        status = call.update.status
        return self.fate.answer(status, self.agent.attempts[status.uuid])

    def acknowledge(self, status: mesos_pb2.TaskStatus) -> acknowledgements.Acknowledge:
        return self.fate.acknowledge(status, self.agent.ledger.deliveries.get(status.uuid, 0))

    def subscribed(self, entry: Entry, stream: EventStream) -> None:
        """As an agent: a task that was sent, never reported and is not in SUBSCRIBE did not arrive."""
        assert entry.call is not None
        here = {info.task_id.value for info in entry.call.subscribe.unacknowledged_tasks}
        here |= {one.status.task_id.value for one in entry.call.subscribe.unacknowledged_updates}
        with self.lock:
            for name, sent_on in self.sent.items():
                if (
                    sent_on.number < stream.number
                    and name not in here
                    and not self.agent.ledger.updates.get(name)
                ):
                    self.dropped.add(name)

    # Acts

    def act(self, act: Act) -> None:
        match act:
            case Launch(tasks):
                self._launch(tasks)
            case Kill(pick, grace, times):
                names = list(self.sent)
                if names:
                    # Mostly young tasks: the old ones have ended.
                    name = names[int(len(names) * (1 - pick**4 * 0.999)) - 1]
                    self._send(*[events.kill(name, grace)] * times)
            case Murder(pick):
                pids = self.executor.task_pids()
                if pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pids[int(pick * len(pids))], signal.SIGKILL)
            case Strike(trouble, seconds):
                self._strike(trouble, seconds)

    def _wait_subscribed(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            stream = self._current()
            if stream is not None and not stream.left.is_set():
                return
            time.sleep(0.01)

    def _current(self) -> EventStream | None:
        streams = self.agent.streams
        return streams[-1] if streams else None

    def _send(self, *sent: executor_pb2.Event) -> None:
        stream = self._current()
        if stream is not None:
            stream.send(*sent)

    def _launch(self, tasks: tuple[tuple[str, Kind], ...]) -> None:
        """An agent mostly has a subscription when it sends a task, but every fifth goes wherever it goes."""
        if not tasks[0][0].endswith(("0", "5")):
            self._wait_subscribed(1.0)
        with self.lock:
            stream = self._current()
            if stream is None:
                return
            for name, _ in tasks:
                self.sent[name] = stream
        if len(tasks) == 1:
            name, kind = tasks[0]
            stream.send(events.launch(_checked(events.task(name, kind.value))))
        else:
            stream.send(events.launch_group(*(_member(name, kind) for name, kind in tasks)))

    def _strike(self, trouble: Trouble, seconds: float) -> None:
        agent, stream = self.agent, self._current()
        if stream is None:
            return
        match trouble:
            case Trouble.END:
                stream.end()
            case Trouble.CUT:
                record = stream.records([events.launch(events.task("torn", "touch torn"))])
                stream.cut_after(record[: len(record) // 2])
            case Trouble.RESET:
                stream.reset()
            case Trouble.GARBAGE:
                stream.chunks([frame(b"\xff\xffno event"), b"x1\n"])
            case Trouble.RESTART:
                agent.restart(reset=seconds > 0.6)
            case Trouble.AWAY:
                agent.stop()
                time.sleep(seconds)
                agent.start()
            case Trouble.DEAD:
                agent.play_dead()
                time.sleep(seconds)
                agent.dead = False
            case Trouble.RECOVERING:
                agent.answer(Call.SUBSCRIBE, *[Refuse(503)] * int(1 + seconds * 4), Refuse(404))
                agent.restart()
            case Trouble.SILENT:
                agent.answer(Call.SUBSCRIBE, Close())
                agent.restart()

    # The end

    def calm(self) -> None:
        """No more trouble: what is unacknowledged is sent again and acknowledged."""
        self.agent.decide = None
        self.agent.acks = acknowledgements.at_once
        count = len(self.agent.streams)
        self.agent.restart()
        self.agent.subscription(count + 1)
        # An update that a dead stream lost, and nobody acknowledged, is here with the subscription.
        alive = [name for name in self.sent if name not in self.dropped]
        for name in alive:
            if self.agent.ledger.final(name) is None:
                self.agent.send(events.kill(name, 0.5))
        for name in alive:
            self.agent.wait_final(name, PATIENCE)

    def reckon(self, seed: int) -> Outcome:
        agent = self.agent
        lived = [name for name in self.dropped if agent.ledger.updates.get(name)]
        assert not lived, f"declared lost, yet alive: {lived}"
        assert "torn" not in agent.ledger.updates, str(agent.statuses("torn"))
        self.executor.wait_no_tasks(PATIENCE)
        pid = self.executor.pid
        processes.wait_until(lambda: not processes.zombies_of(pid), "no zombie")
        outcome = Outcome(
            seed,
            tasks=len(self.sent),
            dropped=len(self.dropped),
            updates=sum(len(one) for one in agent.ledger.updates.values()),
            deliveries=sum(agent.ledger.deliveries.values()),
            subscriptions=len(agent.streams),
            calls=len(agent.log),
            memory=processes.memory(pid),
        )
        for name in agent.ledger.updates:
            final = agent.ledger.final(name)
            assert final is not None, name
            outcome.finals[state_name(final)] = outcome.finals.get(state_name(final), 0) + 1
        processes.wait_until(
            lambda: not look(self.scene.sandbox)["unacknowledged"], "no update waits for its acknowledgement"
        )
        theirs = {
            state.removeprefix("TASK_"): count
            for state, count in look(self.scene.sandbox)["ended_by_state"].items()
        }
        assert theirs == outcome.finals, "both sides tell the same ends"
        agent.send(events.shutdown())
        assert self.executor.wait_exit() == 0
        assert not self.executor.remaining()
        return outcome


def _member(name: str, kind: Kind) -> mesos_pb2.TaskInfo:
    if kind is Kind.MISSING:
        return events.group_task(name, argv=[kind.value])
    return _checked(events.group_task(name, kind.value))


def _checked(info: mesos_pb2.TaskInfo) -> mesos_pb2.TaskInfo:
    """Every fourth task has a health check that is as good as random, every fourth a check that changes.

    Their results come while the task is killed, ends, or its agent is away: none may be told after the end.
    """
    number = int(info.task_id.value.split()[1]) % 4
    if number == 0:
        info.health_check.type = mesos_pb2.HealthCheck.COMMAND
        info.health_check.command.value = "sleep 0.1; exit $(($$ / 2 % 2))"
        info.health_check.delay_seconds = 0
        info.health_check.interval_seconds = 0.7
        info.health_check.grace_period_seconds = 0
        info.health_check.consecutive_failures = 5
    elif number == 1:
        info.check.type = mesos_pb2.CheckInfo.COMMAND
        info.check.command.command.value = "sleep 0.1; exit $(($$ / 2 % 3))"
        info.check.delay_seconds = 0
        info.check.interval_seconds = 0.7
    return info


def run(
    seed: int, seconds: float, encoding: Encoding, note: Callable[[str], None] = lambda _text: None
) -> Outcome:
    """Play the plan of `seed`; AssertionError, with what happened as a note, when a promise is broken."""
    scene = Scene(encoding)
    try:
        play = _Run(seed, scene, note)
        play.agent.subscription()
        start = time.monotonic()
        for step in plan(seed, seconds):
            left = start + step.at - time.monotonic()
            if left > 0:
                time.sleep(left)
            note(f"{step.at:8.2f} {step.act}")
            play.act(step.act)
            assert play.executor.running, "the executor is gone"
        play.calm()
        outcome = play.reckon(seed)
    except BaseException as error:
        error.add_note(f"chaos with seed {seed} for {seconds} s in {encoding.value}\n{scene.report()}")
        with contextlib.suppress(AssertionError):
            scene.close()
        raise
    scene.close()
    return outcome
