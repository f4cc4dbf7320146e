"""An executor with all its parts at work, to its orderly end."""

import contextlib
import faulthandler
import logging
import os
import resource
import signal

from executor.app.connection import Connection
from executor.app.equipment import Equipment
from executor.app.executor import Executor
from executor.app.launch_spec import Surroundings
from executor.app.observers import Observers
from executor.config.settings import Settings
from executor.eventloop import READ, SelectorLoop
from executor.output.directory import Directory
from executor.process.supervisor import Supervisor
from executor.process.warden import Warden

log = logging.getLogger(__name__)

MOST_DESCRIPTORS = 65536

DEFECT = 70
"""The exit status after an error that should not be possible."""


def serve(
    settings: Settings, loop: SelectorLoop, connection: Connection, warden: Warden, sandbox: Directory
) -> int:
    """Do what the agent asks for until it is time to leave; the exit status."""
    _allow_descriptors()
    supervisor = Supervisor(warden)
    executor = Executor(
        settings,
        loop,
        supervisor,
        connection,
        around=Surroundings.of(settings, os.environ),
        equipment=Equipment.of(settings, loop, sandbox),
    )
    observers = Observers(settings, loop, executor, connection.session, supervisor, sandbox=sandbox)
    _heed_signals(loop, executor)
    loop.watch(supervisor.warden_pidfd, READ, lambda: _warden_lost(loop, supervisor, executor))
    try:
        status = executor.run()
    except BaseException:
        log.exception("the executor fails")
        status = DEFECT
    connection.close()
    loop.unwatch(supervisor.warden_pidfd)
    observers.close()
    supervisor.close()
    log.info("leaving with status %d", status)
    logging.shutdown()
    return status


def _allow_descriptors() -> None:
    """Each task takes one. Tasks are the warden's children and keep the limit that we came with."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _heed_signals(loop: SelectorLoop, executor: Executor) -> None:
    """SIGTERM and SIGINT stop as SHUTDOWN does; SIGUSR1 writes every thread's stack to standard error."""
    signal.set_wakeup_fd(loop.wakeup, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        name = number.name
        signal.signal(number, lambda *_, name=name: loop.post(lambda: executor.stop(f"{name} received")))
    faulthandler.register(signal.SIGUSR1, all_threads=True)


def _warden_lost(loop: SelectorLoop, supervisor: Supervisor, executor: Executor) -> None:
    """The warden was killed, and every task with it: nothing can be started any more."""
    loop.unwatch(supervisor.warden_pidfd)
    supervisor.reap_orphans()
    executor.stop("the process that guards the tasks was killed", 1)
