"""The bundled program `mesokit`: the command, and every plugin (`mesokit --plugin NAME`, from the launcher).

It is the first of our code that runs, for a plugin call without service too: it imports what it needs and
no more.
"""

import _signal

# The compiled half of `signal`, which imports nothing: an interrupt may come before the next line.
_signal.signal(_signal.SIGINT, _signal.SIG_DFL)

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

    command(alone=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
