"""Runs PyInstaller, and completes a directory bundle with the C library and its loader."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import frozen

TOP = Path(__file__).resolve().parents[2]
LOADER = "ld-linux.so.2"  # the name that packaging/launcher/bundle.h knows

# The rooms whose content ends up in a bundle.
_ROOMS = ("cni_plugins", "executor", "proto", "packaging/bundle", "packaging/launcher", "packaging/example")

# Opened by the C library itself, so that no program lists them as needed: host names by DNS, ends of threads.
_UNLISTED = ("libresolv.so.2", "libnss_dns.so.2", "libgcc_s.so.1")


class BuildError(Exception):
    """A bundle cannot be made; the sentence says why."""


def digest() -> str:
    """Of everything that a bundle is made of: our sources, the pinned packages, the interpreter."""
    whole = hashlib.sha256(sys.version.encode())
    whole.update((TOP / "pyproject.toml").read_bytes())
    for room in _ROOMS:
        for path in sorted((TOP / room).rglob("*")):
            if path.is_file() and path.suffix not in {".pyc", ".md"} and "tests" not in path.parts:
                whole.update(f"{path.relative_to(TOP)}\0".encode() + path.read_bytes())
    return whole.hexdigest()


def pyinstaller(spec: str, work: Path, output: Path) -> None:
    """Runs a spec file; its results are in `output`. Raises BuildError with PyInstaller's last words."""
    work = work / f"pyinstaller-{spec.removesuffix('.spec')}"
    work.mkdir(parents=True, exist_ok=True)
    log = work / "log"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.fspath(work),
        "PYINSTALLER_CONFIG_DIR": os.fspath(work / "cache"),
        "PYTHONHASHSEED": "1",
        # Columns are for the marks below a line of source, and a bundle has no sources: a fifth of all code.
        "PYTHONNODEBUGRANGES": "1",
        "SOURCE_DATE_EPOCH": str(epoch()),
    }
    argv = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level", "WARN"]
    argv += ["--distpath", os.fspath(output), "--workpath", os.fspath(work), f"packaging/bundle/{spec}"]
    with log.open("wb") as stream:
        status = subprocess.run(
            argv, cwd=TOP, env=environment, stdout=stream, stderr=stream, check=False
        ).returncode
    if status:
        raise BuildError(f"PyInstaller failed with {spec}:\n{log.read_text()[-3000:]}")


def epoch() -> int:
    """The date of every file in an archive: that of the last commit to what is in it, so that a commit is one
    set of bytes.
    """
    answer = subprocess.run(
        ["git", "-C", TOP, "log", "-1", "--format=%ct", "--", "pyproject.toml", *_ROOMS],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    return int(answer.stdout) if answer.returncode == 0 and answer.stdout.strip() else 1_700_000_000


def complete(bundle: Path) -> None:
    """Adds the dynamic loader and every library that the host would have given. Raises BuildError."""
    libraries = bundle / "_internal"
    programs = [path for path in bundle.rglob("*") if path.is_file() and path.read_bytes()[:4] == b"\x7fELF"]
    interpreter = _interpreter(next(path for path in programs if path.parent == bundle))
    shutil.copyfile(interpreter, bundle / LOADER)
    (bundle / LOADER).chmod(0o755)
    have = {path.name for path in libraries.iterdir()}
    wanted = {name: path for program in programs for name, path in _needed(program, libraries).items()}
    wanted |= {name: interpreter.parent / name for name in _UNLISTED}
    for name, path in sorted(wanted.items()):
        if name in have or name == interpreter.name:
            continue
        found = path if path.exists() else frozen.libraries() / name
        if not found.exists():
            raise BuildError(f"{name} is needed and is neither in the bundle nor on this machine")
        shutil.copyfile(found, libraries / name)
        (libraries / name).chmod(0o755)


def link_tree(source: Path, target: Path) -> None:
    """A copy that shares its files with the original."""
    shutil.copytree(source, target, copy_function=os.link)


def _interpreter(program: Path) -> Path:
    listing = subprocess.run(["readelf", "-l", program], stdout=subprocess.PIPE, check=True).stdout.decode()
    found = re.search(r"program interpreter: (\S+)\]", listing)
    if found is None:
        raise BuildError(f"{program} names no dynamic loader")
    return Path(found[1]).resolve()


def _needed(program: Path, libraries: Path) -> dict[str, Path]:
    """Every shared library that `program` loads, and where the dynamic loader finds it."""
    listing = subprocess.run(
        ["ldd", program],
        env={"LD_LIBRARY_PATH": os.fspath(libraries), "PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
    ).stdout.decode()
    return {name: Path(path) for name, path in re.findall(r"^\s*(\S+) => (/\S+)", listing, re.MULTILINE)}
