"""What the reference plugins did in a case, from an earlier run: they do not change, and neither does it.

An observation is known by all that it depends on: versions of Debian packages, the kernel, the case, and
the code that observes. It is stored when a test has found nothing unexplained in it, so that what was seen on
an overloaded machine does not stay.

A machine in QEMU gets those that were brought from one before (`for_qemu`), and what it stores or forgets is
brought to the user's folder (`Changes`, `bring`).
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from netns_tests.case import Case
from netns_tests.plugins import IN_QEMU, TOP

_USERS = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "mesokit-tests")
_FROM_QEMU = _USERS / "observed-in-qemu"
_INSIDE = Path("/observed")
#: The user's, so that each checkout of a machine has it; without it all is observed anew.
FOLDER = _INSIDE if IN_QEMU else _USERS / "observed"
#: In QEMU: what `versions` says outside.
VERSIONS = Path("/versions")
_PACKAGES = ("containernetworking-plugins", "conntrack", "iproute2", "iptables", "nftables")
_OBSERVERS = (
    "case", "compare", "glance", "node", "node_init", "process", "runtime", "snapshot", "sysctls", "traffic"
)  # fmt: skip


def versions() -> bytes:
    """Of the packages that observations depend on."""
    if IN_QEMU:
        return VERSIONS.read_bytes()
    query = ["dpkg-query", "-W", "-f=${Package} ${Version}\n", *_PACKAGES]
    return subprocess.run(query, stdout=subprocess.PIPE, check=True).stdout


@cache
def _surroundings() -> str:
    whole = hashlib.sha256(versions() + os.uname().release.encode())
    for name in _OBSERVERS:
        whole.update((TOP / f"netns_tests/{name}.py").read_bytes())
    return whole.hexdigest()


def _path(case: Case) -> Path:
    digest = hashlib.sha256(f"{_surroundings()} {case!r}".encode()).hexdigest()
    return FOLDER / f"{case.name.replace('/', '_')}-{digest[:16]}.json"


def load(case: Case) -> dict[str, str] | None:
    """The observation; None where there is none."""
    try:
        seen: dict[str, str] = json.loads(_path(case).read_text())
    except FileNotFoundError:
        return None
    return seen


def store(case: Case, seen: Mapping[str, str]) -> None:
    path = _path(case)
    if not path.exists():
        _write(path, json.dumps(seen, indent=1))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(text)
    fresh.rename(path)


def forget(case: Case) -> None:
    _path(case).unlink(missing_ok=True)


def for_qemu() -> dict[str, Path]:
    """Files of a machine in QEMU, by their paths there."""
    return {str(_INSIDE / path.name): path for path in _FROM_QEMU.glob("[!.]*")}


class Changes:
    """What was stored (a text) and forgotten (None) since the last look, by file name; seen in QEMU."""

    def __init__(self) -> None:
        self._known = self._names()

    def _names(self) -> set[str]:
        return {path.name for path in FOLDER.glob("[!.]*")}

    def __call__(self) -> dict[str, str | None]:
        before, self._known = self._known, self._names()
        stored = {name: (FOLDER / name).read_text() for name in self._known - before}
        return {**stored, **dict.fromkeys(before - self._known)}


def bring(changes: Mapping[str, str | None]) -> None:
    """Does the same to what the next machine gets."""
    for name, text in changes.items():
        path = _FROM_QEMU / Path(name).name
        if text is None:
            path.unlink(missing_ok=True)
        else:
            _write(path, text)
