"""This machine as an agent of the fake master: the one-machine agent runs its tasks, on its networks."""

import asyncio
import os
import shutil
import socket
from collections.abc import Sequence

from mesos.v1 import mesos_pb2

from executor.framework.fake_master.agent import FakeAgent
from executor.framework.fake_master.options import Options
from executor.local_agent.agent import Agent, AgentOptions
from executor.local_agent.events import ContainerGone, ContainerStarted, Observation, Observer, StatusUpdate
from executor.local_agent.task_file import ContainerRequest


class LocalBackend:
    """Hands launches and kills to a one-machine agent, and what it observes back. `agent` is to be opened and
    closed by whoever made this.
    """

    def __init__(self, options: AgentOptions, observe: Observer) -> None:
        self.agent = Agent(options, self._observed)
        self._observe = observe
        self._volumes = options.work_dir / "volumes"
        self._executors: dict[str, str] = {}
        self.fake = FakeAgent(_described(self.agent.id), Options())
        self.fake.backend = self

    def launch(self, tasks: Sequence[mesos_pb2.TaskInfo], executor: mesos_pb2.ExecutorInfo | None) -> None:
        given = mesos_pb2.ExecutorInfo(type=mesos_pb2.ExecutorInfo.CUSTOM)
        given.executor_id.value = tasks[0].task_id.value
        if executor is not None:
            given.CopyFrom(executor)
        for resource in given.resources:
            if resource.disk.HasField("persistence"):
                folder = self._volumes / resource.disk.persistence.id
                folder.mkdir(parents=True, exist_ok=True)
                given.container.type = mesos_pb2.ContainerInfo.MESOS
                given.container.volumes.add(
                    host_path=str(folder),
                    container_path=resource.disk.volume.container_path,
                    mode=resource.disk.volume.mode,
                )
        copies = []
        for task in tasks:
            copy = mesos_pb2.TaskInfo()
            copy.CopyFrom(task)
            copies.append(copy)
        self.agent.launch(ContainerRequest(given, tuple(copies), is_group=executor is not None))

    def kill(self, task_id: str, policy: mesos_pb2.KillPolicy) -> None:
        grace = policy.grace_period.nanoseconds if policy.HasField("grace_period") else None
        for executor in self.agent.executors.values():
            if task_id in executor.states:
                executor.kill(task_id, grace)

    def destroy(self, persistence_id: str) -> None:
        shutil.rmtree(self._volumes / persistence_id, ignore_errors=True)

    def shutdown(self, executor_id: str) -> None:
        for (_, name), executor in self.agent.executors.items():
            if name == executor_id:
                executor.shutdown()

    def _observed(self, observation: Observation) -> None:
        if isinstance(observation, StatusUpdate):
            self.fake.report(observation.status)
        elif isinstance(observation, ContainerStarted):
            self._executors[observation.container] = observation.executor
            for framework_id, name in list(self.fake.executors):
                if name == observation.executor:
                    self.fake.has_sandbox(framework_id, name, observation.sandbox)
        elif isinstance(observation, ContainerGone):
            # The last updates go first, as an agent sends them.
            asyncio.get_running_loop().call_soon(self._gone, observation.container)
        self._observe(observation)

    def _gone(self, container: str) -> None:
        executor_id = self._executors.pop(container, "")
        for framework_id, name in list(self.fake.executors):
            if name == executor_id:
                self.fake.executor_gone(framework_id, name)


def _described(agent_id: str) -> mesos_pb2.AgentInfo:
    """This machine, all of it on offer."""
    info = mesos_pb2.AgentInfo(hostname=socket.gethostname())
    info.id.value = agent_id
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20
    for name, value in (("cpus", float(os.cpu_count() or 1)), ("mem", memory), ("disk", 100_000.0)):
        info.resources.add(name=name, type=mesos_pb2.Value.SCALAR).scalar.value = value
    info.resources.add(name="ports", type=mesos_pb2.Value.RANGES).ranges.range.add(begin=31000, end=32000)
    return info
