"""One scenario's stage: a directory, agents, executors, and what must hold when the curtain falls.

`@scenario()` makes a test of a function that takes a `Scene`. It plays in both encodings, at the same time:
nearly all of a scenario is waiting. After each: no agent saw a call it would refuse, the ledger's promises
were kept, and no process is left.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mesos.v1 import mesos_pb2

from executor.protocol import Encoding
from executor.tests.scenarios import events
from executor.tests.scenarios.addresses import Tcp, Unix
from executor.tests.scenarios.call_rules import Identity
from executor.tests.scenarios.executor_process import Executor, agent_environment
from executor.tests.scenarios.scripted_agent import ScriptedAgent

BOTH = (Encoding.PROTOBUF, Encoding.JSON)
KILLING_STATE = mesos_pb2.FrameworkInfo.Capability.TASK_KILLING_STATE


class Scene:
    """See the module. `directory` is readable by any user; `sandbox` lies in it."""

    def __init__(self, encoding: Encoding) -> None:
        self.encoding = encoding
        self.directory = Path(tempfile.mkdtemp(prefix="mesokit-scene-", dir="/var/tmp"))
        self.directory.chmod(0o755)
        self.sandbox = self.directory / "sandbox"
        self.sandbox.mkdir()
        self.sandbox.chmod(0o777)
        self.agents: list[ScriptedAgent] = []
        self.executors: list[Executor] = []
        self.tolerated: list[str] = []
        self._inner: list[Scene] = []

    def another(self) -> Scene:
        """A second stage of the same encoding, for scenarios in several acts that can run side by side."""
        scene = Scene(self.encoding)
        self._inner.append(scene)
        return scene

    def agent(
        self,
        where: Tcp | Unix | None = None,
        *,
        capabilities: Sequence[int] = (),
        token: str | None = None,
        data: bytes | None = None,
        framework_id: str = "5b0a9c1e-0000",
        executor_id: str = "kit executor",
    ) -> ScriptedAgent:
        """A running agent. `data` is ExecutorInfo.data; `capabilities` are the framework's."""
        framework = mesos_pb2.FrameworkInfo(user="root", name="scenarios")
        framework.id.value = framework_id
        for capability in capabilities:
            framework.capabilities.add(type=capability)
        executor = mesos_pb2.ExecutorInfo(type=mesos_pb2.ExecutorInfo.CUSTOM)
        executor.executor_id.value = executor_id
        executor.framework_id.value = framework_id
        executor.command.value = "./mesokit-executor"
        if data is not None:
            executor.data = data
        agent = ScriptedAgent(
            self.encoding,
            where or Tcp(),
            identity=Identity(framework_id, executor_id, events.AGENT_ID, token),
            framework=framework,
            executor=executor,
        )
        self.agents.append(agent)
        return agent

    def start(
        self,
        agent: ScriptedAgent,
        variables: Mapping[str, str] | None = None,
        *,
        without: Sequence[str] = (),
        wrap: Sequence[str] = (),
        arguments: Sequence[str] = (),
    ) -> Executor:
        """An executor of that agent; `variables` on top of the agent's, less those in `without`."""
        merged = {**agent_environment(agent, self.sandbox), **(variables or {})}
        for name in without:
            del merged[name]
        executor = Executor(self.sandbox, merged, wrap=wrap, arguments=arguments)
        self.executors.append(executor)
        agent.alive = lambda: executor.running
        return executor

    def path(self, name: str) -> Path:
        return self.sandbox / name

    def text(self, name: str) -> str:
        """What a file of the sandbox holds; nothing while there is none."""
        path = self.path(name)
        return path.read_text() if path.exists() else ""

    def close(self) -> None:
        """End everything; AssertionError when a promise was broken."""
        problems: list[str] = []
        for scene in self._inner:
            try:
                scene.close()
            except AssertionError as error:
                problems.append(str(error))
        for executor in self.executors:
            try:
                executor.end()
            except AssertionError as error:
                problems.append(str(error))
        for agent in self.agents:
            agent.stop()
            problems += [text for text in agent.violations if not any(one in text for one in self.tolerated)]
            problems += agent.ledger.violations
        shutil.rmtree(self.directory, ignore_errors=True)
        if problems:
            raise AssertionError("; ".join(problems))

    def report(self) -> str:
        """What happened, for a failure."""
        parts = [f"--- {self.encoding.value}"]
        parts += [agent.transcript() for agent in self.agents]
        for executor in self.executors:
            parts.append(f"--- executor, exit status {executor.process.poll()}, stderr:")
            with contextlib.suppress(OSError):
                parts.append(executor.stderr[-4000:])
            parts += ["--- and its log:", executor.log[-8000:]]
        parts += [scene.report() for scene in self._inner]
        return "\n".join(parts)


def play(act: Callable[[Scene], None], encoding: Encoding) -> None:
    """Run one act on a stage of its own."""
    scene = Scene(encoding)
    try:
        act(scene)
    except BaseException as error:
        error.add_note(scene.report())
        with contextlib.suppress(AssertionError):
            scene.close()
        raise
    report = scene.report()
    try:
        scene.close()
    except AssertionError as error:
        error.add_note(report)
        raise


def together(*parts: Callable[[], object]) -> None:
    """Run the parts at the same time; the first failure is raised when all have ended."""
    with ThreadPoolExecutor(len(parts)) as pool:
        futures = [pool.submit(part) for part in parts]
    for future in futures:
        future.result()


def scenario(*encodings: Encoding) -> Callable[[Callable[[Scene], None]], Callable[[], None]]:
    """Make a test of an act, for the given encodings, or for both."""

    def decorate(act: Callable[[Scene], None]) -> Callable[[], None]:
        def test() -> None:
            together(*(lambda encoding=one: play(act, encoding) for one in encodings or BOTH))

        test.__name__ = act.__name__
        test.__qualname__ = act.__qualname__
        test.__doc__ = act.__doc__
        test.__module__ = act.__module__
        return test

    return decorate
