"""Every status code of the executor endpoint, and the reliability rules behind it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus

import pytest
from mesos.v1 import mesos_pb2
from mesos.v1.executor import executor_pb2

from executor.local_agent.executor_api import PATHS
from executor.local_agent.executor_state import ExecutorState
from executor.local_agent.http_server import Request, Response
from executor.local_agent.tests.serving import (
    CONTAINER,
    Call,
    Event,
    Stage,
    call,
    events,
    stage,
    subscribe_call,
    update_call,
)
from executor.local_agent.tokens import Claims, make_token
from executor.protocol import Encoding, encode_call

JSON = {"content-type": "application/json", "accept": "application/json"}
GROUP = (
    b'{"tasks": [{"name": "a", "task_id": {"value": "a"}, "command": {"value": "x"}},'
    b' {"name": "b", "task_id": {"value": "b"}, "command": {"value": "x"}}]}'
)


def in_loop(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """Run a test on an event loop, which streams need."""

    def run() -> None:
        async def whole() -> None:
            await test()

        asyncio.run(whole())

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


def ask(
    on: Stage, body: executor_pb2.Call | bytes, method: str = "POST", path: str = PATHS[0], **headers: str
) -> Response:
    content = body if isinstance(body, bytes) else encode_call(body, Encoding.JSON)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return on.api.handle(Request(method, path, JSON | named, content, "unix"))


async def heard(response: Response) -> list[executor_pb2.Event]:
    """The events of the stream's next chunk."""
    assert isinstance(response.body, AsyncIterator)
    return events(await anext(response.body))


@in_loop
async def test_subscribe_is_answered_with_subscribed_and_the_launch() -> None:
    on = stage()
    response = ask(on, subscribe_call())
    assert response.status == HTTPStatus.OK
    subscribed, launch = await heard(response)
    assert subscribed.type == Event.SUBSCRIBED
    assert subscribed.subscribed.container_id.value == CONTAINER
    assert subscribed.subscribed.executor_info.executor_id.value == "E"
    assert launch.type == Event.LAUNCH
    assert launch.launch.task.task_id.value == "t"
    assert on.executor.state is ExecutorState.RUNNING


@in_loop
async def test_groups_are_launched_as_groups() -> None:
    _, launch = await heard(ask(stage(tasks=GROUP), subscribe_call()))
    assert launch.type == Event.LAUNCH_GROUP
    assert [task.task_id.value for task in launch.launch_group.task_group.tasks] == ["a", "b"]


@in_loop
async def test_updates_are_acknowledged_and_completed() -> None:
    on = stage()
    response = ask(on, subscribe_call())
    await heard(response)
    update = update_call(mesos_pb2.TASK_RUNNING)
    assert ask(on, update).status == HTTPStatus.ACCEPTED
    (acknowledged,) = await heard(response)
    assert acknowledged.type == Event.ACKNOWLEDGED
    assert acknowledged.acknowledged.uuid == update.update.status.uuid
    assert on.states == ["TASK_RUNNING"]


@in_loop
async def test_a_repeated_update_is_acknowledged_again_and_told_once() -> None:
    on = stage()
    response = ask(on, subscribe_call())
    await heard(response)
    update = update_call(mesos_pb2.TASK_RUNNING)
    ask(on, update)
    ask(on, update)
    assert len(await heard(response)) == 2
    assert on.states == ["TASK_RUNNING"]


@in_loop
async def test_nothing_follows_a_terminal_update() -> None:
    on = stage()
    response = ask(on, subscribe_call())
    await heard(response)
    ask(on, update_call(mesos_pb2.TASK_FINISHED))
    ask(on, update_call(mesos_pb2.TASK_RUNNING))
    assert len(await heard(response)) == 2
    assert on.states == ["TASK_FINISHED"]
    assert on.executor.is_over
    assert on.executor.ending.is_set()


@in_loop
async def test_an_unknown_task_gets_no_acknowledgement() -> None:
    on = stage()
    response = ask(on, subscribe_call())
    await heard(response)
    assert ask(on, update_call(mesos_pb2.TASK_RUNNING, task="another")).status == HTTPStatus.ACCEPTED
    ask(on, update_call(mesos_pb2.TASK_RUNNING))
    assert len(await heard(response)) == 1


