"""The one-shot program: one process, one call. It goes by the name of the plugin that it is started as.

`handle` is the whole toolkit as one function; the node service calls the same one.
"""

import os
import sys
import time

from cni_plugins.plugins.registry import Handlers
from cni_plugins.spec import dispatch
from cni_plugins.spec.call import Reply, Request
from cni_plugins.spec.roots import roots_from


def handle(request: Request) -> Reply:
    """Serve one request with the plugins of this toolkit. Never raises; safe from several threads at once."""
    return dispatch.handle(request, Handlers())


def main() -> int:
    """Serve the call that this process was started for; the exit status."""
    os.umask(0o022)
    name = os.environ.get("MESOKIT_PLUGIN") or sys.argv[0].rpartition("/")[2]
    asked = os.environ.get("CNI_COMMAND")
    if name == "dhcp" and asked is None and sys.argv[1:2] == ["daemon"]:
        # A process that runs on, as runtimes start the reference plugins' daemon.
        from cni_plugins.dhcp import program  # noqa: PLC0415

        return program.main(sys.argv[2:])
    stdin = b"" if asked in {None, "VERSION"} else sys.stdin.buffer.read()
    request = Request(name, dict(os.environ), stdin)
    began = time.monotonic()
    reply = handle(request)
    if reply.status:
        # Imported when a call failed, which hardly any does.
        from cni_plugins.store import failures  # noqa: PLC0415

        failure = failures.failure_of(request, reply, time.monotonic() - began, "one-shot")
        failures.note(roots_from(os.environ).run, failure)
    sys.stderr.buffer.write(reply.stderr)
    sys.stderr.buffer.flush()
    sys.stdout.buffer.write(reply.stdout)
    sys.stdout.buffer.flush()
    for work in (*reply.later, *reply.idle):
        work()
    return reply.status


if __name__ == "__main__":
    sys.exit(main())
