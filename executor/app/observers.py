"""Those who look at the executor while it runs: the inspect endpoint, and the regular sampling of usage."""

import logging
import time
from functools import partial

from executor.app.executor import Executor
from executor.app.view import view
from executor.config.settings import Settings
from executor.inspect.document import ExecutorView
from executor.inspect.server import InspectServer
from executor.session import Session
from executor.supervisor.loop import Loop
from executor.supervisor.supervisor import Supervisor
from executor.usage.sampler import Sampler

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
    ) -> None:
        self._loop = loop
        self._executor = executor
        self._sampler = Sampler(supervisor)
        self._interval = settings.usage_interval
        self._look = partial(
            view,
            settings,
            session,
            executor.keeper,
            supervisor,
            self._sampler,
            started_at=time.time(),
        )
        self._server: InspectServer | None = None
        if settings.inspect:
            try:
                self._server = InspectServer(loop, settings.sandbox, self._document)
            except OSError as error:
                log.warning("nothing can be inspected: no socket in %s: %s", settings.sandbox, error)
        if self._interval:
            self._schedule()

    def close(self) -> None:
        """Stop answering, and remove the socket."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def _schedule(self) -> None:
        self._loop.call_at(self._loop.now() + self._interval, self._sample)

    def _sample(self) -> None:
        living = self._executor.keeper.living
        self._sampler.sample(kept.started for kept in living if kept.started is not None)
        self._schedule()

    def _document(self) -> ExecutorView:
        return self._look(now=self._loop.now(), shutting_down=self._executor.shutting_down)
