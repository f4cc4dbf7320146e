"""What the spec files share: what goes into a bundle, and what does not although PyInstaller found it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]

_CPP = "libstdc++.so.6"

Entry = tuple[str, str, str]  # name in the bundle, file, kind

# Parts of the standard library and of our dependencies that no path of ours reaches.
EXCLUDED = (
    "IPython", "OpenSSL", "_decimal", "_distutils_hack", "_elementtree", "_posixshmem", "_statistics",
    "_pydecimal", "_pytest", "_uuid", "antigravity", "cffi", "cgi", "cmath", "cryptography", "curses",
    "dbm", "decimal", "distutils", "doctest", "ensurepip", "fractions", "ftplib", "h2", "idlelib",
    "imaplib", "lib2to3", "mailbox", "mypy", "nntplib", "numpy", "pdb", "pip",
    "pkg_resources", "poplib", "psutil.tests", "py_compile", "pycparser", "pydoc", "pydoc_data", "pyexpat",
    "pytest", "readline", "setuptools", "smtplib", "socks", "statistics", "telnetlib",
    "test", "this", "tkinter", "tomllib", "tracemalloc", "trio", "turtle", "turtledemo", "unittest",
    "urllib3.contrib.emscripten", "venv", "webbrowser", "wsgiref", "xml", "xmlrpc", "xxsubtype",
    "yaml._yaml", "yaml.cyaml", "zoneinfo",
)  # fmt: skip


def modules_of(*packages: str) -> list[str]:
    """Every module of packages of ours, tests left out: commands and plugins are imported by name."""
    names = []
    for package in packages:
        for path in sorted((TOP / package).rglob("*.py")):
            parts = path.relative_to(TOP).with_suffix("").parts
            if "tests" not in parts and parts[-1] != "conftest":
                names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def observed(function: str, prefix: str) -> frozenset[str]:
    """Which modules below `prefix` a function of ours (`module:name`) loads: asked of a fresh interpreter."""
    module, name = function.split(":")
    script = (
        f"import sys, {module}\n"
        f"{module}.{name}()\n"
        f"print(*[name for name in sys.modules if name.startswith({prefix!r})])\n"
    )
    path = os.pathsep.join((os.fspath(TOP), os.fspath(TOP / "proto")))
    answer = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": path, "PATH": os.environ["PATH"]},
        capture_output=True,
        check=False,
    )
    if answer.returncode:
        raise SystemExit(f"a module of ours cannot be imported:\n{answer.stderr.decode()[-2000:]}")
    found = frozenset(answer.stdout.decode().split())
    assert found, f"{function} loaded nothing of {prefix}"
    return found


def without(entries: Iterable[Entry], pattern: str, keep: frozenset[str] = frozenset()) -> list[Entry]:
    """`entries` without those whose name matches, unless they are in `keep`."""
    matching = re.compile(pattern)
    return [entry for entry in entries if entry[0] in keep or not matching.fullmatch(entry[0])]


def needless(entries: Iterable[Entry]) -> list[Entry]:
    """Binaries and data without what hooks add on suspicion."""
    codecs = r".*/_(codecs_(jp|hk|cn|kr|tw|iso2022)|multibytecodec)\..*"
    installer = r".*\.dist-info/(licenses/.*|INSTALLER|RECORD|REQUESTED|WHEEL|direct_url\.json)"
    return without(entries, rf"{codecs}|mesokit\.egg-info/.*|{installer}")


def lay_out(folder: Path, binaries: Iterable[Entry], datas: Iterable[Entry]) -> None:
    """A directory bundle's `_internal`, without what only a Python in a library of its own needs."""
    libraries = r"(libpython|libexpat|libz|libpthread|libdl|libutil)[.\d]*\.so[.\d]*"
    shutil.rmtree(folder, ignore_errors=True)
    for name, path, kind in without([*binaries, *datas], libraries):
        target = folder / "_internal" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if kind == "SYMLINK":
            target.symlink_to(path)
        else:
            shutil.copyfile(path, target)


def slim(binaries: Iterable[Entry], build: Path) -> list[Entry]:
    """`binaries` where protobuf's extension does without the C++ library: it is linked with it and takes
    nothing from it (2 MB, and 2 ms of every start). One that does take something keeps it.
    """
    kept: list[Entry] = []
    for name, path, kind in binaries:
        file = Path(path)
        if file.name.startswith("_message.") and _CPP in _unused(file):
            shutil.copyfile(file, build / file.name)
            subprocess.run(["patchelf", "--remove-needed", _CPP, build / file.name], check=True)
            file = build / file.name
        kept.append((name, os.fspath(file), kind))
    used = any(name != _CPP and _CPP in _needed(Path(path)) for name, path, _ in kept)
    return kept if used else without(kept, re.escape(_CPP))


def _unused(file: Path) -> str:
    return subprocess.run(["ldd", "-u", file], stdout=subprocess.PIPE, check=False).stdout.decode()


def _needed(file: Path) -> str:
    listing = subprocess.run(["readelf", "-d", file], capture_output=True, check=False).stdout.decode()
    return "".join(line for line in listing.splitlines() if "(NEEDED)" in line)


def metadata(build: Path) -> list[tuple[str, str]]:
    """The distribution's name and version, as importlib.metadata reads them, and no path of
    the build machine."""
    version = version_of_project()
    folder = build / f"mesokit-{version}.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: mesokit\nVersion: {version}\n")
    return [(os.fspath(folder / "METADATA"), folder.name)]


def libraries() -> Path:
    """Where Debian keeps this processor's libraries (multiarch: /usr/lib/x86_64-linux-gnu)."""
    return Path("/usr/lib") / str(sysconfig.get_config_var("MULTIARCH"))


def version_of_project() -> str:
    found = re.search(r'^version = "([^"]+)"', (TOP / "pyproject.toml").read_text(), re.MULTILINE)
    assert found is not None, "pyproject.toml has no version"
    return found[1]
