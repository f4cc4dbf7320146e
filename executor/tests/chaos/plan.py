"""What chaos does and when, drawn from a seed alone: the same seed is the same plan on any machine.

A plan is a list of steps in time. What happens to a single update (its answer, its acknowledgement) is drawn
from the seed, the task, the state and how often that update has come, so that it does not depend on the order
in which threads happen to run.
"""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass

from mesos.v1 import mesos_pb2

from executor.tests.scenarios.acknowledgements import Acknowledge
from executor.tests.scenarios.answers import Accept, Answer, Close, Refuse, Reset


class Kind(enum.Enum):
    """What a task does, as a shell program."""

    GOOD = "exit 0"
    BAD = "exit 5"
    SHORT = "sleep 0.4; exit 0"
    SIGNALLED = "kill -KILL $$"
    TALKER = "head -c 300000 /dev/zero; exit 0"
    LONG = "exec sleep 600"
    STUBBORN = "trap '' TERM; while :; do sleep 0.2; done"
    PARENT = "(setsid sh -c 'trap \"\" TERM HUP; sleep 600; :' &); sleep 600; :"
    LEAVER = "(setsid sh -c 'trap \"\" TERM HUP; sleep 600; :' &); exit 3"
    STOPPED = "kill -STOP $$; exit 0"
    MISSING = "/no/such/program"


class Trouble(enum.Enum):
    """What happens to the agent or its connections."""

    END = "the stream ends in order"
    CUT = "FIN in the middle of a record"
    RESET = "RST"
    GARBAGE = "bytes that are no RecordIO"
    RESTART = "the agent restarts at once"
    AWAY = "the agent is down for a while"
    DEAD = "the agent resets every connection for a while"
    RECOVERING = "503 and 404 before the subscription"
    SILENT = "a SUBSCRIBE is cut off unanswered"


@dataclass(frozen=True, slots=True)
class Launch:
    """One task by LAUNCH, or several by LAUNCH_GROUP."""

    tasks: tuple[tuple[str, Kind], ...]


@dataclass(frozen=True, slots=True)
class Kill:
    """KILL for the task with this number among those launched, `grace` seconds, `times` over."""

    pick: float
    grace: float
    times: int


@dataclass(frozen=True, slots=True)
class Murder:
    """SIGKILL from outside to a process of some task."""

    pick: float


@dataclass(frozen=True, slots=True)
class Strike:
    """A trouble, `seconds` long where it has a length."""

    trouble: Trouble
    seconds: float


Act = Launch | Kill | Murder | Strike


@dataclass(frozen=True, slots=True)
class Step:
    """An act, `at` seconds after the beginning."""

    at: float
    act: Act


def plan(seed: int, seconds: float) -> list[Step]:
    """All steps of a run of that length."""
    draw = random.Random(f"plan {seed}")
    steps: list[Step] = []
    now, count = 0.0, 0
    while now < seconds:
        now += draw.expovariate(8.0)
        chance = draw.random()
        act: Act
        if chance < 0.55:
            size = draw.choice([1, 1, 1, 2, 3])
            act = Launch(tuple((f"task {count + n}", draw.choice(list(Kind))) for n in range(size)))
            count += size
        elif chance < 0.80:
            act = Kill(draw.random(), draw.choice([0.0, 0.1, 0.5, 2.0, 600.0]), draw.choice([1, 1, 2, 5]))
        elif chance < 0.85:
            act = Murder(draw.random())
        else:
            act = Strike(draw.choice(list(Trouble)), draw.uniform(0.0, 1.2))
        steps.append(Step(now, act))
    return steps


@dataclass(frozen=True, slots=True)
class Fate:
    """What happens to updates."""

    seed: int

    def _draw(self, what: str, status: mesos_pb2.TaskStatus, delivery: int) -> random.Random:
        key = f"{what} {self.seed} {status.task_id.value} {status.state} {delivery}"
        return random.Random(key)

    def answer(self, status: mesos_pb2.TaskStatus, delivery: int) -> Answer:
        """The answer to one UPDATE call."""
        chance = self._draw("answer", status, delivery).random()
        for limit, answer in (
            (0.02, Refuse(503, "recovering")),
            (0.03, Refuse(500, "failed future")),
            (0.04, Refuse(403, "not subscribed")),
            (0.06, Reset()),
            (0.08, Reset(taken=True)),
            (0.09, Close()),
            (0.10, Close(taken=True)),
        ):
            if chance < limit:
                return answer
        return Accept()

    def acknowledge(self, status: mesos_pb2.TaskStatus, delivery: int) -> Acknowledge:
        """The acknowledgement of one delivery: prompt, late, double, misdirected, early, or lost."""
        draw = self._draw("acknowledge", status, delivery)
        chance = draw.random()
        uuid = status.uuid
        if chance < 0.60:
            return Acknowledge((uuid,))
        if chance < 0.75:
            return Acknowledge((uuid,), delay=draw.uniform(0.01, 1.5))
        if chance < 0.80:
            return Acknowledge((uuid, uuid))
        if chance < 0.84:
            return Acknowledge((draw.randbytes(16), uuid))
        if chance < 0.90:
            return Acknowledge((uuid,), before_response=True)
        return Acknowledge()
