"""Scenario 91: fetched, started, restarted under and ended by an agent that starts containers.

The one-machine agent stands where a mesos-agent would: its fetcher brings the executor into the sandbox, as a
single executable and as an archive, its launcher starts it, its API takes the calls.
"""

from __future__ import annotations

import asyncio
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

from mesos.v1 import mesos_pb2

from executor.local_agent.agent import Agent, AgentOptions
from executor.local_agent.environment import Clocks
from executor.local_agent.events import ContainerGone, ExecutorExited, Observation, StatusUpdate
from executor.local_agent.task_file import ContainerRequest
from executor.protocol import Encoding
from executor.tests.scenarios.events import group_task, task
from executor.tests.scenarios.executor_process import program
from executor.tests.scenarios.scene import Scene, scenario
from executor.tests.scenarios.scripted_agent import PATIENCE


def _program_file(directory: Path) -> Path:
    """The executor under test as one executable file."""
    file = directory / "mesokit-executor"
    file.write_text(f'#!/bin/sh\nexec {" ".join(program())} "$@"\n')
    file.chmod(0o644)
    return file


def _archive(directory: Path, file: Path) -> Path:
    """The same as an archive, the executable bit set inside."""
    archive = directory / "mesokit-executor.tar.gz"

    def runnable(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.mode = 0o755
        return member

    with tarfile.open(archive, "w:gz") as tar:
        tar.add(file, "kit/mesokit-executor", filter=runnable)
    return archive


async def _until(condition: Callable[[], bool], what: str) -> None:
    async def ask() -> None:
        while not condition():
            await asyncio.sleep(0.02)

    try:
        await asyncio.wait_for(ask(), PATIENCE)
    except TimeoutError:
        raise AssertionError(f"not in {PATIENCE:.0f} s: {what}") from None


class _Told:
    """What the agent has told."""

    def __init__(self) -> None:
        self.all: list[Observation] = []

    def states(self, task_id: str) -> list[str]:
        return [one.state for one in self.all if isinstance(one, StatusUpdate) and one.task == task_id]

    def exits(self) -> list[str]:
        return [one.exit for one in self.all if isinstance(one, ExecutorExited)]

    def gone(self) -> int:
        return sum(isinstance(one, ContainerGone) for one in self.all)


def _request(
    name: str, uri: Path, *, extract: bool, encoding: Encoding, tasks: list[mesos_pb2.TaskInfo]
) -> ContainerRequest:
    executor = mesos_pb2.ExecutorInfo(type=mesos_pb2.ExecutorInfo.CUSTOM)
    executor.executor_id.value = name
    executor.command.value = "mesokit-executor"
    executor.command.uris.add(value=uri.as_uri(), executable=not extract, extract=extract, cache=True)
    executor.command.environment.variables.add(name="MESOKIT_ENCODING", value=encoding.value)
    return ContainerRequest(executor, tuple(tasks), is_group=len(tasks) > 1)


async def _end_to_end(scene: Scene, *, extract: bool, use_tcp: bool) -> None:
    directory = scene.directory / ("extracted" if extract else "executable")
    directory.mkdir()
    file = _program_file(directory)
    told = _Told()
    options = AgentOptions(
        config_dir=directory,
        plugin_path=str(directory),
        runtime_dir=directory / "run",
        work_dir=directory / "work",
        executor=["kit/mesokit-executor" if extract else "./mesokit-executor"],
        use_tcp=use_tcp,
        ip="::1" if use_tcp else "127.0.0.1",
        checkpoint=True,
        clocks=Clocks(reregistration_timeout=200 * 10**6),
    )
    agent = Agent(options, told.all.append)
    await agent.open()
    try:
        waits = "until test -e {}; do sleep 0.05; done; test -x {} && pwd"
        uri = _archive(directory, file) if extract else file
        mine = directory / "go"
        tasks = [task("alone", waits.format(mine, options.executor[0]))]
        if extract:
            tasks = [group_task(name, waits.format(mine, options.executor[0])) for name in ("one", "two")]
        names = [one.task_id.value for one in tasks]
        agent.launch(_request("e", uri, extract=extract, encoding=scene.encoding, tasks=tasks))
        for name in names:
            await _until(lambda name=name: "TASK_RUNNING" in told.states(name), f"{name} runs")  # type: ignore[misc]

        await agent.stop_listening()
        mine.touch()
        await asyncio.sleep(0.5)
        await agent.listen()
        await _until(lambda: bool(told.exits()), "the executor leaves")
        await agent.wait()
        for name in names:
            assert told.states(name) == ["TASK_STARTING", "TASK_RUNNING", "TASK_FINISHED"]
        assert told.gone() == 1
        assert told.exits() == ["exited with status 0"]
        assert agent.api.refused == []
        (sandbox,) = (directory / "work").glob("slaves/*/frameworks/*/executors/e/runs/*-*")
        assert (sandbox / "stdout").read_text() == f"{sandbox}\n" * len(names)
    finally:
        await agent.close()
    assert agent.failures == []
    assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and _lives_in(pid, directory)]  # noqa: PTH208


def _lives_in(pid: str, directory: Path) -> bool:
    try:
        return Path("/proc", pid, "cwd").readlink().is_relative_to(directory)
    except OSError:
        return False


@scenario()
def test_91_with_an_agent(scene: Scene) -> None:
    async def both() -> None:
        await asyncio.gather(
            _end_to_end(scene, extract=False, use_tcp=True), _end_to_end(scene, extract=True, use_tcp=False)
        )

    asyncio.run(both())
