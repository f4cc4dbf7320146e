"""Killing an instance: drained first where its app asks for that, said again until it ends."""

from dataclasses import replace

from executor.framework.sdk import calls
from executor.framework.sdk.calls import TaskRef
from executor.framework.service.books import Books
from executor.framework.service.instance import Instance, encode
from executor.framework.service.turn import Turn


def kill(books: Books, instance: Instance, why: str, turn: Turn) -> None:
    """Kill an instance: said again until it ends."""
    now = books.now()
    if not instance.killed_for:
        was_ready = instance.id in books.ready_since
        instance = replace(instance, killed_for=why)
        books.keep(instance)
        books.ready_since.pop(instance.id, None)
        turn.put(f"instances/{instance.id}", encode(instance))
        books.say("instance.kill", instance.app, {"instance": instance.id, "why": why})
        state = books.apps.get(instance.app)
        drain = state.versions.get(instance.version, state.app).drain if state is not None else 0.0
        if drain and was_ready:
            # Whoever sends requests to it has so long to hear that it leaves.
            books.kill_at[instance.id] = now + drain
            return
    books.kill_at[instance.id] = now + books.settings.kill_again
    for task_id in instance.living_tasks:
        turn.call(calls.kill(TaskRef(task_id, instance.agent_id)))
