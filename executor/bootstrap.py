"""An executor with all its parts at work, from its settings to its orderly end.

Everything is loaded, then SUBSCRIBE is sent. An agent answers it with the tasks it has waiting, so what were
loaded after it would be waited for by the first of them: 25 ms less to SUBSCRIBE cost 30 ms more from LAUNCH
to RUNNING.
"""

import contextlib
import faulthandler
import gc
import logging
import os
import resource
import signal
from functools import partial

from executor import logs
from executor.app.connection import Connection
from executor.app.executor import Executor
from executor.app.launch_spec import Surroundings
from executor.app.rehearsal import rehearse
from executor.app.sandbox import Sandbox
from executor.app.task_manager import TaskManager
from executor.app.task_run import Services
from executor.config.settings import ConfigError, Settings
from executor.eventloop import READ, SelectorLoop
from executor.monitoring.server import Observers
from executor.output.directory import Directory
from executor.process.signals import Sweep
from executor.process.supervisor import Supervisor
from executor.process.warden import Warden
from executor.transport import Dialler, Link, Target

log = logging.getLogger(__name__)

MOST_DESCRIPTORS = 65536

DEFECT = 70
"""The exit status after an error that should not be possible."""


def run(settings: Settings, warden: Warden) -> int:
    """Run an executor to its exit status. Raises ConfigError for TLS files or a sandbox that cannot be
    used."""
    dialler = Dialler.of(settings.endpoint, settings.tls, max(1.0, settings.backoff_max))
    try:
        directory = Directory.of(settings.sandbox)
    except OSError as error:
        raise ConfigError([f"the sandbox {settings.sandbox} cannot be opened: {error.strerror}"]) from None
    logs.set_up(settings, directory)
    log.info("executor %s of framework %s, pid %d", settings.executor_id, settings.framework_id, os.getpid())
    target = Target(
        dialler, settings.encoding, settings.token, settings.max_record, settings.subscribe_timeout
    )
    loop = SelectorLoop()
    connection = Connection(settings, loop, partial(Link, target))
    # What is imported stays: looking through it for garbage again and again would find none.
    gc.freeze()
    gc.enable()
    connection.open()
    return _serve(settings, loop, connection, Supervisor(warden), directory)


def _serve(
    settings: Settings,
    loop: SelectorLoop,
    connection: Connection,
    supervisor: Supervisor,
    directory: Directory,
) -> int:
    """Do what the agent asks for until it is time to leave; the exit status."""
    _allow_descriptors()
    sandbox = Sandbox.of(settings, loop, directory)
    services = Services(loop, supervisor, Sweep(loop, supervisor), sandbox.prepare, settings)
    around = Surroundings.of(settings, os.environ)
    tasks = TaskManager(services, around)
    executor = Executor(settings, loop, connection, tasks)
    observers = Observers(settings, loop, executor, connection.session, supervisor, sandbox=directory)
    supervisor.attach(loop)
    _heed_signals(loop, executor, supervisor)
    loop.watch(supervisor.warden_pidfd, READ, lambda: _warden_lost(loop, supervisor, executor))
    rehearse(settings.encoding, around)
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


def _heed_signals(loop: SelectorLoop, executor: Executor, supervisor: Supervisor) -> None:
    """SIGTERM and SIGINT stop as SHUTDOWN does; SIGUSR1 writes every thread's stack to standard error.
    SIGCHLD comes when the warden has been stopped, as a task of the same user may do: it goes on.
    """
    signal.set_wakeup_fd(loop.wakeup, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        name = number.name
        signal.signal(number, lambda *_, name=name: loop.post(lambda: executor.stop(f"{name} received")))
    signal.signal(signal.SIGCHLD, lambda *_: loop.post(supervisor.keep_warden_going))
    # One that was stopped before this stood is asked after as well.
    loop.post(supervisor.keep_warden_going)
    faulthandler.register(signal.SIGUSR1, all_threads=True)


def _warden_lost(loop: SelectorLoop, supervisor: Supervisor, executor: Executor) -> None:
    """The warden was killed, and every task with it: nothing can be started any more."""
    loop.unwatch(supervisor.warden_pidfd)
    supervisor.reap_orphans()
    executor.stop("the process that guards the tasks was killed", 1)
