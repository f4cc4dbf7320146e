"""What a hostile task does, as its user: `python3 -I -S hostile.py ATTACK OUTSIDE [ID ...]`.

Each attack goes on until a file `stop` appears in the sandbox, its working directory. What it could do and
should not have been able to is written to `could` there, a line for each.
"""

import contextlib
import ctypes
import os
import shutil
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_PTRACE_ATTACH = 16
_PR_SET_TIMERSLACK = 29

libc = ctypes.CDLL(None, use_errno=True)


def ended() -> bool:
    return Path("stop").exists()


def could(what: str) -> None:
    with Path("could").open("a") as file:
        file.write(what + "\n")


def trying(act: Callable[[], object]) -> bool:
    try:
        act()
    except OSError:
        return False
    return True


def peep(path: Path) -> None:
    with path.open("rb") as file:
        file.read(1)


def names(ids: list[str]) -> list[str]:
    """Every name below the sandbox that root goes by, now or later."""
    log = "mesokit-executor.log"
    found = [log, f"{log}.1", f"{log}.2", "mesokit.sock", "stdout", "stderr", "tasks", "progress", "pd", "p"]
    for one in ids:
        found += [f"tasks/{one}", f"tasks/{one}/stdout", f"tasks/{one}/stdout.1", f"tasks/{one}/stderr"]
        found += [f"progress/{one}", f"progress/{one}/p"]
    return found


def put(kind: str, name: str, outside: Path) -> None:
    """Something of a kind in the place of a name, whatever stood there moved away as far as may be."""
    with contextlib.suppress(OSError):
        os.rename(name, f"{name}.away-{time.monotonic_ns()}")  # noqa: PTH104 - a name may be anything
    with contextlib.suppress(OSError):
        os.unlink(name)  # noqa: PTH108
    target = outside / ("folder" if Path(name).suffix == "" and "/" not in name else "secret")
    with contextlib.suppress(OSError):
        match kind:
            case "link":
                os.symlink(target, name)  # noqa: PTH211
            case "hard":
                os.link("own", name)
            case "fifo":
                os.mkfifo(name)
            case "folder":
                os.mkdir(name)  # noqa: PTH102


def places(kind: str, outside: Path, ids: list[str]) -> None:
    """Links, hard links, FIFOs or directories wherever root may come to."""
    Path("own").write_text("progress: 66 of a hard link\n")
    while not ended():
        for name in names(ids):
            put(kind, name, outside)
        time.sleep(0.001)


def races(outside: Path, ids: list[str]) -> None:
    """A directory and a link that change places, as fast as the kernel will, under every name at once."""
    wanted = [name for name in names(ids) if "/" in name or name in ("progress", "pd", "tasks")]
    for number in range(len(wanted)):
        with contextlib.suppress(OSError):
            os.symlink(outside / "folder", f"swap-{number}")  # noqa: PTH211
    while not ended():
        for number, name in enumerate(wanted):
            with contextlib.suppress(OSError):
                os.mkdir(name)  # noqa: PTH102
            exchange(name, f"swap-{number}")
            exchange(name, f"swap-{number}")


def exchange(one: str, other: str) -> None:
    libc.renameat2(_AT_FDCWD, one.encode(), _AT_FDCWD, other.encode(), _RENAME_EXCHANGE)


PAYLOAD = """
import os
if os.getuid() == 0:
    open({canary!r}, "w").write("root ran this")
"""

MODULES = (
    "ssl", "_ssl", "linecache", "tokenize", "traceback", "stringprep", "unicodedata", "encodings", "idna",
    "executor", "mesos", "google", "socket", "json", "logging", "sitecustomize", "_strptime",
)  # fmt: skip


def code(outside: Path, ids: list[str]) -> None:
    """The program's own code, moved away and replaced; modules where Python may look for them."""
    payload = PAYLOAD.format(canary=str(outside / "folder" / "canary"))
    for name in MODULES:
        with contextlib.suppress(OSError):
            Path(f"{name}.py").write_text(payload)
    while not ended():
        here = list(Path().iterdir())
        bundles = [path for path in here if path.name in ("mesokit-executor", "checkout")]
        bundles += [path for path in here if path.name.startswith("_MEI")]
        for path in bundles:
            away = Path(f"{path.name}.moved-{time.monotonic_ns()}")
            if trying(partial(path.rename, away)):
                could(f"move {path} away")
                with contextlib.suppress(OSError):
                    shutil.copytree(away, path)
                    path.joinpath("ssl.py").write_text(payload)
                with contextlib.suppress(OSError):
                    path.symlink_to(outside / "folder")
            for file in list(path.rglob("*"))[:200] if path.is_dir() else [path]:
                if file.is_file() and os.access(file, os.W_OK):
                    could(f"write {file}")
        time.sleep(0.005)


def processes(outside: Path, ids: list[str]) -> None:
    """The executor, its warden and its boot loader, through /proc and by ptrace."""
    above = [os.getppid()]
    while above[-1] > 1 and len(above) < 5:
        fields = Path(f"/proc/{above[-1]}/stat").read_text().rpartition(")")[2].split()
        if Path(f"/proc/{above[-1]}").stat().st_uid != 0:
            break
        above.append(int(fields[1]))
    for pid in [pid for pid in above if pid > 1][:3]:
        for name in ("mem", "environ", "maps", "auxv", "stack"):
            if trying(partial(peep, Path(f"/proc/{pid}/{name}"))):
                could(f"read /proc/{pid}/{name}")
        for name in ("cwd", "root", "exe", "fd/1"):
            if trying(Path(f"/proc/{pid}/{name}").readlink):
                could(f"follow /proc/{pid}/{name}")
        if trying(partial(os.kill, pid, 0)):
            could(f"signal {pid}")
        if libc.ptrace(_PTRACE_ATTACH, pid, 0, 0) == 0:
            could(f"trace {pid}")
    while not ended():
        time.sleep(0.05)


def escapes(outside: Path, ids: list[str]) -> None:
    """Daemons that say they are somebody else's, or nobody's."""
    mine = os.environ["MESOKIT_TASK"]
    instance = mine.partition(".")[0]
    for number, cookie in enumerate([None, "", "none", f"{instance}.1", f"{instance}.2", f"{instance}.999"]):
        if os.fork() == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
            libc.prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(50_000 + number), 0, 0, 0)
            with Path("escaped").open("a") as file:
                file.write(f"{os.getpid()}\n")
            environment = {} if cookie is None else {"MESOKIT_TASK": cookie}
            os.execve("/bin/sleep", ["sleep", "1000"], environment)
    while not ended():
        time.sleep(0.05)


def main() -> None:
    attack, outside, *ids = sys.argv[1:]
    with contextlib.suppress(OSError):
        Path(f"ready-{attack}").touch()
    if attack in ("link", "hard", "fifo", "folder"):
        places(attack, Path(outside), ids)
    else:
        {"races": races, "code": code, "processes": processes, "escapes": escapes}[attack](Path(outside), ids)


if __name__ == "__main__":
    main()
