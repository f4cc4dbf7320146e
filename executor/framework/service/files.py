"""Files that agents fetch, at paths made of their content: `/files/SHA256/NAME`.

An agent's fetcher has no checksum and never looks again at what it has cached, so a path must never mean
other bytes. Every instance of the framework serves them, standbys too, because tasks outlive leaders.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_BLOCK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Served:
    """A file that is served, as it was when the framework started."""

    name: str
    digest: str
    path: Path
    size: int

    @property
    def target(self) -> str:
        """Its path on the server."""
        return f"/files/{self.digest}/{self.name}"


def read_files(paths: Iterable[Path]) -> dict[str, Served]:
    """Files by their target. Raises OSError."""
    found: dict[str, Served] = {}
    for path in paths:
        digest, size = hashlib.sha256(), 0
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                size += len(block)
        served = Served(path.name, digest.hexdigest(), path.resolve(), size)
        found[served.target] = served
    return found
