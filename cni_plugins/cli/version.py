"""Which version this is."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

_BEGINNING, _END = "mesokit-", ".dist-info"


def version() -> str:
    """Of the installed distribution. Its directory's name tells it (PyPA, "Recording installed projects");
    `importlib.metadata`, which asks for e-mail's modules first, is for where none is found.
    """
    for folder in sys.path:
        with suppress(OSError):
            for name in os.listdir(folder or "."):
                if name.startswith(_BEGINNING) and name.endswith(_END):
                    return name[len(_BEGINNING) : -len(_END)]
    from importlib import metadata

    return metadata.version("mesokit")
