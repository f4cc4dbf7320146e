"""What is installed where: the layout, and the list of it that stays on the host (installed.json).

    PREFIX/lib/mesokit/releases/RELEASE/    one build: bundles, launchers, the executor as URI targets
    PREFIX/lib/mesokit/mesokit-cni.d        link to the current release's, likewise mesokit-executor.d
    PREFIX/bin/mesokit, mesokit-executor    fronts
    PLUGIN_DIR/bridge, ...                  launchers, and a link mesokit-cni.d
    PREFIX/lib/mesokit/replaced/            plugins of others that stood in PLUGIN_DIR under our names

A program that runs has resolved the links at its start and goes on in its own release; an upgrade adds a
release, turns the links by renaming, and removes only releases in which nothing runs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

UNITS = ("mesokit-node.socket", "mesokit-node.service")
LINKS = ("mesokit-cni.d", "mesokit-executor.d")


@dataclass(frozen=True, slots=True)
class Place:
    """`root` is put before every path (tests, images); `prefix` is as the installed host sees it."""

    root: str
    prefix: str

    def real(self, path: str | Path) -> Path:
        return Path(f"{self.root}/{os.fspath(path).lstrip('/')}") if self.root else Path(path)

    @property
    def library(self) -> Path:
        return self.real(f"{self.prefix}/lib/mesokit")

    @property
    def manifest(self) -> Path:
        return self.library / "installed.json"


@dataclass(slots=True)
class Manifest:
    """Paths as the installed host sees them. `replaced`: a plugin, and where the file it replaced is kept."""

    version: str = ""
    release: str = ""
    service: bool = False
    plugin_dirs: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    replaced: dict[str, str] = field(default_factory=dict)


def root(text: str) -> str:
    """The value of `--root`: a directory that is there, without its last slash. ArgumentTypeError."""
    if text and not Path(text).is_dir():
        raise argparse.ArgumentTypeError(
            f"{text!r} is no directory: name one that is there, or make it first"
        )
    return text.rstrip("/")


def package_of(place: Place) -> bool:
    """Whether the Debian package is on this host: its bundles are directories, where a release has links."""
    bundle = place.real("/usr/lib/mesokit/mesokit-cni.d")
    return bundle.is_dir() and not bundle.is_symlink()


def load(place: Place) -> Manifest | None:
    try:
        return Manifest(**json.loads(place.manifest.read_text()))
    except FileNotFoundError:
        return None


def save(place: Place, manifest: Manifest) -> None:
    fresh = place.manifest.with_name(".installed.json.new")
    fresh.write_text(json.dumps(asdict(manifest), indent=2) + "\n")
    fresh.rename(place.manifest)


def turn(link: Path, target: str) -> bool:
    """Make `link` point to `target`, atomically; whether it did not already."""
    if link.is_symlink() and os.fspath(link.readlink()) == target:
        return False
    fresh = link.with_name(f".{link.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.rename(link)
    return True


def same(one: Path, other: Path) -> bool:
    return other.is_file() and not other.is_symlink() and one.read_bytes() == other.read_bytes()


def in_use(release: Path) -> bool:
    """Whether a process runs a program of the release, or has one of its files mapped."""
    needle = f"{release.resolve()}/".encode()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            if needle in maps.read_bytes():
                return True
        except OSError:
            continue
    return False


def sweep(place: Place, keep: str) -> tuple[list[str], list[str]]:
    """Removes releases other than `keep`; the names of those removed, and of those something runs in."""
    removed, left = [], []
    releases = place.library / "releases"
    for release in sorted(releases.iterdir()) if releases.is_dir() else []:
        if release.name == keep:
            continue
        if in_use(release):
            left.append(release.name)
        else:
            shutil.rmtree(release)
            removed.append(release.name)
    return removed, left


def systemd(place: Place) -> bool:
    return not place.root and Path("/run/systemd/system").is_dir()


def systemctl(arguments: Sequence[str], *, check: bool = True) -> bool:
    return subprocess.run(["systemctl", *arguments], check=check).returncode == 0


def stop_service(place: Place) -> bool:
    """Ends the service and closes its socket, while the unit files are there; False where no systemd is."""
    return systemd(place) and systemctl(["disable", "--quiet", "--now", *UNITS], check=False)
