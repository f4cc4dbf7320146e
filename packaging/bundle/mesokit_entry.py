"""The bundled program `mesokit`: the command, and every plugin (`mesokit --plugin NAME`, from the launcher).

It is the first of our code that runs, for a plugin call without service too: it imports what it needs and
no more.
"""

import gc
import os
import sys

import packed


def clean_environment() -> None:
    """Take what PyInstaller and the front put into the environment out again, before anybody inherits it."""
    for name in [name for name in os.environ if name.startswith(("_PYI_", "_MEI"))]:
        del os.environ[name]


def main() -> int:
    clean_environment()
    packed.install()
    if sys.argv[1:2] == ["--plugin"]:
        # A process of one call needs no collector, and no tidying up at its end: a third of its time.
        gc.disable()
        from cni_plugins.main import main as plugin  # noqa: PLC0415

        sys.argv = sys.argv[2:]
        os._exit(plugin())
    from cni_plugins.cli.start import main as command  # noqa: PLC0415

    command()
    return 0


if __name__ == "__main__":
    sys.exit(main())
