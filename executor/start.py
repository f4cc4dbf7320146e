"""The start: everything is loaded, then SUBSCRIBE is sent.

An agent answers it with the tasks it has waiting, so what were loaded after it would be waited for by the
first of them: 25 ms less to SUBSCRIBE cost 30 ms more from LAUNCH to RUNNING.
"""

import gc
import logging
import os
from functools import partial

from executor import logs
from executor.app.connection import Connection
from executor.bootstrap import serve
from executor.config.settings import ConfigError, Settings
from executor.eventloop import SelectorLoop
from executor.output.directory import Directory
from executor.process.warden import Warden
from executor.transport import Dialler, Link, Target

log = logging.getLogger(__name__)


def run(settings: Settings, warden: Warden) -> int:
    """Run an executor to its exit status. Raises ConfigError for TLS files that cannot be used."""
    dialler = Dialler.of(settings.endpoint, settings.tls, max(1.0, settings.backoff_max))
    try:
        sandbox = Directory.of(settings.sandbox)
    except OSError as error:
        raise ConfigError([f"the sandbox {settings.sandbox} cannot be opened: {error.strerror}"]) from None
    logs.set_up(settings, sandbox)
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
    return serve(settings, loop, connection, warden, sandbox)
