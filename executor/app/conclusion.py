"""What is told of a task whose processes have all ended."""

from mesos.v1 import mesos_pb2

from executor.app.task_event import End
from executor.output.progress_reporter import Progress
from executor.task.state import State
from executor.task.status import Ending
from executor.task.task import Task


def conclusion(task: Task, ending: Ending, progress: Progress | None, defect: str) -> End:
    """`defect` is why the executor ended it, "" where it did not: that comes first, then its time, then a
    kill, then how its process ended.
    """
    facts: dict[str, object] = {**ending.facts}
    if progress is not None:
        facts["progress"] = progress.percent
        facts["progress_message"] = progress.message
    if defect:
        return End(State.FAILED, f"{defect}. {ending.text}", None, facts)
    if task.expired:
        reason = mesos_pb2.TaskStatus.Reason.REASON_MAX_COMPLETION_TIME_REACHED
        return End(State.FAILED, f"Task exceeded its max_completion_time. {ending.text}", reason, facts)
    if task.kill is not None:
        return End(State.KILLED, ending.text, None, facts)
    return End(State.FINISHED if ending.code == 0 else State.FAILED, ending.text, None, facts)
