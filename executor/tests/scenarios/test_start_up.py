"""Scenarios 1 to 14: from the first instruction to the first subscription."""

from __future__ import annotations

import datetime
import json
import ssl
import time
from pathlib import Path

import pytest
import trustme

from executor.protocol import Encoding
from executor.tests.scenarios import acknowledgements, processes
from executor.tests.scenarios.addresses import Tcp, Unix
from executor.tests.scenarios.answers import Accept, Refuse
from executor.tests.scenarios.events import launch, shutdown, task
from executor.tests.scenarios.executor_process import Executor
from executor.tests.scenarios.scene import Scene, scenario, together
from executor.tests.scenarios.scripted_agent import Call

TOKEN = ".".join(["eyJhbGciOiJIUzI1NiJ9", "eyJmaWQiOiJmIn0", "c2NlbmFyaW8tdG9rZW4"])


@scenario(Encoding.PROTOBUF)
def test_01_start_protobuf(scene: Scene) -> None:
    agent = scene.agent()
    scene.start(agent)
    agent.subscription()
    (entry,) = agent.log
    assert entry.call is not None
    assert entry.call.HasField("subscribe")
    assert not entry.call.subscribe.ListFields()
    assert entry.call.framework_id.value == agent.identity.framework_id
    assert entry.call.executor_id.value == agent.identity.executor_id
    assert entry.request.headers["content-type"] == "application/x-protobuf"
    assert entry.request.headers["accept"] == "application/x-protobuf"


@scenario(Encoding.JSON)
def test_02_start_json(scene: Scene) -> None:
    agent = scene.agent()
    scene.start(agent)
    agent.subscription()
    (entry,) = agent.log
    assert json.loads(entry.request.body) == {
        "type": "SUBSCRIBE",
        "framework_id": {"value": agent.identity.framework_id},
        "executor_id": {"value": agent.identity.executor_id},
        "subscribe": {},
    }
    assert entry.request.headers["content-type"] == "application/json"
    assert entry.request.headers["accept"] == "application/json"


def _refuses_to_start(scene: Scene, variables: dict[str, str], without: list[str], named: str) -> None:
    stage = scene.another()
    executor = stage.start(stage.agent(), variables, without=without)
    assert executor.wait_exit() > 0
    lines = [line for line in executor.stderr.splitlines() if named in line]
    assert len(lines) == 1, executor.stderr
    assert "Traceback" not in executor.stderr
    assert stage.agents[0].log == []


@scenario(Encoding.PROTOBUF)
def test_03_missing_variable(scene: Scene) -> None:
    together(
        *(
            lambda name=name: _refuses_to_start(scene, {}, [name], name)
            for name in ("MESOS_FRAMEWORK_ID", "MESOS_EXECUTOR_ID", "MESOS_AGENT_ENDPOINT")
        )
    )


@scenario(Encoding.PROTOBUF)
def test_04_bad_duration(scene: Scene) -> None:
    cases = (
        ("MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD", "5s"),
        ("MESOS_RECOVERY_TIMEOUT", "abc"),
        ("MESOS_SUBSCRIPTION_BACKOFF_MAX", "-2secs"),
    )
    together(
        *(
            lambda name=name, value=value: _refuses_to_start(scene, {name: value}, [], name)
            for name, value in cases
        )
    )


