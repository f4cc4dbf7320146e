"""Which address a workload had: a file each below `<lib>/sticky/<network>`, which outlives reboots.

Nothing depends on it but a preference, so a directory that cannot be written is no error. Without a workload
the container's id stands for it (a runtime that stops and starts a container calls DEL and ADD with the
same id): GC drops what is known of containers that are no more, and of all files the longest unused go when
there are too many, so that no id, ever new, makes the directory grow for ever.
"""

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cni_plugins.spec import files
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.roots import Roots
from cni_plugins.spec.values import Ip, parse_ip

MOST = 4096
_FEWER = MOST * 3 // 4
_CONTAINER = "c-"


@dataclass(frozen=True, slots=True)
class Memory:
    """What is remembered for one range set of one interface; `container` is "" when a workload has a name."""

    path: Path
    container: str

    def address(self) -> Ip | None:
        """The address that it had, None if that is unknown."""
        try:
            return parse_ip(files.read(self.path).decode().split("\n", 1)[0])
        except (OSError, ValueError):
            return None

    def remember(self, address: Ip) -> None:
        """Write it down; what cannot be written is not remembered."""
        with suppress(OSError):
            folder = self.path.parent
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = folder / f"{self.path.name}.new"
            files.write(temporary, f"{address}\n{self.container}".encode())
            if not self.path.exists():
                _make_room(folder)
            temporary.replace(self.path)


def _folder(roots: Roots, network: str) -> Path:
    return roots.lib / "sticky" / network


def memory(roots: Roots, identity: Identity, workload: object, number: int) -> Memory:
    """Of range set `number`; an empty `workload` is the container itself."""
    key = "\0".join((str(workload or identity.container_id), identity.ifname, str(number)))
    name = hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()[:40]
    if workload:
        return Memory(_folder(roots, identity.network) / name, "")
    return Memory(_folder(roots, identity.network) / f"{_CONTAINER}{name}", identity.container_id)


def collect(roots: Roots, network: str, living: Callable[[str], bool]) -> None:
    """Forget the containers that are not `living`."""
    with suppress(OSError):
        for path in _folder(roots, network).glob(f"{_CONTAINER}*"):
            with suppress(OSError):
                container = files.read(path).decode("utf-8", "replace").partition("\n")[2]
                if not living(container):
                    path.unlink()


def _make_room(folder: Path) -> None:
    with os.scandir(folder) as entries:
        listed = list(entries)
    if len(listed) <= MOST:
        return
    ages: list[tuple[int, str]] = []
    for entry in listed:
        with suppress(OSError):
            ages.append((entry.stat(follow_symlinks=False).st_mtime_ns, entry.path))
    for _, path in sorted(ages)[: len(ages) - _FEWER]:
        with suppress(OSError):
            Path(path).unlink()
