"""What an app needs next: which version to start more of, which instances to kill. Pure; asked after every
change.

One rule for deploying, scaling, updating, rolling back and replacing, so that none of them can contradict
another:

    wanted    n instances of the target version
    floor     of the ready ones never fewer than ceil(n * floor) by our own doing
    ceiling   never more than n + floor(n * ceiling) in all (one more where both would forbid any step)

A new instance counts as ready when it runs, is healthy where it is checked, and has been so for the watch
time. Each ready new one frees an old one; old ones that are not ready go first, for they hold nothing up. A
rollback is the same towards the version before: what still runs of it stays as it is.
"""

import enum
import heapq
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from executor.framework.service.instance import Instance, State
from executor.framework.service.spec import App


class Status(enum.Enum):
    """How a deployment fares."""

    DEPLOYING = "deploying"
    CANARY = "waiting for approval"
    PAUSED = "paused"
    ROLLING_BACK = "rolling back"
    FAILED = "failed"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Deployment:
    """The way to the target version, from `previous` ("" for none)."""

    id: str
    version: str
    previous: str = ""
    status: Status = Status.DEPLOYING
    failures: int = 0
    approved: bool = False
    message: str = ""
    wall_started: float = 0.0


class Seen(NamedTuple):
    """An instance that has not ended, as a plan sees it. `ready_for`: seconds, negative while it is not
    ready.
    """

    instance: Instance
    ready_for: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now: start so many of a version, kill these, and what the deployment becomes."""

    start: int
    version: str
    kill: tuple[tuple[Instance, str], ...]
    deployment: Deployment


@dataclass(frozen=True, slots=True)
class Situation:
    """`wanted` instances; the deployment is `elapsed` seconds old; `may_start` is False during a back-off."""

    wanted: int
    elapsed: float
    may_start: bool


def plan(app: App, situation: Situation, deployment: Deployment, seen: Sequence[Seen]) -> Plan:
    """The next steps of an app."""
    wanted = situation.wanted
    living = [item for item in seen if not item.instance.killed_for]
    deployment = _judged(app, situation, deployment, living)
    new = [item for item in living if item.instance.version == deployment.version]
    old = [item for item in living if item.instance.version != deployment.version]
    if deployment.status in (Status.PAUSED, Status.FAILED):
        # What runs goes on, and what is lost meanwhile is made up for with what is known to work.
        missing = wanted - len(living) if situation.may_start and deployment.previous else 0
        return Plan(max(0, missing), deployment.previous or deployment.version, (), deployment)
    watch = app.update.watch
    ready_new = [item for item in new if item.ready_for >= watch]
    ready_old = [item for item in old if item.ready_for >= 0]
    goal = wanted
    if deployment.status is Status.CANARY or (app.update.canary and old and not deployment.approved):
        goal = min(app.update.canary, wanted)
    floor, ceiling = bounds(app, wanted)
    start = max(0, min(goal - len(new), ceiling - len(living))) if situation.may_start else 0
    kill: list[tuple[Instance, str]] = []
    surplus = len(new) - wanted
    if surplus > 0:
        kill += [(item.instance, "scaled down") for item in victims(new, surplus)]
    kill += [(item.instance, "replaced by a new version") for item in old if item.ready_for < 0][
        : max(0, len(old) - (wanted - goal))
    ]
    spare = len(ready_old) + len(ready_new) - max(floor, 0)
    superfluous = len(ready_old) - (wanted - goal if goal < wanted else 0)
    for item in sorted(ready_old, key=lambda it: it.instance.wall_launched)[
        : max(0, min(spare, superfluous))
    ]:
        kill.append((item.instance, "replaced by a new version"))
    return Plan(start, deployment.version, tuple(kill), deployment)


def bounds(app: App, wanted: int) -> tuple[int, int]:
    """The least number of ready instances and the largest number of all. Where instances have volumes, a new
    one waits for the volume of an old one: one may always be missing, and there is never one more.
    """
    floor = math.ceil(wanted * app.update.floor - 1e-9)
    if app.volumes:
        return max(min(floor, wanted - 1), 0), wanted
    ceiling = wanted + math.floor(wanted * app.update.ceiling + 1e-9)
    if floor >= wanted and ceiling <= wanted:
        ceiling = wanted + 1
    return floor, ceiling


def victims(candidates: Sequence[Seen], number: int) -> list[Seen]:
    """Whom to kill when there are too many: those that are not ready, then where most of them are, then the
    youngest.
    """
    by_age = sorted(candidates, key=lambda item: (item.instance.wall_launched, item.instance.id))
    crowd = Counter(item.instance.agent_id for item in by_age)
    chosen: list[Seen] = []
    for ready in (False, True):
        of_agent: dict[str, list[int]] = {}
        for age, item in enumerate(by_age):
            if (item.ready_for >= 0) is ready:
                of_agent.setdefault(item.instance.agent_id, []).append(age)
        # Only the youngest of each agent can be next: a scale-down of thousands looks at each but once.
        heap = [(-crowd[agent], -ages[-1], agent) for agent, ages in of_agent.items()]
        heapq.heapify(heap)
        while heap and len(chosen) < number:
            agent = heap[0][2]
            ages = of_agent[agent]
            chosen.append(by_age[ages.pop()])
            crowd[agent] -= 1
            if ages:
                heapq.heapreplace(heap, (-crowd[agent], -ages[-1], agent))
            else:
                heapq.heappop(heap)
    return chosen


def _judged(app: App, situation: Situation, deployment: Deployment, living: Sequence[Seen]) -> Deployment:
    """Whether the deployment is done, waits, or has failed."""
    new = [item for item in living if item.instance.version == deployment.version]
    old = len(living) - len(new)
    wanted = situation.wanted
    ready = sum(item.ready_for >= app.update.watch for item in new)
    if deployment.status in (Status.PAUSED, Status.FAILED):
        return deployment
    if not old and len(new) == wanted and ready == wanted:
        return replace(deployment, status=Status.DONE, message="")
    canary = app.update.canary if old and not deployment.approved else 0
    match deployment.status:
        case Status.CANARY if not canary:
            return replace(deployment, status=Status.DEPLOYING, message="")
        case Status.DEPLOYING if canary and ready >= min(canary, wanted):
            return replace(deployment, status=Status.CANARY, message=f"{ready} of {wanted} are new and ready")
        case Status.DEPLOYING if deployment.previous:
            return _failed(app, deployment, situation.elapsed)
    # DONE: an instance is being replaced, the deployment itself is over. ROLLING_BACK: nowhere to go back to.
    return deployment


def _failed(app: App, deployment: Deployment, elapsed: float) -> Deployment:
    """What follows when a new version fails too often, or does not come up in its time."""
    why = ""
    if deployment.failures > app.update.failures:
        why = f"{deployment.failures} instances of the new version failed"
    elif elapsed > app.update.deadline:
        why = f"not done after {app.update.deadline:g} s"
    if not why or app.update.on_failure == "continue":
        return deployment
    if app.update.on_failure == "pause":
        return replace(deployment, status=Status.PAUSED, message=why)
    return replace(
        deployment,
        status=Status.ROLLING_BACK,
        version=deployment.previous,
        previous="",
        message=f"rolled back: {why}",
    )


def readiness(app: App, instance: Instance) -> bool:
    """Whether an instance is ready, its watch time aside."""
    if instance.state is not State.RUNNING or instance.killed_for or not instance.healthy:
        return False
    return instance.checked or app.wait_for == "running"