@scenario()
def test_05_no_checkpoint(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(
        agent,
        {"MESOS_CHECKPOINT": "0", "MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD": "2secs"},
        without=["MESOS_RECOVERY_TIMEOUT", "MESOS_SUBSCRIPTION_BACKOFF_MAX"],
    )
    agent.send(
        launch(task("gentle", "exec sleep 600")), launch(task("stubborn", "trap '' TERM; sleep 600; :"))
    )
    agent.wait_state("gentle", "RUNNING")
    agent.wait_state("stubborn", "RUNNING")
    agent.stream.end()
    executor.wait_exit()
    executor.wait_no_tasks()
    assert len(agent.subscribes()) == 1


@scenario()
def test_06_agent_down_at_start(scene: Scene) -> None:
    agent = scene.agent()
    agent.stop()
    executor = scene.start(agent)
    time.sleep(1.5)
    assert executor.running
    agent.start()
    agent.send(launch(task("t", "exit 0")))
    agent.wait_state("t", "FINISHED")
    assert executor.wait_exit() == 0


@scenario()
def test_07_agent_recovering(scene: Scene) -> None:
    recovering = (Refuse(503, "Agent has not finished recovery"),) * 3 + (Refuse(404),)
    agent = scene.agent()
    agent.answer(Call.SUBSCRIBE, *recovering)
    executor = scene.start(agent)
    agent.subscription()
    assert len(agent.subscribes()) == 5

    agent.acks = acknowledgements.never
    agent.send(launch(task("t", "exec sleep 600")))
    running = agent.wait_state("t", "RUNNING")
    agent.answer(Call.SUBSCRIBE, *recovering)
    agent.acks = acknowledgements.at_once
    agent.restart()
    agent.subscription(2)
    last = agent.subscribes()[-1].call
    assert last is not None
    assert running.uuid in [update.status.uuid for update in last.subscribe.unacknowledged_updates]
    assert [one.task_id.value for one in last.subscribe.unacknowledged_tasks] == ["t"]
    assert len(agent.subscribes()) == 10
    agent.send(shutdown())
    agent.wait_state("t", "KILLED")
    assert executor.wait_exit() == 0


def _turned_away(scene: Scene, status: int) -> Executor:
    stage = scene.another()
    agent = stage.agent(token=TOKEN)
    challenge = (("WWW-Authenticate", 'Bearer realm="mesos-agent-executor"'),)
    agent.always[Call.SUBSCRIBE] = Refuse(status, "no entry", challenge if status == 401 else ())
    executor = stage.start(agent)
    assert executor.wait_exit() > 0
    assert 1 <= len(agent.subscribes()) <= 10
    for text in (executor.stdout, executor.stderr, executor.log):
        assert TOKEN not in text
    return executor


@scenario()
def test_08_not_authorized(scene: Scene) -> None:
    together(lambda: _turned_away(scene, 401), lambda: _turned_away(scene, 403))


@scenario()
def test_09_unknown_to_the_agent(scene: Scene) -> None:
    agent = scene.agent()
    agent.always[Call.SUBSCRIBE] = Refuse(400, "Executor cannot be found")
    executor = scene.start(agent)
    assert executor.wait_exit() > 0
    assert 1 <= len(agent.subscribes()) <= 10
    assert "Executor cannot be found" in executor.log + executor.stderr


@scenario()
def test_10_shutdown_instead_of_subscribed(scene: Scene) -> None:
    agent = scene.agent()
    agent.answer(Call.SUBSCRIBE, Accept(quiet=True))
    executor = scene.start(agent)
    agent.send(shutdown())
    agent.stream.end()
    assert executor.wait_exit() == 0
    assert len(agent.subscribes()) == 1


@scenario()
def test_11_never_a_task(scene: Scene) -> None:
    def waits() -> None:
        stage = scene.another()
        agent = stage.agent()
        executor = stage.start(agent)
        agent.subscription()
        time.sleep(1.0)
        assert executor.running
        agent.send(launch(task("t", "exit 0")))
        assert executor.wait_exit() == 0

    def leaves() -> None:
        stage = scene.another()
        agent = stage.agent()
        executor = stage.start(agent, {"MESOKIT_IDLE_TIMEOUT": "300ms"})
        agent.subscription()
        assert executor.wait_exit() == 0

    together(waits, leaves)


@scenario()
def test_12_token(scene: Scene) -> None:
    agent = scene.agent(token=TOKEN)
    executor = scene.start(agent)
    agent.send(launch(task("t", "tr '\\0' '\\n' </proc/self/environ >environ; exec sleep 600")))
    agent.wait_state("t", "RUNNING")
    processes.wait_until(lambda: "MESOS_SANDBOX" in scene.text("environ"), "the task's environment")
    assert TOKEN not in scene.text("environ")
    assert "AUTHENTICATION_TOKEN" not in scene.text("environ")
    # /proc/PID/environ of a process that was given the token cannot be hidden: it is the executor's alone.
    holders = {pid for pid in executor.remaining() if TOKEN in str(processes.environ(pid))}
    assert holders <= set(executor.own_pids())
    agent.restart()
    agent.subscription(2)
    agent.send(shutdown())
    agent.wait_state("t", "KILLED")
    assert executor.wait_exit() == 0
    assert {entry.request.headers["authorization"] for entry in agent.log} == {f"Bearer {TOKEN}"}


@scenario()
def test_13_domain_socket(scene: Scene) -> None:
    def through(directory: str) -> None:
        stage = scene.another()
        path = stage.directory / directory / "agent.sock"
        path.parent.mkdir(parents=True, exist_ok=True)
        agent = stage.agent(Unix(path))
        # TLS is for TCP alone: over the socket the variable means nothing.
        executor = stage.start(agent, {"LIBPROCESS_SSL_ENABLED": "true"})
        agent.send(launch(task("t", "exit 0")))
        agent.wait_state("t", "FINISHED")
        assert executor.wait_exit() == 0

    together(lambda: through("run"), lambda: through("/".join(["a-long-directory-name"] * 10)))


AUTHORITY = trustme.CA()
STRANGER = trustme.CA()


def _tls(host: str, *, client: trustme.CA | None = None, chain: str = "whole") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    own = AUTHORITY.create_child_ca().issue_cert(host, not_after=past if chain == "expired" else None)
    if chain == "partial":
        with own.private_key_and_cert_chain_pem.tempfile() as file:
            pem = Path(file).read_text()
            head, end, _ = pem.partition("-----END CERTIFICATE-----\n")
            Path(file).write_text(head + end)
            context.load_cert_chain(file)
    else:
        own.configure_cert(context)
    if client is not None:
        client.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _over_tls(
    variables: dict[str, str],
    *,
    client: trustme.CA | None,
    host: str | None,
    welcome: bool,
    chain: str = "whole",
) -> None:
    scene = Scene(Encoding.PROTOBUF)
    try:
        ip = Tcp().ip
        agent = scene.agent(Tcp(ip, tls=_tls(host or ip, client=client, chain=chain)))
        authority = scene.directory / "ca.pem"
        AUTHORITY.cert_pem.write_to_path(str(authority))
        STRANGER.cert_pem.write_to_path(str(scene.directory / "stranger.pem"))
        mine = AUTHORITY.issue_cert("executor.example")
        mine.private_key_pem.write_to_path(str(scene.directory / "key.pem"))
        for blob in mine.cert_chain_pems:
            blob.write_to_path(str(scene.directory / "cert.pem"), append=True)
        named = {
            name: str(scene.directory / value) if value.endswith(".pem") else value
            for name, value in variables.items()
        }
        executor = scene.start(
            agent, {"MESOKIT_REGISTRATION_TIMEOUT": "20secs" if welcome else "1secs", **named}
        )
        if welcome:
            agent.send(launch(task("t", "exit 0")))
            agent.wait_state("t", "FINISHED")
            assert executor.wait_exit() == 0
        else:
            assert executor.wait_exit() > 0
            assert agent.log == []
    except BaseException as error:
        error.add_note(scene.report())
        raise
    finally:
        scene.close()


VERIFY = {"LIBPROCESS_SSL_VERIFY_SERVER_CERT": "true", "LIBPROCESS_SSL_VERIFY_IPADD": "true"}
CLIENT = {"LIBPROCESS_SSL_CERT_FILE": "cert.pem", "LIBPROCESS_SSL_KEY_FILE": "key.pem"}


@pytest.mark.parametrize("welcome", [True, False])
def test_14_tls(welcome: bool) -> None:
    right = VERIFY | {"LIBPROCESS_SSL_CA_FILE": "ca.pem"}
    wrong = VERIFY | {"LIBPROCESS_SSL_CA_FILE": "stranger.pem"}
    if welcome:
        together(
            lambda: _over_tls({}, client=None, host=None, welcome=True),
            lambda: _over_tls(right, client=None, host=None, welcome=True),
            lambda: _over_tls(right | CLIENT, client=AUTHORITY, host=None, welcome=True),
        )
    else:
        together(
            lambda: _over_tls(wrong, client=None, host=None, welcome=False),
            lambda: _over_tls(right, client=None, host="127.255.255.1", welcome=False),
            lambda: _over_tls(right, client=AUTHORITY, host=None, welcome=False),
            lambda: _over_tls(right, client=None, host=None, welcome=False, chain="expired"),
            lambda: _over_tls(right, client=None, host=None, welcome=False, chain="partial"),
        )
