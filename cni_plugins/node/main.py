"""The process of the node service: everything that is needed for calls is imported, then it listens.

Memory: what was imported is frozen out of the garbage collector's sight, the collector runs rarely (calls
leave hardly any cycles), and the C library keeps few arenas for its many threads; so it stays flat over any
number of calls.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from types import FrameType

from cni_plugins.dhcp.store import Store, default_socket
from cni_plugins.kernel.nft import changes
from cni_plugins.node import lease_process, listen, worker
from cni_plugins.node.ask import socket_path
from cni_plugins.node.metrics import Metrics
from cni_plugins.node.policy_process import PolicyProcess
from cni_plugins.node.policy_watch import PolicyWatch
from cni_plugins.node.rules_watch import RulesWatch
from cni_plugins.node.service import Handler
from cni_plugins.node.supervisor import Supervisor, default_count, log
from cni_plugins.node.wear import REST_SECONDS, Wear
from cni_plugins.plugins.registry import MODULES
from cni_plugins.spec.roots import roots_from
from cni_plugins.steps import policy_state
from cni_plugins.store import network_files, sockets
from cni_plugins.store.failures import Failure, note

_M_ARENA_MAX = -8  # mallopt(3)
_STACK_BYTES = 1 << 20
_NEVER_OFTEN = (20_000, 20, 50)


@dataclass(frozen=True, slots=True)
class Options:
    """`threads` bounds the calls in work at once, of all `workers` together; `metrics_port` is a TCP port of
    the loopback address, 0 for none. A worker that has not ended `end_seconds` after the service was told to
    is killed: the longest call has 60 s, and systemd waits 90 s. After `rest_seconds` without a call workers
    become small again (wear.py).
    """

    threads: int = 64
    workers: int = 0
    metrics_port: int = 0
    verbose: bool = False
    end_seconds: float = 75.0
    watching: str = "off"
    rest_seconds: float = REST_SECONDS


def serve(
    options: Options,
    version: str,
    prepare: Callable[[], Handler],
    plugins: Collection[str] = MODULES,
    *,
    reload: Callable[[], None] | None = None,
    policies: Callable[[], int] | None = None,
) -> int:
    """Runs the service until SIGTERM, SIGINT or a successor ends it; returns the exit status. `reload` makes
    rules again that somebody flushed; `policies` applies policy files on and on (policy_process.py).
    """
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO if options.verbose else logging.WARNING,
        format="mesokit-node: %(levelname)s %(message)s",
    )
    os.umask(0o022)
    os.chdir("/")
    threading.stack_size(_STACK_BYTES)
    _few_arenas()
    handle = prepare()
    settle_collector()
    path = socket_path()
    try:
        listening, origin = listen.obtain(path, os.environ)
    except listen.ListenError as error:
        log.error("%s", error)
        return 1
    identity = None if origin is listen.Origin.SYSTEMD else sockets.identity(path)
    count = options.workers or default_count()
    roots = roots_from(os.environ)

    def failed(failure: Failure) -> None:
        log.warning("%s", failure)
        note(roots.run, failure)

    work = partial(
        worker.run, listening, worker.Job(handle, max(1, options.threads // count), plugins, failed)
    )
    supervisor = Supervisor(
        listening,
        origin,
        Metrics(version, options.watching),
        work,
        count,
        end_seconds=options.end_seconds,
        wear=Wear(options.rest_seconds),
    )

    heard = changes.watch() if reload is not None else None
    if heard is not None:
        supervisor.rules, supervisor.reload = RulesWatch(heard), reload
        if options.watching != "off":
            supervisor.networks = PolicyWatch(roots.relocate(network_files.DIRECTORY), below=True)
    if policies is not None:
        supervisor.policies = PolicyProcess(
            roots.run / "policy" / "state.json",
            policy_state.endpoints_directory(roots),
            policy_state.directory(roots),
            policies,
        )

    supervisor.leases = lease_process.prepared(Store(roots), default_socket(roots))

    def ended(_number: int, _frame: FrameType | None) -> None:
        supervisor.stop()

    signal.signal(signal.SIGTERM, ended)
    signal.signal(signal.SIGINT, ended)
    with contextlib.ExitStack() as opened:
        opened.enter_context(listening)
        if options.metrics_port:
            try:
                supervisor.scrapers = socket.create_server(("127.0.0.1", options.metrics_port))
                supervisor.scrapers.setblocking(False)
            except OSError as error:
                log.error("cannot serve metrics on 127.0.0.1:%d: %s", options.metrics_port, error)
                return 1
            opened.enter_context(supervisor.scrapers)
        supervisor.start()
        log.info("listening on %s (%s)", path, origin.value)
        _notify("READY=1")
        supervisor.until_stopped()
        _notify("STOPPING=1")
        if identity is not None and not supervisor.handed_over:
            sockets.remove(path, identity)
    # The socket is closed here, and by each worker: a launcher that waits in its queue does the call itself.
    # What was taken is finished.
    supervisor.until_idle()
    return 0


def settle_collector() -> None:
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_NEVER_OFTEN)


def _few_arenas() -> None:
    with contextlib.suppress(OSError, AttributeError):  # another C library: its own arrangements
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


def _notify(state: str) -> None:
    """sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifying, contextlib.suppress(OSError):
        notifying.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
