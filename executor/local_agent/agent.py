"""The one-machine agent: it starts executors in containers, serves them, and leaves nothing but sandboxes.

One event loop owns everything. `launch` starts a coroutine for each executor, which goes all the way from the
network plan to the last DEL; its `finally` is the one way out, whether the tasks finished, a launch failed or
somebody pressed Ctrl-C. How it went is told to the observer.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import socket
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mesos.v1 import mesos_pb2

from executor.local_agent.cni import NetworkError
from executor.local_agent.container import Bind, Container, LaunchFailure, Program, become, start
from executor.local_agent.environment import Clocks, Endpoint, Identity, executor_environment
from executor.local_agent.events import ContainerGone, ContainerStarted, ExecutorExited, Note, Observer
from executor.local_agent.executor_api import ExecutorApi
from executor.local_agent.executor_state import ManagedExecutor
from executor.local_agent.fetch import FetchError, fetch
from executor.local_agent.http_server import HttpServer
from executor.local_agent.isolator import Attachment, IsolationError, Isolator
from executor.local_agent.plugin_call import Patience
from executor.local_agent.recovery import ISOLATOR_ROOT, clean_up_after_the_dead, take_lock
from executor.local_agent.sandbox import make_sandbox, remove_sandboxes
from executor.local_agent.spawner import Spawner
from executor.local_agent.task_file import ContainerRequest
from executor.local_agent.tokens import Claims, make_token

RECOVERY_SECONDS = 10.0
"""How long the end waits for the clean-up after agents that died."""

HEARTBEAT_INTERVAL = 30 * 60
"""Seconds between heartbeats to an executor; an agent has no flag for it."""

DEFAULT_KILL_GRACE = 3 * 10**9
"""Nanoseconds from KILL to SIGKILL where a task has no kill policy, as in the built-in executors."""

Reason = mesos_pb2.TaskStatus


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """How the agent runs; the names are those of a Mesos agent's flags where it has them.

    `executor` is the command line of the executor. With `use_tcp` executors get no domain socket; then `ip`
    must be one that containers can reach, and "" is the first IPv4 gateway of each container. `chunk_size`
    (bytes) cuts event streams. `plugin_timeout` is in seconds; a Mesos agent has none.
    """

    config_dir: Path
    plugin_path: str
    runtime_dir: Path
    work_dir: Path
    executor: Sequence[str]
    use_tcp: bool = False
    ip: str = ""
    port: int = 0
    authenticate: bool = True
    checkpoint: bool = False
    killing_state: bool = True
    clocks: Clocks = field(default_factory=Clocks)
    chunk_size: int | None = None
    plugin_timeout: float = 60.0
    keep_sandboxes: bool = False


class Agent:
    """An agent, between `open` and `close`."""

    def __init__(self, options: AgentOptions, observe: Observer) -> None:
        self.options, self._observe = options, observe
        self.id = f"{uuid.uuid4()}-S0"
        self.framework_id = f"{uuid.uuid4()}-0000"
        self.executors: dict[tuple[str, str], ManagedExecutor] = {}
        self.failures: list[str] = []
        self._directory = options.runtime_dir / self.id
        self._patience = Patience(options.plugin_timeout)
        self._isolator = Isolator(
            self._directory / ISOLATOR_ROOT, options.config_dir, options.plugin_path, observe, self._patience
        )
        key = secrets.token_bytes(32) if options.authenticate else b""
        self.api = ExecutorApi(self.executors, key, options.chunk_size)
        self._server = HttpServer(self.api.handle, self.api.admit)
        self._port = 0
        self._lock: int | None = None
        self._spawner: Spawner
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._heart: asyncio.Task[None] | None = None
        self._recovery: asyncio.Task[None] | None = None

    @property
    def socket(self) -> Path:
        """The domain socket that executors connect to."""
        return self._directory / "agent.sock"

    async def open(self) -> None:
        """Make the runtime directory, listen, begin to clean up after agents that died. Raises OSError."""
        # First of all: there are no threads yet, and no lock that another process could hold on to.
        self._spawner = Spawner(become)
        self._directory.mkdir(parents=True)
        self._lock = take_lock(self._directory, self.options.plugin_path)
        self._recovery = asyncio.create_task(self._recover())
        await self.listen()
        self._heart = asyncio.create_task(self._beat())

    async def listen(self) -> None:
        """Listen where the options say; also again after `stop_listening`. Raises OSError."""
        # A token admits to one executor's calls, so any user's executor may then be let near the socket.
        await self._server.listen_unix(self.socket, 0o666 if self.api.key else 0o600)
        ip = self.options.ip or ("0.0.0.0" if self.options.use_tcp else "127.0.0.1")
        self._port = await self._server.listen_tcp(ip, self._port or self.options.port)

    async def stop_listening(self) -> None:
        """Drop every connection and the sockets, as an agent that goes down while its executors run on."""
        await self._server.close()
        for executor in self.executors.values():
            executor.disconnect()
        self.socket.unlink(missing_ok=True)

    async def close(self) -> None:
        """End every container and stop serving."""
        for task in self._runs.values():
            task.cancel()
        await asyncio.gather(*self._runs.values(), return_exceptions=True)
        await self._end_recovery()
        if self._heart is not None:
            self._heart.cancel()
        await self._server.close()
        self.socket.unlink(missing_ok=True)
        self._isolator.close()
        if self.failures:
            self._observe(Note(f"what could not be undone is still described in {self._isolator.root}", True))
        else:
            shutil.rmtree(self._directory, ignore_errors=True)
            if not self.options.keep_sandboxes:
                remove_sandboxes(self.options.work_dir, self.id)
        self._spawner.close()
        if self._lock is not None:
            os.close(self._lock)

    def launch(self, request: ContainerRequest) -> None:
        """Start an executor and its tasks; what becomes of them is observed."""
        container = str(uuid.uuid4())
        identity = Identity(self.id, self.framework_id, request.executor.executor_id.value)
        request.executor.framework_id.value = self.framework_id
        for task in request.tasks:
            task.agent_id.value = self.id
        executor = ManagedExecutor(
            request,
            identity=identity,
            container=container,
            framework=self._framework(),
            agent=mesos_pb2.AgentInfo(
                hostname=socket.gethostname(), port=self._port, id=mesos_pb2.AgentID(value=self.id)
            ),
            observe=self._observe,
        )
        self.executors[self.framework_id, identity.executor] = executor
        self._runs[container] = asyncio.create_task(self._run(executor))

    async def wait(self) -> None:
        """Wait until every container that was launched is gone."""
        await asyncio.gather(*self._runs.values(), return_exceptions=True)

    def kill_all(self, grace: int | None = None) -> None:
        """Kill every task, by its kill policy or within `grace` nanoseconds.

        An agent leaves it to the executor from there; here an executor whose tasks are not over a shutdown
        grace period after that is shut down.
        """
        loop = asyncio.get_running_loop()
        for executor in self.executors.values():
            longest = 0
            for task in executor.request.tasks:
                executor.kill(task.task_id.value, grace)
                policy = task.kill_policy.grace_period.nanoseconds
                own = policy if task.HasField("kill_policy") else DEFAULT_KILL_GRACE
                longest = max(longest, own if grace is None else grace)
            patience = longest + self._clocks(executor.request.executor).shutdown_grace
            loop.call_later(patience / 1e9, _shut_down_unless_over, executor)

    def shutdown_all(self) -> None:
        """Tell every executor to stop its tasks and exit within the shutdown grace period."""
        for executor in self.executors.values():
            executor.shutdown()

    def destroy_all(self) -> None:
        """End every container now; plugins have a few seconds more."""
        self._patience.hurry()
        for task in self._runs.values():
            task.cancel()

    async def _recover(self) -> None:
        try:
            await clean_up_after_the_dead(
                self.options.runtime_dir, self._directory, self._observe, self._patience
            )
        except OSError as error:
            self._observe(Note(f"cannot clean up after agents that died: {error}", trouble=True))

    async def _end_recovery(self) -> None:
        """Give the clean-up some time to end; the next agent goes on with the rest."""
        if self._recovery is None:
            return
        seconds = 0 if self._patience.hurried else RECOVERY_SECONDS
        done, _ = await asyncio.wait({self._recovery}, timeout=seconds)
        if not done:
            self._recovery.cancel()
            await asyncio.wait({self._recovery})
            self._observe(Note("the next agent goes on cleaning up after those that died"))

    async def _run(self, executor: ManagedExecutor) -> None:
        """One container from beginning to end."""
        request, cid = executor.request, executor.container
        container: Container | None = None
        sandbox: Path | None = None
        try:
            plan = self._isolator.plan(request.networks)
            sandbox = make_sandbox(
                self.options.work_dir, executor.identity, cid, request.executor.command.user
            )
            await fetch(request, sandbox)
            hostname = request.executor.container.hostname
            container = await start(self._spawner, network=bool(plan), uts=bool(plan or hostname))
            await self._release(executor, container, plan, sandbox)
            await self._until_exit(executor, container)
        except (NetworkError, IsolationError, LaunchFailure, FetchError, OSError) as error:
            executor.end(Reason.REASON_CONTAINER_LAUNCH_FAILED, str(error))
        finally:
            await _to_its_end(asyncio.create_task(self._clean_up(executor, container, sandbox)))

    async def _release(
        self, executor: ManagedExecutor, container: Container, plan: Sequence[Attachment], sandbox: Path
    ) -> None:
        """Attach the networks and let the container's program run."""
        info = executor.request.executor
        cid = executor.container
        attached = await self._isolator.attach(cid, container.pid, plan) if plan else []
        hostname = info.container.hostname or cid
        binds = self._isolator.files(cid, hostname, attached) if plan else []
        binds += [_volume_bind(volume, sandbox) for volume in info.container.volumes]
        executor.network_infos = [_reported(attachment) for attachment in attached]
        executor.addresses = tuple(a for at in attached if at.result for a in at.result.addresses)
        executor.pid = container.pid
        if executor.is_over:
            raise LaunchFailure("the task was killed before its executor ran")
        claims = Claims(self.framework_id, executor.identity.executor, cid)
        await container.release(
            Program(
                argv=[*self.options.executor, *info.command.arguments[1:]],
                environment=executor_environment(
                    executor.identity,
                    self._endpoint(attached),
                    sandbox,
                    info.command,
                    self._clocks(info),
                    checkpoint=self.options.checkpoint,
                    token=make_token(claims, self.api.key) if self.api.key else "",
                    has_network=bool(plan),
                ),
                directory=str(sandbox),
                stdout=str(sandbox / "stdout"),
                stderr=str(sandbox / "stderr"),
                hostname=hostname,
                binds=binds,
                user=info.command.user,
            )
        )
        self._observe(
            ContainerStarted(
                container=cid,
                executor=executor.identity.executor,
                pid=container.pid,
                sandbox=str(sandbox),
                nsenter=container.nsenter,
                tasks=tuple(executor.states),
            )
        )

    async def _until_exit(self, executor: ManagedExecutor, container: Container) -> None:
        """Wait for the executor's exit, and see to it when it is due."""
        exited = asyncio.ensure_future(container.wait())
        clocks = self._clocks(executor.request.executor)
        grace = clocks.shutdown_grace / 1e9
        reason = Reason.REASON_EXECUTOR_TERMINATED
        why = ""
        subscribed = asyncio.ensure_future(executor.subscribed.wait())
        ending = asyncio.ensure_future(executor.ending.wait())
        try:
            timeout = clocks.registration_timeout / 1e9
            await asyncio.wait(
                {exited, subscribed, ending}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
            )
            if not (exited.done() or subscribed.done() or ending.done()):
                reason = Reason.REASON_EXECUTOR_REGISTRATION_TIMEOUT
                why = f"the executor did not subscribe within {timeout:g} s"
            else:
                await asyncio.wait({exited, ending}, return_when=asyncio.FIRST_COMPLETED)
                if not exited.done():
                    await asyncio.wait({exited}, timeout=grace)
                if not exited.done() and executor.is_over:
                    # Its tasks are over and it stays: an executor that waits for more work is sent home.
                    executor.shutdown()
                    await asyncio.wait({exited}, timeout=grace)
                if not exited.done():
                    why = f"the executor did not exit within its grace period of {grace:g} s"
        finally:
            for waiter in (subscribed, ending):
                waiter.cancel()
        if exited.done():
            why = _exit_text(exited.result())
            self._observe(ExecutorExited(executor.container, why))
            why = f"the executor {why}"
        executor.end(reason, why)

    async def _clean_up(
        self, executor: ManagedExecutor, container: Container | None, sandbox: Path | None
    ) -> None:
        cid = executor.container
        try:
            if container is not None:
                await container.destroy()
            executor.end(Reason.REASON_EXECUTOR_TERMINATED, "the container was destroyed")
            await self._isolator.detach(cid)
        except (IsolationError, LaunchFailure, OSError) as error:
            executor.end(Reason.REASON_EXECUTOR_TERMINATED, "the container cannot be destroyed")
            self.failures.append(str(error))
            self._observe(Note(f"container {cid} cannot be cleaned up: {error}", trouble=True))
            return
        self._observe(ContainerGone(cid, str(sandbox or "")))

    def _framework(self) -> mesos_pb2.FrameworkInfo:
        framework = mesos_pb2.FrameworkInfo(
            user="root",
            name="mesokit run",
            id=mesos_pb2.FrameworkID(value=self.framework_id),
            checkpoint=self.options.checkpoint,
        )
        if self.options.killing_state:
            framework.capabilities.add(type=mesos_pb2.FrameworkInfo.Capability.TASK_KILLING_STATE)
        return framework

    def _endpoint(self, attached: Sequence[Attachment]) -> Endpoint:
        ip = self.options.ip
        if not ip and self.options.use_tcp:
            gateways = [gateway for a in attached if a.result for gateway in a.result.gateways]
            ip = next((gateway for gateway in gateways if ":" not in gateway), "")
        host = f"[{ip}]" if ":" in ip else ip or "127.0.0.1"
        return Endpoint(f"{host}:{self._port}", None if self.options.use_tcp else self.socket)

    def _clocks(self, info: mesos_pb2.ExecutorInfo) -> Clocks:
        clocks = self.options.clocks
        if not info.HasField("shutdown_grace_period"):
            return clocks
        return Clocks(
            info.shutdown_grace_period.nanoseconds,
            clocks.registration_timeout,
            clocks.recovery_timeout,
            clocks.reregistration_timeout,
        )

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_INTERVAL)
            for executor in self.executors.values():
                executor.heartbeat()


