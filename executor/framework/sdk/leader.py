"""Who leads the masters, by ZooKeeper: the child `json.info_NUMBER` with the lowest number (zookeeper.cpp
`fetched`).

Other nodes live beside them (the replicated log). A node's data never changes, so only the list is watched,
or that there is one: the masters make it, who may come later than we, and ZooKeeper too. When our own session
to ZooKeeper suffers, nothing is said: a stream to a healthy master goes on. After it, all is read anew.
"""

import json
import logging
import re
import threading
from collections.abc import Callable
from typing import Any

from kazoo.client import KazooClient, KazooState
from kazoo.exceptions import ConnectionClosedError, KazooException, NoAuthError, NoNodeError
from kazoo.handlers.threading import KazooTimeoutError

log = logging.getLogger(__name__)

_NODE = re.compile(r"json\.info_(\d{10})$")
_RETRY = 5.0
"""Seconds until what ZooKeeper refused is asked for again."""

_URL = re.compile(r"zk://(?:(?P<auth>[^@/]+)@)?(?P<hosts>[^/@]+)(?P<path>/[^?#]*)$")


class LeaderUrlError(ValueError):
    """A ZooKeeper URL that is none."""


def address_of(data: bytes, *, by_name: bool) -> str:
    """`host:port` of a MasterInfo in JSON, by its host name (TLS) or its address; "" if it says neither."""
    try:
        info = json.loads(data)
        address = info.get("address", {})
        host = address.get("hostname") if by_name else address.get("ip")
        port = int(address.get("port") or info.get("port") or 0)
    except (ValueError, AttributeError, TypeError, OverflowError, RecursionError):
        return ""
    if not isinstance(host, str) or not host or not 0 < port < 65536:
        return ""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def lowest(children: list[str]) -> str:
    """The leading master's node, "" if there is none."""
    found = [(int(match[1]), name) for name in children if (match := _NODE.match(name))]
    return min(found)[1] if found else ""


class Detector:
    """Watches `zk://[user:password@]host:port,…/path` and reports each leader, "" for none, from a thread of
    kazoo.
    """

    def __init__(self, url: str, report: Callable[[str], None], *, by_name: bool = False) -> None:
        match = _URL.match(url)
        if match is None:
            raise LeaderUrlError(f"{url.rpartition('@')[2]!r} is not zk://host:port,…/path")
        auth = [("digest", match["auth"])] if match["auth"] else None
        self._client = KazooClient(hosts=match["hosts"], auth_data=auth)
        self._hosts, self._path = match["hosts"], match["path"]
        self._report = report
        self._by_name = by_name
        self._last: str | None = None
        self._looking = threading.Lock()
        self._again: threading.Timer | None = None

    def start(self) -> None:
        """Begin. Waits for nothing: a ZooKeeper that is out of reach is tried until it is there."""
        self._client.add_listener(self._connection)
        self._client.start_async()
        self._later(self._say_unreachable)

    def stop(self) -> None:
        """End the session."""
        if self._again is not None:
            self._again.cancel()
        self._client.stop()
        self._client.close()

    def _connection(self, state: str) -> None:
        # Also after a short loss: what was asked meanwhile has no answer, and no watch.
        if state == KazooState.CONNECTED:
            self._client.handler.spawn(self._look)

    def _later(self, do: Callable[[], None]) -> None:
        self._again = threading.Timer(_RETRY, do)
        self._again.daemon = True
        self._again.start()

    def _say_unreachable(self) -> None:
        if not self._client.connected:
            log.warning("ZooKeeper at %s, which says who leads, does not answer", self._hosts)

    def _look(self, _event: Any = None) -> None:
        """Read who leads, and be called again when that changes."""
        with self._looking:
            try:
                address = self._leader()
            except ConnectionClosedError:
                return  # stopped
            except NoAuthError:
                log.warning(
                    "ZooKeeper does not let us read %s: say who we are, zk://user:password@…", self._path
                )
                self._later(self._look)
                return
            except (KazooException, KazooTimeoutError) as error:
                why = str(error) or type(error).__name__
                log.warning("who leads cannot be read from ZooKeeper at %s: %s", self._hosts, why)
                self._later(self._look)
                return
            if address != self._last:
                self._last = address
                self._report(address)

    def _leader(self) -> str:
        client = self._client
        while True:
            try:
                node = lowest(client.retry(client.get_children, self._path, self._look))
            except NoNodeError:
                if client.retry(client.exists, self._path, self._look) is None:
                    return ""
                continue
            if not node:
                return ""
            try:
                data, _ = client.retry(client.get, f"{self._path.rstrip('/')}/{node}")
            except NoNodeError:
                continue  # it went meanwhile
            return address_of(data, by_name=self._by_name)
