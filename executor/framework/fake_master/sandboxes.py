"""What an agent tells of its executors' sandboxes, as far as logs need it: `/state` and `/files/read`
(src/slave/http.cpp, src/files/files.cpp). The fake agents answer at their master's address.

A sandbox belongs to its task, which may put anything in place of its files: nothing but a plain file that is
called `stdout` or `stderr` is read, and no link is followed.
"""

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from executor.framework.fake_master.agent import FakeAgent
from executor.framework.fake_master.ladder import authorizations
from executor.framework.fake_master.master import Master

MAX_LENGTH = 64 * 1024
_NAMES = ("stdout", "stderr")


def answer(master: Master, target: str, fields: Mapping[str, str]) -> tuple[int, bytes] | None:
    """The status and body of a GET, None for what is none of an agent's."""
    parts, options = urlsplit(target), master.options
    if parts.path not in ("/state", "/files/read"):
        return None
    if options.agent_principal:
        wanted = authorizations(options.agent_principal, options.agent_secret)
        if fields.get("authorization") not in wanted:
            return 401, b""
    if parts.path == "/state":
        return 200, json.dumps(_state(master)).encode()
    asked = parse_qs(parts.query)
    path, offset = asked.get("path", [""])[0], asked.get("offset", ["0"])[0]
    folder, _, name = path.rpartition("/")
    data = _read(master, folder, name, int(offset)) if offset.isdecimal() and name in _NAMES else None
    if data is None:
        return 404, b""
    # An agent writes bytes as they are; JSON's own escapes aside.
    document = {"data": data.decode("utf-8", "surrogateescape"), "offset": int(offset)}
    return 200, json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogateescape")


def _state(master: Master) -> dict[str, object]:
    frameworks: dict[str, list[dict[str, str]]] = {}
    for agent in _agents(master):
        for (framework_id, executor_id), folder in agent.sandboxes.items():
            frameworks.setdefault(framework_id, []).append({"id": executor_id, "directory": folder})
    return {"frameworks": [{"id": name, "executors": listed} for name, listed in frameworks.items()]}


def _agents(master: Master) -> list[FakeAgent]:
    return [entry.agent for entry in master.books.agents.values()]


def _read(master: Master, folder: str, name: str, offset: int) -> bytes | None:
    for agent in _agents(master):
        if folder in agent.sandboxes.values():
            if agent.backend is not None:
                return _of_file(Path(folder) / name, offset)
            said = "".join(agent.said.get(folder, ())) if name == "stdout" else ""
            return said.encode("utf-8", "surrogateescape")[offset : offset + MAX_LENGTH]
    return None


def _of_file(path: Path, offset: int) -> bytes | None:
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.pread(file, MAX_LENGTH, offset) if stat.S_ISREG(os.fstat(file).st_mode) else None
    except OSError:
        return None
    finally:
        os.close(file)
