"""Where leases lie, for who has to know whether there are any: to read one takes a client's modules."""

from pathlib import Path

from cni_plugins.spec.roots import Roots

SUFFIX = ".json"


def directory(roots: Roots) -> Path:
    """The directory of all stores."""
    return roots.lib / "leases"


def stores(roots: Roots) -> list[Path]:
    """The directories of all stores."""
    try:
        return sorted(path for path in directory(roots).iterdir() if path.is_dir())
    except OSError:
        return []


def lease_files(roots: Roots) -> list[Path]:
    """The files of all leases."""
    return [path for store in stores(roots) for path in sorted(store.glob(f"*{SUFFIX}"))]
