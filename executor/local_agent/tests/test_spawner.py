"""Containers are forked by a process with one thread, whatever the agent has."""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from executor.local_agent.container import LaunchFailure, _identity
from executor.local_agent.spawner import Spawner, SpawnError


def tell(control: socket.socket, flags: int, network: bool) -> NoReturn:
    """Say who forked us, and with how many threads."""
    status = Path(f"/proc/{os.getppid()}/status").read_text()
    threads = next(line.split()[1] for line in status.splitlines() if line.startswith("Threads:"))
    control.sendall(f"{os.getppid()} {threads} {flags} {network}".encode())
    os._exit(7)


def wait(control: socket.socket, flags: int, network: bool) -> NoReturn:
    control.recv(1)
    os._exit(0)


@asynccontextmanager
async def spawning(become: object = tell) -> AsyncIterator[Spawner]:
    spawner = Spawner(become)  # type: ignore[arg-type]
    try:
        yield spawner
    finally:
        spawner.close()


async def spawned(spawner: Spawner) -> tuple[int, str, int]:
    """The pid of a child, what it said, and its wait status."""
    ours, theirs = socket.socketpair()
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    with ours, theirs:
        pid, pidfd = await spawner.spawn(theirs, 5, True)
        os.close(pidfd)
        spawner.on_exit(pid, ended.set_result)
        status = await asyncio.wait_for(ended, 30)
        return pid, ours.recv(100).decode(), status


def test_whoever_forks_has_one_thread() -> None:
    async def act() -> None:
        async with spawning() as spawner:
            stop = threading.Event()
            threads = [threading.Thread(target=stop.wait) for _ in range(5)]
            for thread in threads:
                thread.start()
            try:
                children = [await spawned(spawner) for _ in range(3)]
            finally:
                stop.set()
            for _, said, status in children:
                parent, count, flags, network = said.split()
                assert (count, flags, network) == ("1", "5", "True")
                assert int(parent) != os.getpid()
                assert os.waitstatus_to_exitcode(status) == 7

    asyncio.run(act())


def test_it_goes_with_the_agent_and_its_children_are_not_lost_with_it() -> None:
    async def act() -> None:
        async with spawning(wait) as spawner:
            ours, theirs = socket.socketpair()
            with ours, theirs:
                pid, pidfd = await spawner.spawn(theirs, 0, False)
                ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
                spawner.on_exit(pid, ended.set_result)
                parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
                os.kill(parent, signal.SIGKILL)
                assert os.WIFSIGNALED(await asyncio.wait_for(ended, 30))
                with pytest.raises((SpawnError, OSError)):
                    await spawner.spawn(theirs, 0, False)
                os.close(pidfd)

    asyncio.run(act())


def test_users_are_looked_up_before_anything_is_forked() -> None:
    assert _identity("") is None
    found = _identity("root")
    assert found is not None
    assert found[:2] == (0, 0)
    with pytest.raises(LaunchFailure, match="no such user"):
        _identity("nobody-of-that-name")
