"""The first file system of the machine that qemu.py boots: an archive (cpio, newc) that the kernel unpacks
into memory, so that a Python import in there costs no device.

It holds Debian packages of this machine with the libraries they load, the kernel's network modules, and this
checkout with its Python packages, all under the paths they have here. The first two change with a package
only and are written once (build/qemu); the checkout is written for each boot.

Format: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import py_compile
import re
import shutil
import stat
import struct
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

#: What is in there, as on this machine; and of it, what is not.
PACKAGES = (
    "base-files", "bash", "busybox-static", "conntrack", "containernetworking-plugins", "coreutils", "dash",
    "dnsmasq-base",
    "findutils", "grep", "hostname", "iproute2", "iptables", "kmod", "libc-bin", "libc6", "libgcc-s1",
    "libpython3.11-minimal",
    "libpython3.11-stdlib", "mount", "nftables", "procps", "python3-minimal", "python3.11-minimal", "sed",
    "util-linux",
)  # fmt: skip
_NO_PART = re.compile(r"/usr/(share|lib/python3\.11/(lib2to3|idlelib|pydoc_data|ensurepip|turtledemo))/")
#: What is made when packages are installed, so that none lists it: links, and compiled Python.
_MADE = (
    "/usr/lib/python3.11/**/*.pyc",
    "/usr/sbin/*tables*",
    "/usr/bin/awk",
    "/etc/passwd",
    "/etc/group",
    "/etc/ld.so.cache",
)
#: Folders of /lib/modules/VERSION/kernel whose modules a test may want.
_MODULES = (
    "arch", "crypto", "drivers/char/virtio_console.ko", "drivers/net", "drivers/virtio", "fs/overlayfs",
    "lib", "net",
)  # fmt: skip
_FOLDERS = ("dev", "proc", "sys", "run", "tmp", "root", "var/lib", "var/log", "etc", "opt", "mnt")

#: Of the checkout, what tests use; of its Python packages, what they do not.
_ROOMS = ("executor", "cni_plugins", "netns_tests", "packaging", "proto", "pyproject.toml")
_TOOLS = re.compile(
    r"mypy.*|.*__mypyc\..*|grpc.*|PyInstaller|_pyinstaller.*|setuptools|pip|ruff.*|uv.*|"
    r"cryptography|pycparser|ast_serialize|librt|__pycache__|__editable__.*|distutils-precedence.pth"
)

Entries = dict[str, Path]  # absolute path in there: file, folder or link here


def write(stream: BinaryIO, entries: Entries) -> None:
    """Writes one archive; folders above an entry come by themselves."""
    whole: dict[str, Path | None] = {}
    for name in sorted(entries):
        for parent in reversed(Path(name).parents):
            whole.setdefault(os.fspath(parent).lstrip("/"), None)
        whole[name.lstrip("/")] = entries[name]
    whole.pop("", None)
    for number, (name, path) in enumerate(whole.items(), 1):
        _member(stream, name, number, _read(path))
    _member(stream, "TRAILER!!!", 0, _Member(0, 0, b""))


@dataclass(frozen=True, slots=True)
class _Member:
    mode: int
    changed: int  # Unix time; compiled Python is only good for a source of the right one
    content: bytes


def _read(path: Path | None) -> _Member:
    if path is None:
        return _Member(stat.S_IFDIR | 0o755, 0, b"")
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        content = os.fsencode(path.readlink())
    else:
        content = b"" if stat.S_ISDIR(status.st_mode) else path.read_bytes()
    return _Member(status.st_mode, int(status.st_mtime), content)


def _member(stream: BinaryIO, name: str, number: int, member: _Member) -> None:
    size = len(member.content)
    fields = (number, member.mode, 0, 0, 1, member.changed, size, 0, 0, 0, 0, len(name.encode()) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    stream.write(head + bytes(-len(head) % 4) + member.content + bytes(-size % 4))


def base(kernel: Path, cache: Path) -> Path:
    """The archive of packages and modules; `kernel` is where the kernel's package was unpacked."""
    query = ["dpkg-query", "-W", "-f=${Package} ${Version}\n", *PACKAGES]
    versions = subprocess.run(query, stdout=subprocess.PIPE, check=True).stdout
    key = hashlib.sha256(versions + kernel.name.encode() + Path(__file__).read_bytes()).hexdigest()[:16]
    made = cache / f"base-{key}.cpio"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two processes of pytest want it at once
        if not made.exists():
            _make_base(kernel, made)
    return made


