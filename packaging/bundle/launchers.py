"""Compiles the launcher and the fronts, and makes a plugin folder of a source checkout.

python packaging/bundle/launchers.py FOLDER     plugins that run this checkout, for trying things out
python packaging/bundle/launchers.py            compiles only, and prints where the programs are
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
SOURCE = TOP / "packaging" / "launcher"
BUNDLE = "mesokit-cni.d"

# With musl: glibc asks the processor for its features and caches before main(), which takes 0.2 ms where a
# hypervisor answers, half of a launcher's life.
_COMPILER = "musl-gcc"
_FLAGS = ("-static", "-Os", "-std=c11", "-Wall", "-Wextra", "-Werror", "-s", "-Wl,--build-id=none")
# Where each front looks for its bundle, relative to itself.
_FRONTS = {
    "mesokit": ("mesokit-cni.d", "../lib/mesokit/mesokit-cni.d"),
    "mesokit-executor": ("mesokit-executor.d", "../lib/mesokit/mesokit-executor.d"),
}


def compile_all() -> Path:
    """The folder with `launcher`, `mesokit` and `mesokit-executor`; compiled once
    for each content of the source."""
    digest = hashlib.sha256(repr((_COMPILER, _FLAGS, _FRONTS)).encode())
    for path in sorted(SOURCE.iterdir()):
        digest.update(path.read_bytes())
    build = TOP / "build"
    made = build / f"launcher-{digest.hexdigest()[:16]}"
    if made.is_dir():
        return made
    build.mkdir(exist_ok=True)
    with (build / ".launcher.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if made.is_dir():
            return made
        fresh = build / f".launcher-{os.getpid()}"
        shutil.rmtree(fresh, ignore_errors=True)  # of one that was interrupted
        fresh.mkdir()
        _compile("launcher.c", fresh / "launcher", ())
        for program, places in _FRONTS.items():
            bundles = ",".join(f'"{place}"' for place in places)
            _compile("front.c", fresh / program, (f'-DPROGRAM="{program}"', f"-DBUNDLES={bundles}"))
        fresh.rename(made)
    return made


def _compile(source: str, output: Path, more: Iterable[str]) -> None:
    subprocess.run([_COMPILER, *_FLAGS, "-D_GNU_SOURCE", *more, "-o", output, SOURCE / source], check=True)


def plugin_names() -> list[str]:
    """The plugins of the toolkit, by the registry."""
    sys.path.insert(0, os.fspath(TOP))
    from cni_plugins.plugins.registry import MODULES  # noqa: PLC0415 - found by the line above

    return sorted(MODULES)


def install_launchers(folder: Path, names: Iterable[str]) -> None:
    """The launcher under each name, as one file with many names, replacing what runs by renaming."""
    folder.mkdir(parents=True, exist_ok=True)
    first: Path | None = None
    for name in names:
        fresh = folder / f".{name}.new"
        fresh.unlink(missing_ok=True)
        if first is None:
            shutil.copyfile(compile_all() / "launcher", fresh)
            fresh.chmod(0o755)
        else:
            fresh.hardlink_to(first)
        fresh.rename(folder / name)
        first = first or folder / name


def from_source(folder: Path) -> Path:
    """A plugin folder whose one-shot program is this checkout, run by its own interpreter."""
    bundle = folder / BUNDLE
    bundle.mkdir(parents=True, exist_ok=True)
    program = bundle / "mesokit"
    entry = TOP / "packaging" / "bundle" / "mesokit_entry.py"
    packages = sorted((TOP / ".venv" / "lib").glob("python3*/site-packages"))
    program.write_text(
        # Without `site`, which takes a fifth of such a process's life: the packages are named here.
        f"#!{TOP}/.venv/bin/python -IS\n"
        f"import runpy, sys\n"
        # This checkout before that which its environment was made for: work trees share one.
        f"sys.path[:0] = {[os.fspath(path) for path in (entry.parent, TOP, TOP / 'proto')]!r}\n"
        f"sys.path += {[os.fspath(path) for path in packages]!r}\n"
        f"runpy.run_path({os.fspath(entry)!r}, run_name='__main__')\n"
    )
    program.chmod(0o755)
    install_launchers(folder, plugin_names())
    return folder


if __name__ == "__main__":
    if sys.argv[1:]:
        from_source(Path(sys.argv[1]).resolve())
    else:
        sys.stdout.write(f"{compile_all()}\n")
