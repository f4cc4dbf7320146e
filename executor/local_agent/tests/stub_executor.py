"""The least executor there can be: runs its tasks in the encoding, and as ill-mannered, as it is asked to.

Its arguments: `protobuf` or `json`, then words that make it misbehave (see the `if … in manners`).
"""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
import uuid

from mesos.v1 import mesos_pb2
from mesos.v1.executor import executor_pb2

from executor.protocol import Encoding, RecordIODecoder, decode_event, encode_call

Call, Event = executor_pb2.Call, executor_pb2.Event
encoding = Encoding(sys.argv[1])
manners = sys.argv[2:]


def connect() -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection(os.environ["MESOS_AGENT_ENDPOINT"])
    if path := os.environ.get("MESOS_DOMAIN_SOCKET"):
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(path)
    return connection


def post(connection: http.client.HTTPConnection, call: executor_pb2.Call) -> http.client.HTTPResponse:
    call.executor_id.value = os.environ["MESOS_EXECUTOR_ID"]
    call.framework_id.value = os.environ["MESOS_FRAMEWORK_ID"]
    headers = {"Content-Type": encoding.content_type, "Accept": encoding.content_type}
    if token := os.environ.get("MESOS_EXECUTOR_AUTHENTICATION_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    connection.request("POST", "/api/v1/executor", encode_call(call, encoding), headers)
    return connection.getresponse()


def update(task: mesos_pb2.TaskInfo, state: mesos_pb2.TaskState) -> None:
    status = mesos_pb2.TaskStatus(
        task_id=task.task_id,
        state=state,
        source=mesos_pb2.TaskStatus.SOURCE_EXECUTOR,
        uuid=uuid.uuid4().bytes,
        timestamp=time.time(),
    )
    answer = post(calls, Call(type=Call.UPDATE, update=Call.Update(status=status)))
    assert answer.status == 202, answer.read()
    answer.read()


if "never-subscribe" in manners:
    time.sleep(600)
if "exit-at-once" in manners:
    sys.exit(7)
calls = connect()
subscription = post(connect(), Call(type=Call.SUBSCRIBE, subscribe=Call.Subscribe()))
assert subscription.status == 200, subscription.read()
decoder = RecordIODecoder()
tasks: dict[str, tuple[mesos_pb2.TaskInfo, subprocess.Popen[bytes]]] = {}
unacknowledged = 0
while chunk := subscription.read1():
    for record in decoder.feed(chunk):
        event = decode_event(record, encoding)
        launched = [event.launch.task] if event.type == Event.LAUNCH else event.launch_group.task_group.tasks
        for task in launched:
            update(task, mesos_pb2.TASK_STARTING)
            tasks[task.task_id.value] = task, subprocess.Popen(["/bin/sh", "-c", task.command.value])
            update(task, mesos_pb2.TASK_RUNNING)
            unacknowledged += 2
        if event.type == Event.LAUNCH and task.command.value.startswith("exit"):
            ended = tasks[task.task_id.value][1].wait()
            update(task, mesos_pb2.TASK_FAILED if ended else mesos_pb2.TASK_FINISHED)
            unacknowledged += 1
        if event.type == Event.KILL and "deaf" not in manners:
            task, process = tasks[event.kill.task_id.value]
            update(task, mesos_pb2.TASK_KILLING)
            process.kill()
            process.wait()
            update(task, mesos_pb2.TASK_KILLED)
            unacknowledged += 2
        unacknowledged -= event.type == Event.ACKNOWLEDGED
        over = all(process.returncode is not None for _, process in tasks.values())
        if tasks and over and not unacknowledged and "stay" not in manners:
            sys.exit(0)
        if event.type == Event.SHUTDOWN and "deaf" not in manners:
            for _, process in tasks.values():
                process.kill()
            sys.exit(0)
