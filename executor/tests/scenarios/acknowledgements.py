"""When and with what the scripted agent acknowledges an update: a policy is a function of the status."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass

from mesos.v1 import mesos_pb2

from executor.tests.scenarios.ledger import TERMINAL


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """The uuids to acknowledge, after `delay` seconds, and whether before the call's own 202 is written."""

    uuids: tuple[bytes, ...] = ()
    delay: float = 0.0
    before_response: bool = False


AckPolicy = Callable[[mesos_pb2.TaskStatus], Acknowledge]


def at_once(status: mesos_pb2.TaskStatus) -> Acknowledge:
    return Acknowledge((status.uuid,))


def never(_status: mesos_pb2.TaskStatus) -> Acknowledge:
    return Acknowledge()


def twice(status: mesos_pb2.TaskStatus) -> Acknowledge:
    return Acknowledge((status.uuid, status.uuid))


def wrong_first(status: mesos_pb2.TaskStatus) -> Acknowledge:
    return Acknowledge((uuid.uuid4().bytes, status.uuid))


def before_response(status: mesos_pb2.TaskStatus) -> Acknowledge:
    return Acknowledge((status.uuid,), before_response=True)


def after(seconds: float) -> AckPolicy:
    return lambda status: Acknowledge((status.uuid,), delay=seconds)


def only(*states: int) -> AckPolicy:
    """Acknowledge the updates that carry one of `states`."""
    return lambda status: Acknowledge((status.uuid,) if status.state in states else ())


def all_but_terminal(status: mesos_pb2.TaskStatus) -> Acknowledge:
    return Acknowledge(() if status.state in TERMINAL else (status.uuid,))
