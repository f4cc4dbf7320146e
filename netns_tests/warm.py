"""Nodes and our programs in them, forked from one process that has imported everything.

Starting an interpreter and importing a command is all but a twentieth of what a plugin call, a service or a
node costs, and says nothing about what most tests look at. `Warm` starts this module as a process, once for a
process of pytest. Each node's process 1 is forked from it, in namespaces of its own, and forks in turn:

    .venv/bin/mesokit ...       the command, the node service
    FOLDER/PLUGIN               a plugin of `plugins.make_folder`, when no node service is there to ask
    traffic.py                  who talks in a test
    crash_driver.py             where crash.c is loaded already (in QEMU, and where `shim` was asked for)

Such a child is a process like any other: its pid, session, descriptors, environment, arguments (as /proc
shows them), name and exit status are those of the program, and it enters by the program's own entry, so that
a signal meets what it would meet. Whatever else is started is executed: other programs, plugins by the
launcher when there is a service, what a runtime, a shell or a plugin calls, and what is given variables for
the loader or the interpreter.

A real start is the subject of tests marked `cold`, and of all tests with `pytest --cold`.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import io
import os
import pkgutil
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from functools import cache, partial
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from cni_plugins.cli import start
from cni_plugins.kernel.netlink import pyroute
from cni_plugins.node import plugins
from cni_plugins.plugins import registry
from netns_tests import crash_shim, node_init, traffic
from netns_tests.node_init import Body
from netns_tests.plugins import IN_QEMU

TOP = Path(__file__).resolve().parents[1]
COMMAND = str(TOP / ".venv" / "bin" / "mesokit")
_ENTRY = TOP / "packaging" / "bundle" / "mesokit_entry.py"
_DRIVER = "netns_tests.crash_driver"
_SERVICE = "run/mesokit/node.sock"
_STDIN_LIMIT = 16 << 20  # launcher.c
_NAMESPACES = 0x20000 | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000  # mount, uts, ipc, pid, net
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
#: In bytes: what /proc can show of a child's arguments and of its environment.
_ROOM = 4096

#: What kernel/netlink imports to know the layouts that pyroute2 has.
_LAYOUTS = tuple(f"netlink.rtnl.{name}" for name in ("ifaddrmsg", "ifinfmsg", "iw_event", "rtmsg"))

_LARGE = re.compile(rf"cni_plugins\.cli\.(framework|run|web|manual{'|app' if IN_QEMU else ''})\w*")


class Warm:
    """The process, seen by pytest: `Node.maker`. It ends with the one who made it. `control` leads to one
    that was made already (`forked`); `preloaded` is a library that the process has loaded before all others.
    """

    def __init__(self, control: socket.socket | None = None, preloaded: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._control = control
        self._more = {"ROOM": " " * _ROOM} | ({} if preloaded is None else {"LD_PRELOAD": str(preloaded)})
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, control: int, errors: int, hostname: str) -> None:
        with self._lock:
            if self._control is None:
                self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with theirs:
                    self._process = subprocess.Popen(
                        [TOP / ".venv/bin/python", "-m", __name__, str(theirs.fileno()), " " * _ROOM],
                        pass_fds=[theirs.fileno()], cwd=TOP, start_new_session=True,
                        env={**os.environ, **self._more, "PYTHONPATH": f"{TOP}:{TOP}/proto"},
                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                    )  # fmt: skip
            socket.send_fds(self._control, [hostname.encode()], [control, errors])

    def close(self) -> None:
        """Ends it; its nodes end too."""
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.wait()
        self._control = self._process = None


def forked() -> Warm:
    """The process as a child of this one, which has room in its arguments and its environment (`_show`) and
    imports for both."""
    import_all()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        try:
            os.setsid()
            os.dup2(theirs.fileno(), 3)
            os.closerange(4, os.sysconf("SC_OPEN_MAX"))
            nothing = os.open(os.devnull, os.O_RDWR)
            for number in (0, 1):
                os.dup2(nothing, number)
            os.close(nothing)
            main(3)
        finally:
            os._exit(1)
    theirs.close()
    return Warm(ours)


def serve(requests: socket.socket) -> None:
    """Makes nodes until the socket is closed."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel forgets the nodes that have ended
    while True:
        hostname, fds, _flags, _address = socket.recv_fds(requests, 1 << 12, 2)
        if not hostname:
            return
        if node_init.patiently(os.fork) == 0:
            try:
                requests.close()
                _make(hostname.decode(), *fds)
            except BaseException:
                os.write(fds[1], traceback.format_exc().encode())
            os._exit(1)
        for fd in fds:
            os.close(fd)


def _make(hostname: str, control: int, errors: int) -> None:
    """The parent of process 1, outside the node; ends after it."""
    os.setsid()
    node_init.libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if node_init.libc.unshare(_NAMESPACES) != 0:
        raise OSError(ctypes.get_errno(), f"unshare: {os.strerror(ctypes.get_errno())}")
    first = node_init.patiently(os.fork)
    if first != 0:
        os.close(control)
        os.waitpid(first, 0)
        os._exit(0)
    node_init.libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.chdir("/")
    os.dup2(errors, 2)
    os.close(errors)
    node_init.run(socket.socket(fileno=control), hostname, known)
    os._exit(0)


