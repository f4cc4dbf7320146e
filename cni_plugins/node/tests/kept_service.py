"""A service whose plugins are made for tests: `python -m … WORKERS VERSION SECONDS REST`."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from cni_plugins.node.main import Options, serve
from cni_plugins.spec.call import Reply, Request

_PLUGINS = ("good", "bad", "wait", "die", "grow")
_grown: list[bytes] = []


def handle(request: Request) -> Reply:
    """The number of the process; or, by `plugin`: an error, a wait for a file, an end."""
    match request.plugin:
        case "bad":
            return Reply(b'{"cniVersion":"1.0.0","code":7,"msg":"no"}', b"", 1)
        case "wait":
            while not Path(request.env["FILE"]).exists():
                time.sleep(0.01)
        case "grow":
            _grown.append(os.urandom(1 << 20) * 40)
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
    return Reply(str(os.getpid()).encode(), b"", 0)


if __name__ == "__main__":
    sys.exit(
        serve(
            Options(
                workers=int(sys.argv[1]), end_seconds=float(sys.argv[3]), rest_seconds=float(sys.argv[4])
            ),
            sys.argv[2],
            lambda: handle,
            _PLUGINS,
        )
    )
