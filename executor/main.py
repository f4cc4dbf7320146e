"""mesokit-executor: the program.

The order matters. The token leaves the environment first; then the warden is forked, which holds on to all
memory that is in use at that moment, so nothing large may be imported before. At the end the process leaves
without taking its modules down one by one: nothing is left to do, and somebody waits for the exit.
"""

import gc
import os
import sys
from pathlib import Path
from typing import NoReturn

from executor.config.token import TOKEN_VARIABLE, take_token
from executor.process.warden import spawn

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
    token = take_token(os.environ)
    warden = spawn()
    # What is imported stays, so there is no garbage to look for until all is.
    gc.disable()
    from executor.config.settings import ConfigError, load  # noqa: PLC0415
    from executor.start import run  # noqa: PLC0415 (see above)

    environ = {**os.environ, TOKEN_VARIABLE: token or ""}
    try:
        return run(load(environ, arguments, Path.cwd()), warden)
    except ConfigError as error:
        for problem in error.problems:
            sys.stderr.write(f"mesokit-executor: {problem}\n")
        return MISCONFIGURED


def _leave(status: int) -> NoReturn:
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
