"""The README's framework in forty lines: it is that short, and it works."""

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from mesos.v1 import mesos_pb2

from executor.framework.fake_master.agent import Step
from executor.framework.fake_master.master import Master
from executor.framework.fake_master.server import serve
from executor.framework.sdk.tests.test_client import QUICK, agent

README = Path(__file__).parents[1] / "README.md"


def test_the_example_runs_a_task(capsys: pytest.CaptureFixture[str]) -> None:
    found = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert found is not None
    code = found[1]
    body = [line for line in code.splitlines() if line.strip() and not line.startswith(("import", "from"))]
    assert len(body) <= 42

    def ends(_task: mesos_pb2.TaskInfo) -> Sequence[Step]:
        return (Step(0.0, mesos_pb2.TASK_RUNNING), Step(0.05, mesos_pb2.TASK_FINISHED))

    async def scenario() -> int:
        async with serve(Master(QUICK)) as server:
            one = agent()
            one.script = ends
            server.master.register(one, server.now())
            names: dict[str, object] = {"__name__": "example"}
            exec(compile(code, "example", "exec"), names)  # noqa: S102 (the README's own code is the subject)
            run = names["run"]
            assert callable(run)
            status: int = await asyncio.wait_for(run(server.address, "echo hello"), 30)
            return status

    assert asyncio.run(scenario()) == 0
    assert capsys.readouterr().out.split()[-2:] == ["TASK_RUNNING", "TASK_FINISHED"]
