"""From settings to a running executor, and its orderly end."""

import faulthandler
import logging
import os
import signal

from executor.app import logs
from executor.app.equipment import Equipment
from executor.app.executor import Executor
from executor.app.observers import Observers
from executor.app.preparation import Surroundings
from executor.config.settings import Settings
from executor.link import Dialler, Target
from executor.supervisor.loop import READ, SelectorLoop
from executor.supervisor.supervisor import Supervisor
from executor.supervisor.warden import Warden

log = logging.getLogger(__name__)


def run(settings: Settings, warden: Warden) -> int:
    """Run an executor to its exit status. Raises ConfigError for TLS files and patterns of no use."""
    dialler = Dialler.of(settings.endpoint, settings.tls, max(1.0, settings.backoff_max))
    loop = SelectorLoop()
    equipment = Equipment.of(settings, loop)
    logs.set_up(settings)
    log.info("executor %s of framework %s, pid %d", settings.executor_id, settings.framework_id, os.getpid())
    supervisor = Supervisor(warden)
    target = Target(
        dialler, settings.encoding, settings.token, settings.max_record, settings.subscribe_timeout
    )
    around = Surroundings.of(settings, os.environ)
    executor = Executor(settings, loop, supervisor, target, around=around, equipment=equipment)
    observers = Observers(settings, loop, executor, supervisor)
    _heed_signals(loop, executor)
    loop.watch(supervisor.warden_pidfd, READ, lambda: _warden_lost(loop, supervisor, executor))
    try:
        status = executor.run()
    except BaseException:
        log.exception("the executor fails")
        status = 70
    loop.unwatch(supervisor.warden_pidfd)
    observers.close()
    supervisor.close()
    log.info("leaving with status %d", status)
    logging.shutdown()
    return status


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
