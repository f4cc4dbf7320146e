"""Where `mesokit` starts, and the one place where whatever goes wrong becomes a sentence and an exit status.

| what | said | status |
|---|---|---|
| wrong input, an unknown option | the sentence of whoever found it | 2, or 1 |
| nobody reads the output (`mesokit … \\| head`) | nothing | 141 |
| the output cannot be written (a full disk) | which, and why | 1 |
| a file, directory or socket that cannot be used | its name, and why | 1 |
| what the kernel or the state refuses | its sentence, and that root may | 1 |
| Ctrl-C, before a command has taken it over | nothing | ended by SIGINT, as a shell expects |
| a mistake of ours | that it is one; MESOKIT_TRACEBACK=1 shows where | 70 |

It imports next to nothing before it has seen to standard streams and signals.
"""

import _signal
import _thread
import atexit
import errno
import gc
import os
import sys


def main(*, alone: bool = False) -> None:
    """The program `mesokit`; does not return. `alone`: nothing comes after it in this process."""
    # Until a command asks for it, an interrupt ends the process at once: nothing has been begun.
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    gc.disable()  # until the command is imported (main.py): there is nothing to collect
    _stand_in_for_closed_streams()
    try:
        status = _command()
    except SystemExit as exit_:
        status = _status(exit_.code)
    except OSError as error:
        status = _unusable(error)
    except Exception as error:
        if isinstance(error.__cause__, BrokenPipeError):
            status = _unusable(error.__cause__)
        else:
            status = _mistake(error)
    status = _flushed(status)
    # What a command has to do at its end it has done, and has written what it had to write. Taking every
    # object apart is left to the kernel, unless somebody asked to be called, or runs still.
    if alone and not _thread._count() and not atexit._ncallbacks():
        os._exit(status)
    sys.exit(status)


def _command() -> int:
    """The status of the command. What the kernel or the state refused is told here, all else is raised."""
    from cni_plugins.cli import main as commands  # noqa: PLC0415 - after the streams and signals

    try:
        return _status(commands.main.main(prog_name="mesokit"))
    except Exception as error:
        refusal = commands.refusal(error)
        if refusal is None or isinstance(error.__cause__, BrokenPipeError):
            raise
        _say(refusal)
        return 1


def _status(code: object) -> int:
    return code if isinstance(code, int) else 0 if code is None else 1


def _stand_in_for_closed_streams() -> None:
    """Open /dev/null for standard streams that are closed, before a socket gets their number."""
    for number, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # the lowest free number
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - for the rest of the process
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def _flushed(status: int) -> int:
    """Write out what is left; what Python would only try when nobody hears any more how it went."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        return _unusable(error, "standard output") if isinstance(error, OSError) else status
    return status


def _unusable(error: OSError, what: str = "") -> int:
    if isinstance(error, BrokenPipeError):
        _forget_output()
        return 128 + int(_signal.SIGPIPE)
    named = what or (os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else "")
    if not named and error.errno == errno.ENOSPC:
        named = "standard output"
    text = f"{named}: {error.strerror or error}" if named else str(error.strerror or error)
    _say(f"{text}: run me as root" if isinstance(error, PermissionError) and os.geteuid() else text)
    _forget_output()
    return 1


def _mistake(error: Exception) -> int:
    if os.environ.get("MESOKIT_TRACEBACK"):
        import traceback  # noqa: PLC0415 - for whoever looks for the mistake

        traceback.print_exception(error)
    _say(
        f"this is a mistake in mesokit: {type(error).__name__}: {error}; "
        "MESOKIT_TRACEBACK=1 shows where, for a report"
    )
    return 70  # EX_SOFTWARE of sysexits.h


def _say(text: str) -> None:
    try:
        sys.stderr.write(f"Error: {' '.join(text.split())}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        pass


def _forget_output() -> None:
    """Let what is still buffered go nowhere, so that the interpreter's end has nothing to complain of."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
    except OSError:
        pass


if __name__ == "__main__":
    main()
