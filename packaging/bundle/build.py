"""What packaging/build does, after its set-up."""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import archive
import deb
import freeze
import launchers
import release
import wheel
from frozen import version_of_project

TOP = freeze.TOP
DIST = TOP / "dist"
EXECUTOR = "mesokit-executor"


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="packaging/build")
    parser.add_argument(
        "--check", action="store_true", help="only tell, by the status, whether all is up to date"
    )
    parser.add_argument("--force", action="store_true", help="build even what is there")
    options = parser.parse_args()
    if options.check:
        return 0 if up_to_date() else 1
    DIST.mkdir(exist_ok=True)
    work = TOP / "build"
    work.mkdir(exist_ok=True)
    with (work / ".build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        began = time.monotonic()
        built = build(work, force=options.force)
        if built:
            say(f"built in {time.monotonic() - began:.0f} s")
        report()
    return 0


def products() -> list[Path]:
    names = [EXECUTOR, f"{EXECUTOR}.tar.gz", "mesokit-cni.tar.gz", f"{release.name()}.tar.gz"]
    return [DIST / name for name in (*names, wheel.file_name(), deb.file_name(version_of_project()))]


def state() -> str:
    """What the products depend on."""
    return f"{freeze.digest()} {freeze.epoch()}"


def up_to_date() -> bool:
    stamp = DIST / ".built-from"
    if not stamp.exists() or stamp.read_text() != state():
        return False
    return all(path.exists() for path in (*products(), TOP / "build" / "release" / "RELEASE"))


def build(work: Path, *, force: bool) -> bool:
    """Whether anything had to be built."""
    if not force and up_to_date():
        return False
    digest, stamp = state(), DIST / ".built-from"
    stamp.unlink(missing_ok=True)
    bundles = work / "bundle"
    shutil.rmtree(bundles, ignore_errors=True)
    say("freezing mesokit and the executor")
    with ThreadPoolExecutor() as pool:
        list(
            pool.map(lambda name: freeze.pyinstaller(name, work, bundles), ("mesokit.spec", "executor.spec"))
        )
    for bundle in (launchers.BUNDLE, f"{EXECUTOR}.d"):
        freeze.complete(bundles / bundle)
    date = freeze.epoch()
    publish(bundles / EXECUTOR, DIST / EXECUTOR)
    executor_archive(bundles, work / "stage-executor", date)
    plugins_archive(bundles, work / "stage-plugins", date)
    deb.build(bundles, work / "stage-deb", DIST, date)
    release.stage(work / "stage-deb", DIST, work / "release", digest)
    release.write(work / "release", DIST, date)
    wheel.build(work / "stage-wheel", DIST, date)
    stamp.write_text(digest)
    return True


def publish(source: Path, target: Path) -> None:
    fresh = target.with_name(f".{target.name}.new")
    shutil.copyfile(source, fresh)
    fresh.chmod(0o755)
    fresh.rename(target)


def executor_archive(bundles: Path, stage: Path, date: int) -> None:
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir()
    freeze.link_tree(bundles / f"{EXECUTOR}.d", stage / f"{EXECUTOR}.d")
    shutil.copy(launchers.compile_all() / EXECUTOR, stage / EXECUTOR)
    archive.write(DIST / f"{EXECUTOR}.tar.gz", archive.tree(stage), date, prefix=f"{EXECUTOR}/")


def plugins_archive(bundles: Path, stage: Path, date: int) -> None:
    shutil.rmtree(stage, ignore_errors=True)
    launchers.install_launchers(stage, launchers.plugin_names())
    freeze.link_tree(bundles / launchers.BUNDLE, stage / launchers.BUNDLE)
    shutil.copy(launchers.compile_all() / "mesokit", stage / "mesokit")
    archive.write(DIST / "mesokit-cni.tar.gz", archive.tree(stage), date)


def report() -> None:
    bundles = TOP / "build" / "bundle"
    unpacked = {
        f"{EXECUTOR}.tar.gz": bundles / f"{EXECUTOR}.d",
        "mesokit-cni.tar.gz": bundles / launchers.BUNDLE,
    }
    for path in products():
        size = f"{path.stat().st_size / 1e6:6.1f} MB"
        folder = unpacked.get(path.name)
        more = f"  ({total(folder) / 1e6:.1f} MB unpacked)" if folder and folder.is_dir() else ""
        sys.stdout.write(f"{size}  dist/{path.name}{more}\n")


def total(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    os.umask(0o022)
    try:
        sys.exit(main())
    except freeze.BuildError as error:
        sys.exit(f"packaging/build: {error}")
