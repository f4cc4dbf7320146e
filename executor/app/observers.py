"""Those who look at the executor while it runs: the inspect endpoint, and the regular sampling of usage.

What makes the answers is loaded with the first question, for most executors are never asked.
"""

import logging
import time
from typing import TYPE_CHECKING

from executor.app.executor import Executor
from executor.config.settings import Settings
from executor.eventloop import Loop
from executor.monitoring.server import InspectServer
from executor.output.directory import Directory
from executor.process.supervisor import Supervisor
from executor.protocol import Session

if TYPE_CHECKING:
    from executor.monitoring.snapshot import ExecutorView
    from executor.monitoring.usage import Sampler

log = logging.getLogger(__name__)


class Observers:
    """They see everything and change nothing; what fails here is logged and done without."""

    def __init__(
        self,
        settings: Settings,
        loop: Loop,
        executor: Executor,
        session: Session,
        supervisor: Supervisor,
        *,
        sandbox: Directory,
    ) -> None:
        self._settings = settings
        self._loop = loop
        self._executor = executor
        self._session = session
        self._supervisor = supervisor
        self._started_at = time.time()
        self._sampler_made: Sampler | None = None
        self._told = False
        self._server: InspectServer | None = None
        if settings.inspect:
            try:
                self._server = InspectServer(loop, sandbox, self._look)
            except OSError as error:
                log.warning("nothing can be inspected: no socket in %s: %s", settings.sandbox, error)
        if settings.usage_interval:
            self._schedule()

    def close(self) -> None:
        """Stop answering, and remove the socket."""
        if self._server is not None:
            self._server.close()
            self._server = None

    @property
    def _sampler(self) -> "Sampler":
        if self._sampler_made is None:
            from executor.monitoring.usage import Sampler  # noqa: PLC0415 (see above)

            self._sampler_made = Sampler(self._supervisor)
        return self._sampler_made

    def _schedule(self) -> None:
        self._loop.call_at(self._loop.now() + self._settings.usage_interval, self._sample)

    def _sample(self) -> None:
        self._schedule()
        living = self._executor.tasks.living
        try:
            self._sampler.sample(kept.started for kept in living if kept.started is not None)
        except Exception as error:
            # Told once: what cannot be measured now most likely never can.
            if not self._told:
                log.warning("cannot sample what tasks use: %s", error, exc_info=True)
            self._told = True

    def _look(self) -> "ExecutorView":
        from executor.app.view import view  # noqa: PLC0415 (see above)

        return view(
            self._settings,
            self._session,
            self._executor.tasks,
            self._supervisor,
            self._sampler,
            started_at=self._started_at,
            now=self._loop.now(),
            shutting_down=self._executor.shutting_down,
            container_id=self._executor.container_id,
        )
