"""The calls that failed, the last thousand or so: what an operator asks for at night, whoever made them.

A line of JSON a failure, appended with one write(2) to `<run>/failures/log`, by the node service and by
one-shot programs alike. A file that has grown to its size becomes `log.1`, in place of the one before, so
that no more than two are ever there. Root alone may read them. To note a failure never fails and never
waits: a full disk costs the note.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cni_plugins.spec.text import printable
from cni_plugins.spec.values import fold, parse_json

if TYPE_CHECKING:
    from cni_plugins.spec.call import Reply, Request

_SIZE = 256 << 10  # bytes of a file
_LINE = 4096  # bytes of a failure
_LONGEST = {"message": 1500}
_LONGEST_OTHER = 256


@dataclass(frozen=True, slots=True)
class Failure:
    """`time` is in seconds since the epoch, `seconds` how long the call took; `by` is `service` or
    `one-shot`. Texts are cut to a sensible length and hold no control characters.
    """

    time: float
    verb: str
    plugin: str
    network: str
    container: str
    interface: str
    netns: str
    code: int
    message: str
    seconds: float
    by: str

    def __str__(self) -> str:
        """One line, for a log."""
        about = [
            f"{name} {value}"
            for name, value in (
                ("network", self.network),
                ("container", self.container),
                ("interface", self.interface),
            )
            if value
        ]
        what = f"{self.verb or 'a call'} of {self.plugin} failed"
        return f"{what}: {', '.join(about)}: code {self.code}: {self.message} ({self.seconds * 1000:.0f} ms)"


def failure_of(request: Request, reply: Reply, seconds: float, by: str) -> Failure:
    """What is worth knowing of a call that failed; never raises."""
    code, message = _error(reply.stdout)
    env = request.env
    found: dict[str, Any] = {
        "verb": env.get("CNI_COMMAND", ""),
        "plugin": request.plugin,
        "network": _network(request.stdin),
        "container": env.get("CNI_CONTAINERID", ""),
        "interface": env.get("CNI_IFNAME", ""),
        "netns": env.get("CNI_NETNS", ""),
        "message": message,
        "by": by,
    }
    texts = {name: printable(value[: _LONGEST.get(name, _LONGEST_OTHER)]) for name, value in found.items()}
    return Failure(time=round(time.time(), 3), code=code, seconds=round(seconds, 4), **texts)


def error_code(reply: Reply) -> int:
    """0, the code of a call's error, or -1 for one that is no error object."""
    return _error(reply.stdout)[0] if reply.status else 0


def note(run: Path, failure: Failure) -> None:
    """Append a failure below `run`, the directory of our state."""
    with contextlib.suppress(OSError):
        _append(run / "failures", failure)


def last(run: Path, count: int) -> list[Failure]:
    """The last `count` failures, the oldest first. OSError when they may not be read."""
    found: list[Failure] = []
    for name in ("log.1", "log"):
        with contextlib.suppress(FileNotFoundError):
            found += _read(run / "failures" / name)
    return found[-count:] if count else []


def as_json(failure: Failure) -> dict[str, Any]:
    return asdict(failure)


def _append(directory: Path, failure: Failure) -> None:
    line = json.dumps(as_json(failure)).encode() + b"\n"
    if len(line) > _LINE:  # escapes have made it long
        line = json.dumps(as_json(failure) | {"message": failure.message[:200]}).encode()[: _LINE - 1] + b"\n"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / "log"
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(path, flags, 0o600)
    try:
        size = os.fstat(fd).st_size
        os.write(fd, line)
    finally:
        os.close(fd)
    if size > _SIZE:
        _turn_over(directory)


def _turn_over(directory: Path) -> None:
    """Let a full file become the older one, once, however many see that it is full."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if (directory / "log").stat().st_size > _SIZE:
            (directory / "log").rename(directory / "log.1")
    finally:
        os.close(fd)


def _read(path: Path) -> Iterator[Failure]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(fd, "rb") as file:  # noqa: PTH123 - a descriptor
        lines = file.read(2 * _SIZE).splitlines()
    names = {field.name for field in fields(Failure)}
    for line in lines:
        with contextlib.suppress(ValueError, TypeError, AttributeError):  # one that a full disk cut
            document = json.loads(line)
            yield Failure(**{name: value for name, value in document.items() if name in names})


def _error(stdout: bytes) -> tuple[int, str]:
    try:
        document = json.loads(stdout)
        text = str(document["msg"])
        if document.get("details"):
            text += f": {document['details']}"
        return int(document["code"]), text
    except (ValueError, KeyError, TypeError, AttributeError):
        return -1, stdout[:200].decode(errors="replace") or "no answer"


def _network(stdin: bytes) -> str:
    try:
        config = parse_json(stdin)
        name = fold(config, "name") if isinstance(config, dict) else None
    except (ValueError, RecursionError):
        return ""
    return name if isinstance(name, str) else ""
