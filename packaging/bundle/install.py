"""Installs a release (release.py): behind packaging/install and the release's own `install`."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import installed
from installed import LINKS, UNITS, Manifest, Place

BUILT = Path(__file__).resolve().parents[2] / "build" / "release"

_HELP = """\
Installs mesokit on this host. May be run again at any time, containers running or not: running executors
and plugin calls go on in the release they were started from. packaging/uninstall takes it all away again.
"""


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="install", description=_HELP)
    parser.add_argument(
        "--from",
        dest="source",
        metavar="DIR",
        default=os.fspath(BUILT),
        help="an unpacked release (default: what was built)",
    )
    parser.add_argument(
        "--plugin-dir",
        action="append",
        metavar="DIR",
        help="where the agent looks for plugins (default /opt/cni/bin); may be repeated",
    )
    parser.add_argument(
        "--prefix", default="/usr/local", help="for programs and bundles (default %(default)s)"
    )
    parser.add_argument("--no-service", action="store_true", help="do not install the node service's units")
    parser.add_argument(
        "--root",
        type=installed.root,
        default="",
        metavar="DIR",
        help="install into the root file system in DIR, which is there",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """`argv` without the program's name; the exit status."""
    os.umask(0o022)
    options = arguments(argv)
    source = Path(options.source)
    place = Place(options.root, options.prefix.rstrip("/"))
    if installed.package_of(place) and place.prefix == "/usr":
        sys.stderr.write(
            "install: --prefix /usr: the Debian package mesokit has its files there: choose another prefix "
            "(/usr/local), or take the package away first (apt-get remove mesokit)\n"
        )
        return 1
    before = installed.load(place) or Manifest()
    plugin_dirs = [
        os.path.normpath(each) for each in options.plugin_dir or before.plugin_dirs or ["/opt/cni/bin"]
    ]
    version, digest = (source / "RELEASE").read_text().split()
    release = f"{version}-{digest}"
    now = Manifest(version, release, not options.no_service, plugin_dirs, [], dict(before.replaced))

    add_release(place, source, release)
    for name in LINKS:
        if installed.turn(place.library / name, f"releases/{release}/{name}"):
            say(f"{place.prefix}/lib/mesokit/{name} is now release {release}")
    for name in ("mesokit-executor", "mesokit-executor.tar.gz"):
        installed.turn(place.library / name, f"releases/{release}/{name}")
    commands(place, now)
    for folder in plugin_dirs:
        plugins(place, now, folder)
    documents(place, now, source)
    if now.service:
        units(place, now, source)
    elif before.service and installed.stop_service(place):
        say("stopped the node service")
    retire(place, before, now)
    installed.save(place, now)
    start(place, before, now)
    removed, left = installed.sweep(place, release)
    for name in removed:
        say(f"removed the old release {name}")
    for name in left:
        say(f"kept the old release {name}: programs of it are running")
    if installed.package_of(place):
        say(shadowed(place, now))
    return 0


def shadowed(place: Place, now: Manifest) -> str:
    """What becomes of the Debian package that is there beside the release."""
    units = ", and the units in /etc/systemd/system before the package's" if now.service else ""
    return (
        f"the Debian package mesokit is installed too: {place.prefix}/bin/mesokit goes before its "
        f"/usr/bin/mesokit wherever PATH has {place.prefix}/bin first{units}. To have one of them, take "
        "the package away (apt-get remove mesokit) or this release (packaging/uninstall, or its uninstall)"
    )