@in_loop
async def test_an_update_of_another_agents_is_ignored() -> None:
    on = stage()
    ask(on, subscribe_call())
    update = update_call(mesos_pb2.TASK_RUNNING)
    update.update.status.agent_id.value = "S1"
    assert ask(on, update).status == HTTPStatus.ACCEPTED
    assert on.states == []


@in_loop
async def test_resubscription_replaces_the_stream_and_brings_what_was_unacknowledged() -> None:
    on = stage()
    first = ask(on, subscribe_call())
    await heard(first)
    again = subscribe_call()
    again.subscribe.unacknowledged_updates.add().CopyFrom(update_call(mesos_pb2.TASK_RUNNING).update)
    second = ask(on, again)
    assert [event.type for event in await heard(second)] == [Event.SUBSCRIBED, Event.ACKNOWLEDGED]
    assert isinstance(first.body, AsyncIterator)
    assert [chunk async for chunk in first.body] == []
    assert on.states == ["TASK_RUNNING"]


@in_loop
async def test_a_kill_before_the_launch_takes_the_launchs_place() -> None:
    on = stage()
    on.executor.kill("t")
    assert on.states == ["TASK_KILLED"]
    (shutdown,) = await heard(ask(on, subscribe_call()))
    assert shutdown.type == Event.SHUTDOWN


@in_loop
async def test_kill_carries_its_policy() -> None:
    on = stage()
    response = ask(on, subscribe_call())
    await heard(response)
    on.executor.kill("t", 10**9)
    on.executor.send_message(b"hello")
    on.executor.heartbeat()
    kill, message, heartbeat = await heard(response)
    assert kill.kill.kill_policy.grace_period.nanoseconds == 10**9
    assert message.message.data == b"hello"
    assert heartbeat.type == Event.HEARTBEAT


@in_loop
async def test_what_an_executor_leaves_unsaid_the_agent_says() -> None:
    on = stage(tasks=GROUP)
    ask(on, subscribe_call())
    ask(on, update_call(mesos_pb2.TASK_FINISHED, task="a"))
    on.executor.end(mesos_pb2.TaskStatus.REASON_EXECUTOR_TERMINATED, "it is gone")
    assert on.states == ["TASK_FINISHED", "TASK_FAILED"]


def refusal(on: Stage, body: executor_pb2.Call | bytes, **how: str) -> HTTPStatus:
    response = ask(on, body, **how)
    assert isinstance(response.body, bytes)
    assert response.body.strip(), "a refusal says why"
    return response.status


def status_with(**changes: object) -> executor_pb2.Call:
    update = update_call(mesos_pb2.TASK_RUNNING)
    for name, value in changes.items():
        if value is None:
            update.update.status.ClearField(name)
        else:
            setattr(update.update.status, name, value)
    return update


def another(name: str) -> executor_pb2.Call:
    other = subscribe_call()
    getattr(other, name).value = "another"
    return other


UUID7 = bytes.fromhex("018f3c9c7a4a7c3e8a4a5c3e8a4a5c3e")


