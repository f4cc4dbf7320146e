"""mesokit-executor: the program.

The order matters. The token leaves the environment first; then the warden is forked, which holds on to all
memory that is in use at that moment, so nothing large may be imported before.
"""

import os
import sys
from pathlib import Path

from executor.config.token import TOKEN_VARIABLE, take_token
from executor.supervisor.warden import spawn

MISCONFIGURED = 2
"""The exit status for settings that cannot be used."""


def main() -> None:
    """Run the executor, and exit with its status."""
    arguments = sys.argv[1:]
    if arguments and arguments[0] in ("--help", "-h", "--version"):
        _answer(arguments[0])
        return
    token = take_token(os.environ)
    warden = spawn()
    from executor.app.start import run  # noqa: PLC0415 (see above)
    from executor.config.settings import ConfigError, load  # noqa: PLC0415

    environ = {**os.environ, TOKEN_VARIABLE: token or ""}
    try:
        sys.exit(run(load(environ, arguments, Path.cwd()), warden))
    except ConfigError as error:
        for problem in error.problems:
            sys.stderr.write(f"mesokit-executor: {problem}\n")
        sys.exit(MISCONFIGURED)


def _answer(option: str) -> None:
    if option == "--version":
        from importlib.metadata import version  # noqa: PLC0415

        sys.stdout.write(f"mesokit-executor {version('mesokit')}\n")
        return
    from executor.config.settings import usage  # noqa: PLC0415

    sys.stdout.write(usage() + "\n")


if __name__ == "__main__":
    main()
