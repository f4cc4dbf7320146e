"""What the reference plugins did in a case, from an earlier run: they do not change, and neither does it.

An observation is known by all that it depends on: versions of Debian packages, the kernel, the case, and
the code that observes. It is stored when a test has found nothing unexplained in it, so that what was seen on
an overloaded machine does not stay.
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
from netns_tests.plugins import TOP

#: The user's, so that each checkout of a machine has it; without it all is observed anew.
FOLDER = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "mesokit-tests", "observed")
_PACKAGES = ("containernetworking-plugins", "conntrack", "iproute2", "iptables", "nftables")
_OBSERVERS = ("case", "compare", "node", "node_init", "process", "runtime", "snapshot", "traffic")


@cache
def _surroundings() -> str:
    query = ["dpkg-query", "-W", "-f=${Package} ${Version}\n", *_PACKAGES]
    versions = subprocess.run(query, stdout=subprocess.PIPE, check=True).stdout
    whole = hashlib.sha256(versions + os.uname().release.encode())
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
    if path.exists():
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(json.dumps(seen, indent=1))
    fresh.rename(path)


def forget(case: Case) -> None:
    _path(case).unlink(missing_ok=True)
