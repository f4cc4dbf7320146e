"""Deduplicate: what a TaskInfo.check has to say, told when it changes."""

from collections.abc import Callable, Sequence

from mesos.v1 import mesos_pb2

from executor.checks.plan import CommandTarget, HttpTarget, Plan
from executor.checks.result import Result
from executor.checks.runner import Run, Runner
from executor.eventloop import Loop
from executor.process.supervisor import Supervisor


class Checker:
    """A CheckInfo at work. `status` belongs into every status update of its task, from the first on."""

    def __init__(
        self,
        loop: Loop,
        supervisor: Supervisor,
        plan: Plan,
        on_change: Callable[[mesos_pb2.CheckStatusInfo], None],
    ) -> None:
        self._plan = plan
        self._on_change = on_change
        self._runner = Runner(loop, supervisor, plan, self._heard)
        self.status = empty_status(plan)

    @property
    def history(self) -> Sequence[Run]:
        """The latest runs, oldest first."""
        return self._runner.history

    def start(self) -> None:
        """Begin; delays count from now, the task's launch."""
        self._runner.start()

    def pause(self) -> None:
        """No runs and no words from here on: the task is being killed or has ended."""
        self._runner.pause()

    def _heard(self, result: Result) -> None:
        if result.transient:
            return
        status = empty_status(self._plan)
        if result.exit_code is not None:
            status.command.exit_code = result.exit_code
        elif result.http_status is not None:
            status.http.status_code = result.http_status
        elif result.connected is not None:
            status.tcp.succeeded = result.connected
        if status != self.status:
            self.status = status
            self._on_change(status)


def empty_status(plan: Plan) -> mesos_pb2.CheckStatusInfo:
    """The status before the first result, or after a run without an answer: the kind, and an empty message
    of it.
    """
    status = mesos_pb2.CheckStatusInfo()
    if isinstance(plan.target, CommandTarget):
        status.type = mesos_pb2.CheckInfo.COMMAND
        status.command.SetInParent()
    elif isinstance(plan.target, HttpTarget):
        status.type = mesos_pb2.CheckInfo.HTTP
        status.http.SetInParent()
    else:
        status.type = mesos_pb2.CheckInfo.TCP
        status.tcp.SetInParent()
    return status
