"""What happens because time passes: questions, repeated kills, time-outs, schedules."""

import time
from dataclasses import replace

from executor.framework.sdk.calls import TaskRef
from executor.framework.service import volumes
from executor.framework.service.books import Books
from executor.framework.service.cron import next_after
from executor.framework.service.instance import State, encode
from executor.framework.service.killing import kill
from executor.framework.service.rollout import Status
from executor.framework.service.turn import Turn


def time_passes(books: Books, turn: Turn) -> None:
    """Everything that is due."""
    now = books.now()
    if books.connected:
        for call in books.reconciler.due(now):
            turn.call(call)
        if now >= books.ask_operations_at:
            volumes.ask(books, turn)
    for instance_id, due in list(books.kill_at.items()):
        instance = books.instances.get(instance_id)
        if instance is None:
            del books.kill_at[instance_id]
        elif now >= due and books.connected:
            kill(books, instance, instance.killed_for, turn)
    for instance_id in [name for name in books.killed if name not in books.kill_at]:
        if books.connected:
            kill(books, books.instances[instance_id], books.instances[instance_id].killed_for, turn)
    _look_after_silent(books, now, turn)
    _look_after_away(books, now, turn)
    _start_runs(books, turn)
    # Watch times, back-offs and deadlines end without anybody's word.
    turn.dirty.update(
        name
        for name, state in books.apps.items()
        if state.deployment.status is not Status.DONE or state.retry_at or state.deleting
    )


def _look_after_silent(books: Books, now: float, turn: Turn) -> None:
    for instance_id, since in list(books.silent_since.items()):
        instance = books.instances.get(instance_id)
        state = books.apps.get(instance.app) if instance is not None else None
        if instance is None or instance.state is not State.LAUNCHING or state is None:
            books.silent_since.pop(instance_id, None)
            continue
        timeout = state.versions.get(instance.version, state.app).launch_timeout
        if now - since < timeout or not books.connected:
            continue
        books.silent_since[instance_id] = now
        for task_id in instance.living_tasks:
            for call in books.reconciler.add(TaskRef(task_id, instance.agent_id), now):
                turn.call(call)
        kill(books, instance, f"it did not start within {timeout:g} s", turn)


def _look_after_away(books: Books, now: float, turn: Turn) -> None:
    for instance_id, since in list(books.away_since.items()):
        instance = books.instances.get(instance_id)
        state = books.apps.get(instance.app) if instance is not None else None
        if instance is None or state is None or instance.state is not State.UNREACHABLE:
            del books.away_since[instance_id]
            books.ask_away_at.pop(instance_id, None)
            continue
        if books.connected and now >= books.ask_away_at.get(instance_id, 0.0):
            # An agent that comes back from a reboot without its tasks says nothing of them.
            books.ask_away_at[instance_id] = now + books.settings.reconcile.longest_wait
            for task_id in instance.living_tasks:
                for call in books.reconciler.add(TaskRef(task_id, instance.agent_id), now):
                    turn.call(call)
        after = state.versions.get(instance.version, state.app).replace_after
        if now - since >= after and not instance.replaced:
            instance = replace(instance, replaced=True)
            books.keep(instance)
            turn.put(f"instances/{instance.id}", encode(instance))
            turn.dirty.add(instance.app)
            books.say("instance.replaced", instance.app, {"instance": instance.id, "host": instance.hostname})


def _start_runs(books: Books, turn: Turn) -> None:
    """Schedules: a run that is due, if the one before has ended or is not to be waited for."""
    wall = time.time()
    for state in books.apps.values():
        if state.app.kind != "cron" or state.deleting:
            continue
        if state.next_run is None:
            state.next_run = next_after(state.app.cron, wall)
        if wall < state.next_run:
            continue
        running = books.living(state.name)
        unfinished = bool(state.runs) and (bool(running) or books.wanted(state) > 0)
        if unfinished and state.app.collision == "queue":
            continue
        state.next_run = next_after(state.app.cron, wall)
        if unfinished and state.app.collision == "skip":
            books.say("run.skipped", state.name, {})
            continue
        for instance in running:
            kill(books, instance, "the next run is due", turn)
        state.runs += 1
        state.finished = 0
        state.failures_in_row = 0
        state.started_at = books.now()
        state.deployment = replace(state.deployment, status=Status.DEPLOYING, failures=0, message="")
        turn.dirty.add(state.name)
        books.write_app(state, turn)
        books.say("run.started", state.name, {"run": state.runs})
