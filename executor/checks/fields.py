"""Fields of the messages that describe checks, read, and refused by their names when senseless."""

import math

from mesos.v1 import mesos_pb2

LONGEST = 3e9
"""Seconds, about a century: beyond it timers would meet the limits of the clocks below."""


class InvalidCheckError(ValueError):
    """A check that cannot be run as described; the text names the field."""


def path(field: str, value: str) -> str:
    """The path of a URL. Raises InvalidCheckError."""
    if value and not value.startswith("/"):
        raise InvalidCheckError(f"{field} is {value!r}: it must start with '/'")
    if any(character <= " " or character == "\x7f" for character in value):
        raise InvalidCheckError(f"{field} is {value!r}: blanks and control characters must be %-escaped")
    return value or "/"


def port(field: str, value: int) -> int:
    """A TCP port. Raises InvalidCheckError."""
    if not 0 < value < 65536:
        raise InvalidCheckError(f"{field} is {value}: use 1 to 65535")
    return value


def loopback(protocol: int) -> str:
    """The address at which a task is asked, of NetworkInfo.Protocol."""
    return "::1" if protocol == mesos_pb2.NetworkInfo.IPv6 else "127.0.0.1"


def seconds(field: str, value: float) -> float:
    """A length of time. Raises InvalidCheckError."""
    if not value >= 0 or math.isinf(value):
        raise InvalidCheckError(f"{field} is {value}: it must be a number of seconds, 0 or more")
    return min(value, LONGEST)


def unknown_type(field: str, kind: int, present: bool) -> InvalidCheckError:
    """What is wrong with a check whose type and body do not go together."""
    names = {1: "command", 2: "http", 3: "tcp"}
    if present and kind in names:
        name = names[kind]
        return InvalidCheckError(f"{field}.type is {name.upper()} but {field}.{name} is not set")
    return InvalidCheckError(f"{field}.type is not set: use COMMAND, HTTP or TCP")
