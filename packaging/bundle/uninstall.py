"""Takes an installed release away: behind packaging/uninstall and the release's own `uninstall`."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import installed
from installed import Place

_HELP = """\
Takes away what packaging/install put on this host and puts back the plugins that it replaced. Containers keep
running; what is theirs (attachment records, address reservations, interfaces) stays, so that a later mesokit,
or the plugins put back, can delete it.
"""

_RECORDS = "/run/mesokit/attachments"


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """`argv` without the program's name; the exit status."""
    parser = argparse.ArgumentParser(prog="uninstall", description=_HELP)
    parser.add_argument("--prefix", default="/usr/local", help="as given to install (default %(default)s)")
    parser.add_argument("--root", type=installed.root, default="", metavar="DIR", help="as given to install")
    options = parser.parse_args(argv)
    place = Place(options.root, options.prefix.rstrip("/"))
    manifest = installed.load(place)
    if manifest is None:
        say(f"mesokit is not installed in {place.prefix}")
        return 0
    if manifest.service and installed.stop_service(place):
        say("stopped the node service")
    for path in manifest.files:
        place.real(path).unlink(missing_ok=True)
    say(f"removed {len(manifest.files)} files of mesokit {manifest.version}")
    remove_empty(place, manifest.files)
    for path, kept in manifest.replaced.items():
        if place.real(kept).exists():
            shutil.move(place.real(kept), place.real(path))
            say(f"put back the earlier {path}")
    if manifest.service and installed.systemd(place):
        installed.systemctl(["daemon-reload"], check=False)
    records = sum(1 for each in place.real(_RECORDS).glob("*/*") if each.is_file())
    if records:
        say(
            f"containers are attached still ({records} records in {_RECORDS}): their runtimes cannot detach "
            "them without these plugins; install mesokit again to end them"
        )
    for name in ("mesokit-cni.d", "mesokit-executor.d", "mesokit-executor", "mesokit-executor.tar.gz"):
        (place.library / name).unlink(missing_ok=True)
    _, left = installed.sweep(place, keep="")
    for name in left:
        say(f"kept the release {name}: programs of it are running; run me again when they ended")
    if left:
        manifest.files, manifest.replaced, manifest.service = [], {}, False
        installed.save(place, manifest)
        return 0
    shutil.rmtree(place.library)
    for folder in (*manifest.plugin_dirs, f"{place.prefix}/bin"):
        remove_if_empty(place.real(folder))
    return 0


def remove_empty(place: Place, files: Sequence[str]) -> None:
    """Folders of manual pages and completions that held ours alone; those of the host's others stay."""
    share = place.real(f"{place.prefix}/share")
    kept = {share, share / "man"}
    held = {folder for path in files for folder in place.real(path).parents if share in folder.parents}
    for folder in sorted(held - kept, reverse=True):
        remove_if_empty(folder)


def remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


if __name__ == "__main__":
    sys.exit(main())