def _make_base(kernel: Path, made: Path) -> None:
    cache, entries = made.parent, Entries()
    for path in _listed(PACKAGES):
        _add(entries, path)
    for pattern in _MADE:
        for path in sorted(Path("/").glob(pattern.lstrip("/"))):
            _add(entries, path)
    for library in _libraries(entries):
        _add(entries, library)
    for link in ("/bin", "/sbin", "/lib", "/lib64"):
        if Path(link).is_symlink():
            entries[link] = Path(link)
    entries |= {f"/{name}": Path("/etc") for name in _FOLDERS}
    modules = cache / ".modules"
    _modules(kernel, modules)
    entries |= {f"/usr{name}": path for name, path in _tree(modules, modules)}
    fresh = cache / ".base"
    with fresh.open("wb") as stream:
        write(stream, entries)
    shutil.rmtree(modules)
    for old in cache.glob("base-*.cpio"):
        old.unlink()
    fresh.rename(made)


def _listed(packages: Iterable[str]) -> Iterator[Path]:
    answer = subprocess.run(["dpkg-query", "-L", *packages], stdout=subprocess.PIPE, check=True)
    for line in sorted(set(answer.stdout.decode().splitlines())):
        path = Path(line)
        if line.startswith("/") and (path.is_symlink() or path.is_file()) and not _NO_PART.match(f"{line}/"):
            yield path


def _add(entries: Entries, path: Path) -> None:
    """A file under its name without links on the way; of a link, what it points to as well."""
    place = path.parent.resolve() / path.name
    if os.fspath(place) in entries or not (place.is_symlink() or place.is_file()):
        return
    entries[os.fspath(place)] = place
    if place.is_symlink():
        _add(entries, place.parent / place.readlink())


def _libraries(entries: Entries) -> list[Path]:
    programs = [path for path in entries.values() if not path.is_symlink() and _elf(path)]
    answer = subprocess.run(["ldd", *programs], capture_output=True, check=False)  # static ones fail
    return [Path(found) for found in sorted(set(re.findall(r"(/\S+) \(0x", answer.stdout.decode())))]


def _elf(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) == b"\x7fELF"


def _modules(kernel: Path, target: Path) -> None:
    """The wanted modules and their tables below `target`."""
    (source,) = (kernel / "lib/modules").iterdir()
    shutil.rmtree(target, ignore_errors=True)
    place = target / "lib/modules" / source.name
    for name in _MODULES:
        for module in [source / "kernel" / name, *(source / "kernel" / name).rglob("*.ko")]:
            if module.is_file():
                copy = place / module.relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.hardlink_to(module)
    for table in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        shutil.copy(source / table, place / table)
    subprocess.run(["depmod", "-b", target, source.name], check=True)


def _tree(root: Path, below: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(below.rglob("*")):
        if path.is_symlink() or path.is_file():
            yield f"/{path.relative_to(root)}", path


def checkout(top: Path, *compiled: Path) -> Entries:
    """This checkout with its Python packages, and what its launchers and libraries were compiled to."""
    entries: Entries = {}
    (packages,) = (top / ".venv/lib").glob("python3*/site-packages")
    for each in packages.iterdir():
        if not _TOOLS.fullmatch(each.name):
            entries |= _files(each)
    for each in (top / ".venv/bin").iterdir():
        if not each.is_dir() and not _TOOLS.fullmatch(each.name):
            entries[os.fspath(each)] = each
    entries[os.fspath(top / ".venv/pyvenv.cfg")] = top / ".venv/pyvenv.cfg"
    for room in _ROOMS:
        entries |= _files(top / room)
    for each in compiled:
        entries |= _files(each)
    return entries


def _files(place: Path) -> Entries:
    return {
        os.fspath(path): path for path in (place, *place.rglob("*")) if path.is_symlink() or path.is_file()
    }


def with_bytecode(entries: Entries, cache: Path) -> Entries:
    """Python files and what they compile to, so that no process in there does: it would take ten times as
    long, each time. What is compiled is kept in `cache`; the checkout is only read."""
    folder = cache / "bytecode"
    folder.mkdir(parents=True, exist_ok=True)
    found = {name: path for name, path in entries.items() if not name.endswith(".pyc")}
    for name, path in [item for item in found.items() if item[0].endswith(".py")]:
        made = folder / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.pyc"
        if not _is_made_from(made, path.stat()):
            py_compile.compile(
                os.fspath(path), os.fspath(made), name, doraise=True,
                invalidation_mode=py_compile.PycInvalidationMode.TIMESTAMP,
            )  # fmt: skip
        found[importlib.util.cache_from_source(name)] = made
    return found


def _is_made_from(made: Path, source: os.stat_result) -> bool:
    """By what stands at the head of compiled Python: a magic number, flags, time and size of its source."""
    try:
        with made.open("rb") as stream:
            head = stream.read(16)
    except FileNotFoundError:
        return False
    numbers = struct.pack("<3I", 0, int(source.st_mtime) & 0xFFFFFFFF, source.st_size & 0xFFFFFFFF)
    return head == importlib.util.MAGIC_NUMBER + numbers
