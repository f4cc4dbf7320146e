"""The bundled program `mesokit-executor`."""

import gc
import os
import sys

import packed

_PR_SET_PDEATHSIG = 1  # prctl(2)


def die_with_bootloader() -> None:
    """In the one-file form the process that the agent knows is PyInstaller's, and we are its child: killed
    with -9, it must take us along.
    """
    if os.path.basename(getattr(sys, "_MEIPASS", "")).startswith("_MEI"):  # noqa: PTH119 - pathlib costs 5 ms
        import ctypes  # noqa: PLC0415 - of no use to the other form
        import signal  # noqa: PLC0415

        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> int:
    packed.install()
    die_with_bootloader()
    gc.disable()  # what is imported stays: there is nothing to collect
    from executor.main import main as executor  # noqa: PLC0415

    gc.enable()
    executor()
    return 0


if __name__ == "__main__":
    sys.exit(main())
