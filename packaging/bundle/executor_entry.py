"""The bundled program `mesokit-executor`."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # prctl(2)


def die_with_bootloader() -> None:
    """In the one-file form the process that the agent knows is PyInstaller's, and we are its child: killed
    with -9, it must take us along.
    """
    if os.path.basename(getattr(sys, "_MEIPASS", "")).startswith("_MEI"):  # noqa: PTH119 - pathlib costs 5 ms
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> int:
    die_with_bootloader()
    from executor.main import main as executor  # noqa: PLC0415

    executor()
    return 0


if __name__ == "__main__":
    sys.exit(main())
