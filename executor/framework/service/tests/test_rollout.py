"""Plans: simulated to their end, the floor never broken."""

import math
import time
from collections import Counter
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from executor.framework.service import rollout
from executor.framework.service.instance import Instance, State, TaskState
from executor.framework.service.rollout import Deployment, Plan, Seen, Situation, Status, bounds, victims
from executor.framework.service.spec import App, read_app


def app(instances: int = 3, **keys: object) -> App:
    return read_app(
        {"version": 1, "name": "web", "command": {"cmd": "true"}, "instances": instances, **keys}, "test"
    )


def one(number: int, version: str, state: State = State.RUNNING, agent: str = "A") -> Instance:
    return Instance(
        f"web.{number:016x}",
        "web",
        version,
        agent,
        agent,
        "E",
        (TaskState("task", state),),
        wall_launched=number,
    )


def seen(instances: list[Instance], ready_for: float = 100.0) -> list[Seen]:
    return [Seen(item, ready_for if item.state is State.RUNNING else -1.0) for item in instances]


def plan(found: App, wanted: int, deployment: Deployment, *rest: Any) -> Plan:
    there, elapsed, may_start = rest
    return rollout.plan(found, Situation(wanted, elapsed, may_start), deployment, there)


def test_a_first_deployment_starts_all() -> None:
    found = plan(app(3), 3, Deployment("d", "v1"), [], 0.0, True)
    assert (found.start, found.kill) == (3, ())
    assert plan(app(3), 3, Deployment("d", "v1"), [], 0.0, False).start == 0


def test_done_when_all_are_ready() -> None:
    found = plan(app(2), 2, Deployment("d", "v1"), seen([one(1, "v1"), one(2, "v1")]), 5.0, True)
    assert found == Plan(0, "v1", (), replace(Deployment("d", "v1"), status=Status.DONE))


def test_a_lost_instance_is_replaced_after_the_deployment_is_done() -> None:
    done = Deployment("d", "v1", status=Status.DONE)
    assert plan(app(3), 3, done, seen([one(1, "v1"), one(2, "v1")]), 1e9, True).start == 1


def test_scaling_down_takes_from_the_fullest_agent_the_youngest() -> None:
    there = seen(
        [one(1, "v", agent="A"), one(2, "v", agent="B"), one(3, "v", agent="A"), one(4, "v", agent="B")]
    )
    there.append(Seen(one(5, "v", State.STARTING, "C"), -1.0))
    assert [item.instance.wall_launched for item in victims(there, 3)] == [5, 4, 3]


def test_floor_of_one_and_no_ceiling_allows_one_more() -> None:
    careful = app(3, update={"floor": 1, "ceiling": 0})
    assert bounds(careful, 3) == (3, 4)
    found = plan(careful, 3, Deployment("d", "v2", "v1"), seen([one(n, "v1") for n in range(3)]), 0.0, True)
    assert (found.start, found.kill) == (1, ())


def test_a_canary_waits_for_approval() -> None:
    careful = app(4, update={"canary": 1, "ceiling": 1})
    old = [one(n, "v1") for n in range(4)]
    first = plan(careful, 4, Deployment("d", "v2", "v1"), seen(old), 0.0, True)
    assert first.start == 1
    waiting = plan(careful, 4, first.deployment, seen([*old, one(9, "v2")]), 5.0, True)
    assert waiting.deployment.status is Status.CANARY and waiting.start == 0
    assert len(waiting.kill) == 1
    going = plan(
        careful, 4, replace(waiting.deployment, approved=True), seen([*old[1:], one(9, "v2")]), 6.0, True
    )
    assert going.deployment.status is Status.DEPLOYING and going.start == 3


def test_failures_pause_or_roll_back() -> None:
    old = seen([one(n, "v1") for n in range(3)])
    failed = Deployment("d", "v2", "v1", failures=4)
    assert plan(app(3), 3, failed, old, 1.0, True).deployment.status is Status.PAUSED
    fewer = plan(app(3), 3, replace(failed, status=Status.PAUSED), old[1:], 1.0, True)
    assert (fewer.start, fewer.version) == (1, "v1")
    back = plan(app(3, update={"on_failure": "rollback"}), 3, failed, old, 1.0, True)
    assert back.deployment.status is Status.ROLLING_BACK and back.deployment.version == "v1"
    assert (back.start, back.kill) == (0, ())


def test_a_deadline_ends_a_deployment_that_does_not_end() -> None:
    old = seen([one(n, "v1") for n in range(3)])
    late = plan(app(3, update={"deadline": "10secs"}), 3, Deployment("d", "v2", "v1"), old, 11.0, True)
    assert late.deployment.status is Status.PAUSED and "10 s" in late.deployment.message


@settings(max_examples=150)
@given(
    wanted=st.integers(1, 12),
    before=st.integers(0, 12),
    floor=st.sampled_from([0.0, 0.5, 0.8, 1.0]),
    ceiling=st.sampled_from([0.0, 0.25, 1.0]),
    slow=st.integers(1, 4),
)
def test_every_update_ends_and_never_breaks_its_floor(
    wanted: int, before: int, floor: float, ceiling: float, slow: int
) -> None:
    rolling = app(wanted, update={"floor": floor, "ceiling": ceiling, "deadline": "10days"})
    deployment = Deployment("d", "v2", "v1")
    instances: dict[int, tuple[Instance, int]] = {n: (one(n, "v1"), 0) for n in range(before)}
    number = before
    least = min(math.ceil(wanted * floor - 1e-9), before)
    for _ in range(200):
        view = []
        for item, age in instances.values():
            view.append(Seen(item, 1.0 if age <= 0 else -1.0))
        found = plan(rolling, wanted, deployment, view, 1.0, True)
        deployment = found.deployment
        if deployment.status is Status.DONE:
            break
        for item, _ in found.kill:
            del instances[int(item.id.rpartition(".")[2], 16)]
        for _ in range(found.start):
            instances[number] = (one(number, "v2"), slow)
            number += 1
        assert len(instances) <= max(bounds(rolling, wanted)[1], before)
        ready = sum(age <= 0 for _, age in instances.values())
        assert ready >= least
        instances = {key: (item, age - 1) for key, (item, age) in instances.items()}
    assert deployment.status is Status.DONE
    assert len(instances) == wanted


def test_victims_of_a_large_app_are_chosen_at_once() -> None:
    there = [Seen(one(number, "v", State.RUNNING, f"A{number % 100}"), 1.0) for number in range(10_000)]
    began = time.process_time()
    chosen = victims(there, 5_000)
    assert time.process_time() - began < 5
    left = Counter(item.instance.agent_id for item in there) - Counter(it.instance.agent_id for it in chosen)
    assert len(chosen) == 5_000 and set(left.values()) == {50}
