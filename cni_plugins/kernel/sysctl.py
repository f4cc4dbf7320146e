"""Network sysctls of a namespace, which /proc/sys/net shows to whoever is in it."""

from pathlib import Path

from cni_plugins.kernel.namespace import entered
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.namespace import Namespace

_BASE = Path("/proc/sys/net")


def _path(name: str) -> Path:
    path = _BASE / name
    if ".." in path.parts:
        raise CniError(Code.INVALID_CONFIG, f"sysctl net/{name} leaves /proc/sys/net")
    return path


def _open_text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CniError(Code.IO, f"cannot read {path}", str(error)) from error


def read(namespace: Namespace, name: str) -> str | None:
    """The value of `net/<name>` (`ipv4/conf/eth0/arp_notify`), None if the kernel has no such thing. CniError
    5.
    """
    with entered(namespace):
        return _open_text(_path(name))


def write(namespace: Namespace, values: dict[str, str]) -> None:
    """Write each `net/<name>` in order. CniError 5 naming the one that failed."""
    with entered(namespace):
        for name, value in values.items():
            path = _path(name)
            try:
                path.write_text(value)
            except OSError as error:
                raise CniError(Code.IO, f"cannot write {value!r} to {path}", str(error)) from error


def ensure(namespace: Namespace, values: dict[str, str], *, optional: bool = False) -> dict[str, str]:
    """Write only what differs, and return the values found before. With `optional`, what the kernel does not
    have or does not let us write is passed over. CniError 5.
    """
    with entered(namespace):
        return ensure_here(values, optional=optional)


def ensure_here(values: dict[str, str], *, optional: bool = False) -> dict[str, str]:
    """`ensure` in the namespace that the calling thread is in."""
    before: dict[str, str] = {}
    for name, value in values.items():
        path = _path(name)
        found = _open_text(path)
        if found == value or (found is None and optional):
            continue
        try:
            path.write_text(value)
        except OSError as error:
            if optional:
                continue
            raise CniError(Code.IO, f"cannot write {value!r} to {path}", str(error)) from error
        before[name] = found or ""
    return before
