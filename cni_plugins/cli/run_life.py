"""The life of one `mesokit run`: it launches, tells, follows, and ends however it is interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cni_plugins.cli.run_output import Shown, follow_teller
from cni_plugins.cli.run_report import Teller, json_teller, text_teller
from cni_plugins.cli.run_watch import REDRAW_INTERVAL, Table, changes_teller, in_place
from executor.local_agent.agent import Agent, AgentOptions
from executor.local_agent.events import (
    ContainerGone,
    ContainerStarted,
    Note,
    Observation,
    Observer,
    StatusUpdate,
)
from executor.local_agent.sandbox import STREAMS, Follower, tail
from executor.local_agent.task_file import ContainerRequest

LAST_SECONDS = 30.0
"""From the third interrupt to the end of the process, whatever does not end."""

_FAILED = frozenset(("TASK_FAILED", "TASK_ERROR", "TASK_LOST"))

FOLLOW_INTERVAL = 0.1
"""Seconds between two looks at the sandbox files that --follow streams."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What `mesokit run` does beyond being an agent; durations are nanoseconds."""

    follow: bool
    watch: bool
    as_json: bool
    kill_after: int | None
    kill_grace: int | None
    restart_after: int | None
    restart_for: int
    keep_sandbox: bool


@dataclass(slots=True)
class Progress:
    """What has been seen of a run: states by task; sandboxes, executors and tasks by container; the signals
    that interrupted it.
    """

    states: dict[str, str] = field(default_factory=dict)
    followers: dict[str, Follower] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    tasks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    kill_was_asked: bool = False
    interrupts: list[int] = field(default_factory=list)


async def run(
    requests: tuple[ContainerRequest, ...], options: AgentOptions, wanted: RunOptions, notes: list[str]
) -> int:
    """Run it all and clean up; the exit status of the command. `notes` are told first."""
    tasks = [task.task_id.value for request in requests for task in request.tasks]
    table = Table(tasks) if wanted.watch and in_place() else None
    try:
        return await _run(requests, options, wanted, notes, table)
    finally:
        if table is not None:
            with contextlib.suppress(OSError):  # the work is done; nobody looks
                table.draw(last=True)


async def _run(
    requests: tuple[ContainerRequest, ...],
    options: AgentOptions,
    wanted: RunOptions,
    notes: list[str],
    table: Table | None,
) -> int:
    progress = Progress()
    running = asyncio.Event()
    teller = _teller(wanted, table)
    show = follow_teller([request.executor.executor_id.value for request in requests], as_json=wanted.as_json)

    def tell(observation: Observation) -> None:
        try:
            teller(observation)
        except OSError:
            _nobody_reads(agent, progress)

    def observe(observation: Observation) -> None:
        if isinstance(observation, StatusUpdate):
            progress.states[observation.task] = observation.state
            if all(progress.states.get(t.task_id.value) == "TASK_RUNNING" for r in requests for t in r.tasks):
                running.set()
        elif isinstance(observation, ContainerStarted):
            progress.tasks[observation.container] = observation.tasks
            if wanted.follow:
                progress.followers[observation.container] = Follower(Path(observation.sandbox))
                progress.names[observation.container] = observation.executor
        elif isinstance(observation, ContainerGone):
            _stream(agent, progress, observation.container, show, at_end=True)
            progress.followers.pop(observation.container, None)
            if not (wanted.follow or wanted.as_json or wanted.keep_sandbox):
                for note in _last_words(observation, progress):
                    tell(note)
        tell(observation)

    agent = Agent(options, observe)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, _interrupt, number, agent, progress, tell)
    background = [asyncio.create_task(_follow(agent, progress, show))]
    if table is not None:
        background.append(asyncio.create_task(_redraw(table, agent, progress)))
    if wanted.kill_after is not None:
        background.append(asyncio.create_task(_kill_after(wanted, running, agent, progress)))
    if wanted.restart_after is not None:
        background.append(asyncio.create_task(_restart(wanted, running, agent, tell)))
    try:
        await agent.open()
        for note in notes:
            tell(Note(note, trouble=True))
        for request in requests if not progress.interrupts else ():
            for note in _notes(request):
                tell(Note(note))
            agent.launch(request)
        await agent.wait()
    except OSError as error:
        tell(Note(f"the agent cannot work: {error}", trouble=True))
        return 1
    finally:
        for task in background:
            task.cancel()
        await agent.close()
    for refusal in agent.api.refused:
        tell(Note(f"a call of the executor's was refused: {refusal}", trouble=True))
    if progress.interrupts:
        return 128 + progress.interrupts[0]
    good = {"TASK_FINISHED", "TASK_KILLED"} if progress.kill_was_asked else {"TASK_FINISHED"}
    succeeded = all(progress.states.get(t.task_id.value) in good for r in requests for t in r.tasks)
    return 0 if succeeded and not agent.failures else 1