@pytest.mark.parametrize(
    ("body", "how", "status"),
    [
        (b"", {"path": "/other"}, HTTPStatus.NOT_FOUND),
        (b"", {"method": "GET"}, HTTPStatus.METHOD_NOT_ALLOWED),
        (b"{}", {"content_type": "application/json; charset=utf-8"}, HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
        (b"{", {}, HTTPStatus.BAD_REQUEST),
        (b"{}", {}, HTTPStatus.BAD_REQUEST),
        (call(Call()), {}, HTTPStatus.BAD_REQUEST),
        (call(Call(type=Call.UNKNOWN)), {}, HTTPStatus.NOT_IMPLEMENTED),
        (call(Call(type=Call.SUBSCRIBE)), {}, HTTPStatus.BAD_REQUEST),
        (call(Call(type=Call.UPDATE)), {}, HTTPStatus.BAD_REQUEST),
        (call(Call(type=Call.MESSAGE)), {}, HTTPStatus.BAD_REQUEST),
        (another("framework_id"), {}, HTTPStatus.BAD_REQUEST),
        (another("executor_id"), {}, HTTPStatus.BAD_REQUEST),
        (subscribe_call(), {"accept": "text/html"}, HTTPStatus.NOT_ACCEPTABLE),
        (subscribe_call(), {"accept": "application/json;q=0"}, HTTPStatus.NOT_ACCEPTABLE),
        (update_call(mesos_pb2.TASK_RUNNING), {}, HTTPStatus.FORBIDDEN),
        (status_with(uuid=None), {}, HTTPStatus.BAD_REQUEST),
        (status_with(uuid=str(uuid.uuid4()).encode()), {}, HTTPStatus.BAD_REQUEST),
        (status_with(uuid=UUID7), {}, HTTPStatus.BAD_REQUEST),
        (status_with(source=None), {}, HTTPStatus.BAD_REQUEST),
        (status_with(source=mesos_pb2.TaskStatus.SOURCE_AGENT), {}, HTTPStatus.BAD_REQUEST),
        (status_with(state=mesos_pb2.TASK_STAGING), {}, HTTPStatus.BAD_REQUEST),
    ],
)
def test_what_an_agent_refuses(
    body: executor_pb2.Call | bytes, how: dict[str, str], status: HTTPStatus
) -> None:
    assert refusal(stage(), body, **how) == status


def test_check_status_needs_its_type_and_the_part_of_that_type() -> None:
    update = update_call(mesos_pb2.TASK_RUNNING)
    update.update.status.check_status.SetInParent()
    assert refusal(stage(), update) == HTTPStatus.BAD_REQUEST
    update.update.status.check_status.type = mesos_pb2.CheckInfo.HTTP
    assert refusal(stage(), update) == HTTPStatus.BAD_REQUEST


def test_content_type_has_to_be_there() -> None:
    on = stage()
    assert on.api.handle(Request("POST", PATHS[0], {}, b"", "tcp")).status == HTTPStatus.BAD_REQUEST


def test_405_says_what_is_allowed() -> None:
    assert ask(stage(), b"", method="GET").headers == {"Allow": "POST"}


def test_heartbeats_are_accepted_from_anybody_who_says_who_he_is() -> None:
    other = another("executor_id")
    other.type = Call.HEARTBEAT
    assert ask(stage(), other).status == HTTPStatus.ACCEPTED


@in_loop
async def test_both_paths_of_the_endpoint_work() -> None:
    for path in PATHS:
        assert ask(stage(), subscribe_call(), path=path).status == HTTPStatus.OK


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("*/*", "application/json"),
        ("application/*", "application/json"),
        ("application/x-protobuf, application/json", "application/json"),
        ("application/x-protobuf", "application/x-protobuf"),
        ("application/json;q=0, application/x-protobuf", "application/x-protobuf"),
    ],
)
def test_json_wins_wherever_it_is_acceptable(accept: str, content_type: str) -> None:
    async def whole() -> None:
        assert ask(stage(), subscribe_call(), accept=accept).headers["Content-Type"] == content_type

    asyncio.run(whole())


def test_a_recovering_agent_is_unavailable() -> None:
    on = stage()
    on.api.recovering = True
    assert refusal(on, subscribe_call()) == HTTPStatus.SERVICE_UNAVAILABLE


@in_loop
async def test_tokens_are_asked_for_and_believed() -> None:
    own = make_token(Claims("F", "E", CONTAINER), b"key")
    other = make_token(Claims("F", "E", "another container"), b"key")
    on = stage(key=b"key")
    assert ask(on, subscribe_call()).headers["WWW-Authenticate"].startswith("Bearer realm=")
    assert refusal(on, subscribe_call(), authorization="Bearer nonsense") == HTTPStatus.UNAUTHORIZED
    assert refusal(on, subscribe_call(), authorization=f"Basic {own}") == HTTPStatus.UNAUTHORIZED
    assert refusal(on, subscribe_call(), authorization=f"Bearer {other}") == HTTPStatus.FORBIDDEN
    assert ask(on, subscribe_call(), authorization=f"Bearer {own}").status == HTTPStatus.OK
    assert len(on.api.refused) == 4
