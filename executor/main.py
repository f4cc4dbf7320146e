"""mesokit-executor: the program.

The order matters. The token leaves the environment first, and memory; then the warden is forked, which holds
on to all memory that is in use at that moment, so nothing large may be imported before. At the end the
process leaves without taking its modules down one by one: nothing is left to do, and somebody waits for the
exit.
"""

import gc
import os
import sys
from io import FileIO

from executor.config.token import TOKEN_VARIABLE, set_aside, take_back, take_token
from executor.process.prctl import hide_memory
from executor.process.warden import Warden, spawn

TYPE_CHECKING = False  # as type checkers see it: the warden does without `typing`
if TYPE_CHECKING:
    from typing import NoReturn

MISCONFIGURED = 2
"""The exit status for settings that cannot be used."""


def main() -> None:
    """Run the executor, and exit with its status."""
    arguments = sys.argv[1:]
    if arguments and arguments[0] in ("--help", "-h", "--version"):
        _answer(arguments[0])
    else:
        _leave(_run(arguments))


def _run(arguments: list[str]) -> int:
    warden, token = _guarded()
    # What is imported stays, so there is no garbage to look for until all is.
    gc.disable()
    from pathlib import Path  # noqa: PLC0415 (see above)

    from executor.bootstrap import run  # noqa: PLC0415 (see above)
    from executor.config.settings import ConfigError, load  # noqa: PLC0415

    environ = {**os.environ, TOKEN_VARIABLE: token}
    try:
        return run(load(environ, arguments, Path.cwd()), warden)
    except ConfigError as error:
        for problem in error.problems:
            sys.stderr.write(f"mesokit-executor: {problem}\n")
        return MISCONFIGURED


def _guarded() -> tuple[Warden, str]:
    """The warden, and the token, which is empty where there is none: it was nowhere in memory when the warden
    was forked.
    """
    _forget_what_python_set()
    token = take_token(os.environ)
    # In the one-file form our parent is the boot loader, which was started with the same environment.
    folder = getattr(sys, "_MEIPASS", "").rpartition("/")[2]
    others = [os.getppid()] if folder.startswith("_MEI") else []
    if not token:
        hide_memory()
        return spawn(*others), ""
    held = set_aside(token, *others)
    del token
    hide_memory()
    warden = spawn(*others)
    return warden, take_back(held)


def _forget_what_python_set() -> None:
    """Where no locale is set, Python sets LC_CTYPE for itself (PEP 538), and for all that it starts."""
    with FileIO("/proc/self/environ") as given:
        start = given.readall().split(b"\0")
    if not any(entry.startswith(b"LC_CTYPE=") for entry in start):
        os.environ.pop("LC_CTYPE", None)


def _leave(status: int) -> "NoReturn":
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


def _answer(option: str) -> None:
    if option == "--version":
        from importlib.metadata import version  # noqa: PLC0415

        sys.stdout.write(f"mesokit-executor {version('mesokit')}\n")
        return
    from executor.config.settings import usage  # noqa: PLC0415

    sys.stdout.write(usage() + "\n")


if __name__ == "__main__":
    main()
