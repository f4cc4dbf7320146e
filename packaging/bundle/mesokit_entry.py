"""The bundled program `mesokit`: the command, and every plugin (`mesokit --plugin NAME`, from the launcher).

It is the first of our code that runs, for a plugin call without service too: it imports what it needs and
no more.
"""

import _signal

# The compiled half of `signal`, which imports nothing: an interrupt may come before the next line.
_signal.signal(_signal.SIGINT, _signal.SIG_DFL)

import _thread  # noqa: E402
import atexit  # noqa: E402
import gc  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402

import packed  # noqa: E402


def clean_environment() -> None:
    """Take what PyInstaller and the front put into the environment out again, before anybody inherits it."""
    for name in [name for name in os.environ if name.startswith(("_PYI_", "_MEI"))]:
        del os.environ[name]


def main() -> int:
    clean_environment()
    packed.install()
    if sys.argv[1:2] == ["--plugin"]:
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)  # what was begun is taken back
        # A process of one call needs no collector, and no tidying up at its end: a third of its time.
        gc.disable()
        from cni_plugins.main import main as plugin  # noqa: PLC0415

        sys.argv = sys.argv[2:]
        os._exit(plugin())
    if sys.argv[1:2] in (["--install-release"], ["--uninstall-release"]):
        # The release archive's own `install` and `uninstall`, on a host that may have no Python.
        import install  # noqa: PLC0415
        import uninstall  # noqa: PLC0415

        status: int = (install if sys.argv[1] == "--install-release" else uninstall).main(sys.argv[2:])
        return status
    from cni_plugins.cli.start import main as command  # noqa: PLC0415

    try:
        command()
    except SystemExit as ended:
        # What a command has to do at its end it has done, and has written what it had to write. Taking every
        # object apart is left to the kernel, unless somebody asked to be called, or runs still.
        if isinstance(ended.code, int) and not _thread._count() and not atexit._ncallbacks():
            os._exit(ended.code)
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