def add_release(place: Place, source: Path, release: str) -> None:
    target = place.library / "releases" / release
    if target.is_dir():
        say(f"release {release} is there already")
        return
    fresh = target.with_name(f".{release}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source / "lib/mesokit", fresh)
    shutil.copytree(source / "bin", fresh / "bin")
    for each in (source / "uri").iterdir():
        shutil.copy(each, fresh / each.name)
    fresh.rename(target)
    say(f"added release {release} in {place.prefix}/lib/mesokit/releases")


def put(place: Place, manifest: Manifest, source: Path, path: str, *, quiet: bool = False) -> bool:
    """One file, replaced by renaming: a program that runs keeps the file it runs. Whether it is a new one."""
    manifest.files.append(path)
    target = place.real(path)
    if installed.same(source, target):
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.mesokit")
    shutil.copy(source, fresh)
    fresh.rename(target)
    if not quiet:
        say(f"installed {path}")
    return True


def commands(place: Place, manifest: Manifest) -> None:
    release = place.library / "releases" / manifest.release
    for source in sorted((release / "bin").iterdir()):
        put(place, manifest, source, f"{place.prefix}/bin/{source.name}")


def plugins(place: Place, manifest: Manifest, folder: str) -> None:
    """The launchers. A plugin of somebody else under one of our names is kept for uninstall."""
    release = place.library / "releases" / manifest.release
    known = installed.load(place)
    ours = set(known.files) if known else set()
    target = place.real(folder)
    target.mkdir(parents=True, exist_ok=True)
    names = []
    for source in sorted((release / "plugins").iterdir()):
        path = f"{folder}/{source.name}"
        there = place.real(path)
        if (there.is_file() or there.is_symlink()) and path not in ours and not installed.same(source, there):
            kept = f"{place.prefix}/lib/mesokit/replaced{path}"
            place.real(kept).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(there, place.real(kept))
            manifest.replaced[path] = kept
            say(f"kept the {source.name} that was in {folder} as {kept}")
        manifest.files.append(path)
        if not installed.same(source, there):
            names.append(source.name)
            fresh = there.with_name(f".{source.name}.mesokit")
            shutil.copy(source, fresh)
            fresh.rename(there)
    link = f"{folder}/mesokit-cni.d"
    manifest.files.append(link)
    installed.turn(place.real(link), os.path.relpath(f"{place.prefix}/lib/mesokit/mesokit-cni.d", folder))
    if names:
        say(f"installed {len(names)} plugins in {folder}: {' '.join(names)}")


def documents(place: Place, manifest: Manifest, source: Path) -> None:
    share = source / "share"
    there = f"{place.prefix}/share"
    fresh = [
        each
        for each in sorted(share.rglob("*"))
        if each.is_file() and put(place, manifest, each, f"{there}/{each.relative_to(share)}", quiet=True)
    ]
    if fresh:
        say(f"installed {len(fresh)} manual pages and completions in {there}")


def units(place: Place, manifest: Manifest, source: Path) -> None:
    for name in UNITS:
        text = (source / "systemd" / name).read_text().replace("@BINDIR@", f"{place.prefix}/bin")
        written = place.library / f".{name}"
        written.write_text(text)
        put(place, manifest, written, f"/etc/systemd/system/{name}")
        written.unlink()


def retire(place: Place, before: Manifest, now: Manifest) -> None:
    """What an earlier release installed and this one has no more."""
    for path in before.files:
        if path not in now.files:
            place.real(path).unlink(missing_ok=True)
            say(f"removed {path}")
            kept = now.replaced.pop(path, None)
            if kept and place.real(kept).exists():
                shutil.move(place.real(kept), place.real(path))
                say(f"put back the earlier {path}")


def start(place: Place, before: Manifest, now: Manifest) -> None:
    if not now.service:
        if before.service and installed.systemd(place):
            installed.systemctl(["daemon-reload"])
        say("no node service: plugins do their work themselves")
    elif not installed.systemd(place):
        start_it = f"{place.prefix}/bin/mesokit node"
        if not place.root and Path("/run/mesokit/node.sock").is_socket() and before.release != now.release:
            say(f"no systemd here, and a node service was started by hand: end it, and start {start_it}")
        else:
            say(f"no systemd here: start the node service with {start_it}")
    else:
        installed.systemctl(["daemon-reload"])
        installed.systemctl(["enable", "--quiet", "--now", UNITS[0]])
        if not installed.systemctl(["is-active", "--quiet", UNITS[1]], check=False):
            say("the node service is ready: its socket is enabled, and the first call starts it")
        elif before.release == now.release:
            say("the node service is running")
        else:
            installed.systemctl(["try-restart", UNITS[1]])
            say(f"the node service was restarted: it is release {now.release} now")


if __name__ == "__main__":
    sys.exit(main())