def known(message: dict[str, Any], stdin: int) -> Body | None:
    """What to run for a request in a child of this process; None for what has to be executed."""
    argv, environment = message["run"], message["env"]
    if any(name.startswith(("LD_", "PYTHON")) for name in environment):
        driver = argv[1:] == ["-m", _DRIVER] and _DRIVER in sys.modules
        return partial(_driver, argv, environment) if driver else None
    talks = argv[: len(traffic.PROGRAM)] == traffic.PROGRAM
    if talks or argv[0] == COMMAND:
        return partial(_traffic if talks else _command, argv, environment)
    folder, _, _name = argv[0].rpartition("/")
    if (
        len(argv) > 1
        or not environment.get("CNI_COMMAND")
        or not _is_ours(folder)
        or not Path(argv[0]).exists()
    ):
        return None
    if os.path.lexists(Path(environment.get("MESOKIT_ROOT", "") or "/", _SERVICE)):
        return None
    if os.fstat(stdin).st_size > _STDIN_LIMIT:
        return None
    return partial(_plugin, argv, environment)


@cache
def _is_ours(folder: str) -> bool:
    """Whether it is a folder of launchers.py, whose one-shot program runs this checkout."""
    program = Path(folder, "mesokit-cni.d", "mesokit")
    return folder != "" and program.is_file() and str(_ENTRY).encode() in program.read_bytes()


def _command(argv: list[str], environment: dict[str, str]) -> None:
    _dress([f"{TOP}/.venv/bin/python3", *argv], environment)
    sys.argv = list(argv)
    _end(start.main)


def _traffic(argv: list[str], environment: dict[str, str]) -> None:
    _dress(argv, environment)
    sys.argv = argv[len(traffic.PROGRAM) - 1 :]
    _end(traffic.main)


def _plugin(argv: list[str], environment: dict[str, str]) -> None:
    """As the launcher does it where no service listens."""
    seconds, nanoseconds = divmod(time.clock_gettime_ns(time.CLOCK_BOOTTIME), 10**9)
    call = f"{os.getpid()}-{seconds}{nanoseconds:09d}"
    folder, _, name = argv[0].rpartition("/")
    program = [f"{folder}/mesokit-cni.d/mesokit", "--plugin", name]
    _dress([f"{TOP}/.venv/bin/python", *program], {**environment, "MESOKIT_CALL": call})
    sys.argv = program
    _end(_entered)


@cache
def _entry() -> CodeType:
    """The program's file, compiled once for all that are forked: for a quick call that is a tenth."""
    return compile(_ENTRY.read_bytes(), str(_ENTRY), "exec")


def _entered() -> None:
    sys.modules["__main__"] = main = ModuleType("__main__")
    main.__file__ = str(_ENTRY)
    FunctionType(_entry(), vars(main))()


def _driver(argv: list[str], environment: dict[str, str]) -> None:
    _dress(argv, environment)
    crash_shim.count()
    _end(sys.modules[_DRIVER].main)


def _dress(argv: list[str], environment: dict[str, str]) -> None:
    """Arguments, environment and standard streams of a program that was just executed."""
    if not {"LC_ALL", "LC_CTYPE", "LANG"} & environment.keys():
        environment = {**environment, "LC_CTYPE": "C.UTF-8"}  # as the interpreter does it (PEP 538)
    os.environ.clear()
    os.environ.update(environment)
    _show(argv, environment)
    streams = [io.FileIO(number, mode, closefd=False) for number, mode in enumerate("rww")]
    sys.stdin = io.TextIOWrapper(io.BufferedReader(streams[0]), "utf-8", "surrogateescape")
    out, errors = map(io.BufferedWriter, streams[1:])
    sys.stdout = io.TextIOWrapper(out, "utf-8", "surrogateescape", line_buffering=os.isatty(1))
    sys.stderr = io.TextIOWrapper(errors, "utf-8", "backslashreplace", line_buffering=True)


def _show(argv: list[str], environment: dict[str, str]) -> None:
    """Lets /proc show these arguments and this environment, as far as there is room where this process has
    its own, and the name of the script, or of the program where options follow."""
    variables = [f"{name}={value}" for name, value in environment.items()]
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    arguments, after, own, end = map(int, fields[45:49])  # proc(5): arg_start, arg_end, env_start, env_end
    for words, first, room in ((argv, arguments, after - arguments), (variables, own, end - own)):
        content = "".join(f"{word}\0" for word in words).encode()[: room - 1]
        ctypes.memmove(first, content.ljust(room, b"\0"), room)
    name = argv[0] if argv[1].startswith("-") else argv[1]
    node_init.libc.prctl(_PR_SET_NAME, Path(name).name.encode())


def _end(main: Any) -> None:
    """Runs a program's main function, and ends the process as the interpreter would."""
    status: object = 0
    try:
        main()
    except SystemExit as exit_:
        status = exit_.code
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        status = 1
    if status is not None and not isinstance(status, int):
        sys.stderr.write(f"{status}\n")
        status = 1
    vars(threading)["_shutdown"]()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit((status or 0) & 0xFF)


def import_all() -> None:
    """What the command and the plugins import sooner or later, but for commands that bring frameworks and web
    servers along: those are not there in QEMU, and a fork copies the tables of all memory."""
    sys.path.insert(0, str(_ENTRY.parent))
    for package in ("cli", "node", "attach", "steps", "kernel", "store", "dhcp", "policy", "view", "spec"):
        folder = importlib.import_module(f"cni_plugins.{package}")
        for item in pkgutil.iter_modules(folder.__path__, f"cni_plugins.{package}."):
            if not item.ispkg and not _LARGE.fullmatch(item.name):
                importlib.import_module(item.name)
    pyroute.load(*_LAYOUTS)
    _entry()
    for module in (
        *registry.MODULES.values(),
        *plugins.IMPORTED_LATE,
        "cni_plugins.main",
        "packed",
        *([_DRIVER] if crash_shim.loaded() else []),
    ):
        importlib.import_module(module)


def main(number: int) -> None:
    """Serves the socket of that number."""
    import_all()
    node_init.found()  # once for all nodes
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=number) as channel:
        channel.set_inheritable(False)
        serve(channel)


if __name__ == "__main__":
    main(int(sys.argv[1]))
