"""Where state lives; one variable, MESOKIT_ROOT, moves all of it (tests, private namespaces)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Roots:
    """`run` ends with the boot, `lib` outlives it, `host_local` is where host-local's reservations are by
    default.
    """

    run: Path
    lib: Path
    host_local: Path
    prefix: str = ""

    def relocate(self, path: str) -> Path:
        """An absolute path of a configuration (such as dataDir), under the prefix."""
        return Path(self.prefix + path) if self.prefix else Path(path)


def roots_from(env: Mapping[str, str]) -> Roots:
    return _roots(env.get("MESOKIT_ROOT", "").rstrip("/"))


@lru_cache(16)
def _roots(prefix: str) -> Roots:
    return Roots(
        run=Path(f"{prefix}/run/mesokit"),
        lib=Path(f"{prefix}/var/lib/mesokit"),
        host_local=Path(f"{prefix}/var/lib/cni/networks"),
        prefix=prefix,
    )