def _shut_down_unless_over(executor: ManagedExecutor) -> None:
    if not executor.is_over:
        executor.shutdown()


async def _to_its_end(task: asyncio.Task[None]) -> None:
    """Wait for a task that may not be left half-done, however often its waiter is cancelled."""
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            continue


def _reported(attachment: Attachment) -> mesos_pb2.NetworkInfo:
    """The NetworkInfo of a status: what the task asked for, with the addresses it got."""
    info = mesos_pb2.NetworkInfo()
    info.CopyFrom(attachment.info)
    del info.ip_addresses[:]
    result = attachment.result
    if result and result.ip4:
        info.ip_addresses.add(
            ip_address=result.ip4.address.partition("/")[0], protocol=mesos_pb2.NetworkInfo.IPv4
        )
    if result and result.ip6:
        info.ip_addresses.add(ip_address=result.ip6.address, protocol=mesos_pb2.NetworkInfo.IPv6)
    return info


def _volume_bind(volume: mesos_pb2.Volume, sandbox: Path) -> Bind:
    """A volume as a bind mount; one with a relative path appears in the sandbox. Raises LaunchFailure."""
    source, target = sandbox / volume.host_path, sandbox / volume.container_path
    if not source.exists():
        raise LaunchFailure(f"volume {volume.container_path!r}: host_path {volume.host_path!r} is not there")
    if not Path(volume.container_path).is_absolute():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.mkdir(exist_ok=True) if source.is_dir() else target.touch()
    elif not target.exists():
        raise LaunchFailure(f"volume: container_path {volume.container_path!r} is not there to mount on")
    return Bind(str(source), str(target), read_only=volume.mode == mesos_pb2.Volume.RO)


def _exit_text(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"was ended by signal {os.WTERMSIG(status)}"
    return f"exited with status {os.WEXITSTATUS(status)}"