def _teller(wanted: RunOptions, table: Table | None) -> Teller:
    if table is not None:
        return table.tell
    if wanted.watch:
        return changes_teller()
    return json_teller() if wanted.as_json else text_teller()


async def _redraw(table: Table, agent: Agent, progress: Progress) -> None:
    while True:
        try:
            table.draw()
        except OSError:
            _nobody_reads(agent, progress)
            return
        await asyncio.sleep(REDRAW_INTERVAL)


def _interrupt(number: int, agent: Agent, progress: Progress, tell: Observer) -> None:
    progress.interrupts.append(number)
    times = len(progress.interrupts)
    name = signal.Signals(number).name
    if times == 1:
        tell(Note(f"{name}: killing the tasks; once more shuts the executors down"))
        agent.kill_all()
    elif times == 2:
        tell(Note(f"{name}: shutting the executors down; once more destroys the containers"))
        agent.shutdown_all()
    else:
        tell(Note(f"{name}: destroying the containers"))
        agent.destroy_all()
    if times == 3:
        last = threading.Timer(LAST_SECONDS, _leave, (128 + number,))
        last.daemon = True
        last.start()


def _leave(status: int) -> None:
    """End the process from outside its event loop, which something holds."""
    text = "mesokit run: something does not end; the next run cleans up what this one leaves\n"
    with contextlib.suppress(OSError):
        os.write(2, text.encode())
    os._exit(status)


async def _kill_after(wanted: RunOptions, running: asyncio.Event, agent: Agent, progress: Progress) -> None:
    await running.wait()
    await asyncio.sleep((wanted.kill_after or 0) / 1e9)
    progress.kill_was_asked = True
    agent.kill_all(wanted.kill_grace)


async def _restart(wanted: RunOptions, running: asyncio.Event, agent: Agent, tell: Observer) -> None:
    """Go down and come back as an agent does that is restarted: first unavailable, then recovered."""
    await running.wait()
    await asyncio.sleep((wanted.restart_after or 0) / 1e9)
    tell(Note("the agent goes down; executors that checkpoint wait for it"))
    await agent.stop_listening()
    await asyncio.sleep(wanted.restart_for / 1e9)
    agent.api.recovering = True
    await agent.listen()
    tell(Note("the agent is back, and recovering"))
    await asyncio.sleep(min(wanted.restart_for / 1e9, 1))
    agent.api.recovering = False


def _nobody_reads(agent: Agent, progress: Progress) -> None:
    """Standard output or error is closed: an interrupt like any other, so that everything is cleaned up."""
    with Path(os.devnull).open("wb") as nothing:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nothing.fileno(), stream.fileno())
    progress.interrupts.append(signal.SIGPIPE)
    asyncio.get_running_loop().call_soon(agent.kill_all)


async def _follow(agent: Agent, progress: Progress, show: Shown) -> None:
    while True:
        for container in list(progress.followers):
            _stream(agent, progress, container, show)
        await asyncio.sleep(FOLLOW_INTERVAL)


def _stream(agent: Agent, progress: Progress, container: str, show: Shown, *, at_end: bool = False) -> None:
    follower = progress.followers.get(container)
    while follower is not None and (output := follower.read()):
        try:
            for name, data in output:
                show(container, progress.names[container], name, data)
        except OSError:
            _nobody_reads(agent, progress)
    if follower is not None and at_end:
        for name in STREAMS:
            show(container, progress.names[container], name, b"")


def _last_words(gone: ContainerGone, progress: Progress) -> Iterator[Note]:
    """The end of what a failed task printed, since its sandbox goes."""
    failed = any(progress.states.get(task) in _FAILED for task in progress.tasks.get(gone.container, ()))
    if failed and (text := tail(Path(gone.sandbox) / "stderr")):
        yield Note(f"the end of its stderr (--keep-sandbox keeps all):\n{text}")


def _notes(request: ContainerRequest) -> Iterator[str]:
    if request.executor.command.value:
        yield (
            f"executor.command.value {request.executor.command.value!r} is not run here: the executor is "
            "this installation's, or that of --executor"
        )
