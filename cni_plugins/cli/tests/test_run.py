"""What `mesokit run` says of wrong input, and how it tells what happens."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from mesos.v1 import mesos_pb2

from cni_plugins.cli.run import command
from cni_plugins.cli.run_report import describe, json_teller, text_teller
from executor.local_agent.events import ContainerStarted, Note, Observation, PluginCalled, StatusUpdate

CALL = PluginCalled("c", "ADD", "data-net", "eth0", "bridge", 0.0142, ("10.0.0.2/24",), ("10.0.0.1",))
STATUS = mesos_pb2.TaskStatus(
    task_id=mesos_pb2.TaskID(value="t"), state=mesos_pb2.TASK_RUNNING, uuid=b"\0" * 16
)


@pytest.mark.parametrize(
    ("text", "options", "sentence"),
    [
        ('{"name": "x", "comand": {}}', [], "standard input: comand: unknown key: expected 'command'"),
        ("{", [], "standard input: line 1, column 2"),
        ('{"name": "x", "command": {"cmd": "y"}}', ["--kill-after", "5s"], "use one of ns, us, ms, secs"),
        (
            '{"name": "x", "command": {"cmd": "y"}}',
            ["--executor", "no-such-program"],
            "--executor: 'no-such-program': expected a program that can be run",
        ),
        (
            '{"name": "x", "command": {"cmd": "y"}}',
            ["--executor", "'"],
            '--executor: "\'": No closing quotation: expected a command as in a shell',
        ),
    ],
)
def test_wrong_input_is_named_and_ends_with_2(text: str, options: list[str], sentence: str) -> None:
    answer = CliRunner().invoke(command, ["-", *options], input=text)
    assert answer.exit_code == 2
    assert sentence in " ".join(answer.output.split())


def test_missing_file() -> None:
    answer = CliRunner().invoke(command, ["/nothing/there.json"])
    assert answer.exit_code == 2
    assert "/nothing/there.json: No such file or directory" in answer.output


@pytest.mark.parametrize(
    ("observation", "who", "what"),
    [
        (CALL, "data-net", "ADD bridge eth0: 10.0.0.2/24, gateway 10.0.0.1 (14 ms)"),
        (
            PluginCalled("c", "DEL", "data-net", "eth0", "bridge", 0.1, error="no"),
            "data-net",
            "DEL bridge eth0: FAILED: no (100 ms)",
        ),
        (
            StatusUpdate("c", "t", "TASK_RUNNING", "EXECUTOR", addresses=("10.0.0.2/24",)),
            "t",
            "TASK_RUNNING on 10.0.0.2/24",
        ),
        (
            StatusUpdate("c", "t", "TASK_FAILED", "AGENT", "it is gone", "REASON_EXECUTOR_TERMINATED"),
            "t",
            "TASK_FAILED (REASON_EXECUTOR_TERMINATED): it is gone [said by the agent]",
        ),
        (StatusUpdate("c", "t", "TASK_RUNNING", "EXECUTOR", healthy=False), "t", "TASK_RUNNING unhealthy"),
        (
            ContainerStarted("c", "t", 7, "/sandbox", ("nsenter", "--target", "7"), ("t",)),
            "c",
            "executor 7 started, sandbox /sandbox\nenter it with: nsenter --target 7",
        ),
        (Note("so it is"), "", "so it is"),
    ],
)
def test_observations_in_words(observation: Observation, who: str, what: str) -> None:
    assert describe(observation) == (who, what)


def test_what_a_task_says_is_no_command_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    text_teller()(StatusUpdate("c", "t", "TASK_FAILED", "EXECUTOR", "\x1b[2Joops"))
    assert capsys.readouterr().err.endswith("TASK_FAILED: \\x1b[2Joops\n")


def test_observations_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    tell = json_teller()
    tell(CALL)
    tell(StatusUpdate("c", "t", "TASK_RUNNING", "EXECUTOR", status=STATUS))
    call, update = map(json.loads, capsys.readouterr().out.splitlines())
    assert (call["event"], call["addresses"], call["seconds"]) == ("PluginCalled", ["10.0.0.2/24"], 0.0142)
    assert update["status"] == {"task_id": {"value": "t"}, "state": "TASK_RUNNING", "uuid": "A" * 22 + "=="}
