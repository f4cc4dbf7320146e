"""The start: SUBSCRIBE first, the rest of the program while the agent answers it.

An agent counts the time until its executor subscribes, and the greater part of the program is not needed for
that. Nothing that comes from the agent is looked at before all is loaded: it waits for the loop to run.
"""

import gc
import logging
import os
import sys

from executor.app import logs
from executor.app.connection import Connection
from executor.config.settings import Settings
from executor.link import Dialler, Target
from executor.supervisor.loop import SelectorLoop
from executor.supervisor.warden import Warden

log = logging.getLogger(__name__)

SWITCH_INTERVAL = 0.0002
"""Seconds after which the importing thread lets the stream's thread go on, which has little to do."""


def run(settings: Settings, warden: Warden) -> int:
    """Run an executor to its exit status. Raises ConfigError for TLS files that cannot be used."""
    dialler = Dialler.of(settings.endpoint, settings.tls, max(1.0, settings.backoff_max))
    logs.set_up(settings)
    log.info("executor %s of framework %s, pid %d", settings.executor_id, settings.framework_id, os.getpid())
    target = Target(
        dialler, settings.encoding, settings.token, settings.max_record, settings.subscribe_timeout
    )
    loop = SelectorLoop()
    connection = Connection(settings, loop, target)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL)
    connection.open()
    from executor.app.serve import serve  # noqa: PLC0415 (see above)

    sys.setswitchinterval(interval)
    # What is imported stays: looking through it for garbage again and again would find none.
    gc.freeze()
    gc.enable()
    return serve(settings, loop, connection, warden)
