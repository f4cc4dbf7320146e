"""Who leads the masters, by ZooKeeper: the child `json.info_NUMBER` with the lowest number (zookeeper.cpp
`fetched`).

Other nodes live beside them (the replicated log). A node's data never changes, so only the list is watched.
When our own session to ZooKeeper suffers, nothing is said: a stream to a healthy master goes on.
"""

import json
import logging
import re
from collections.abc import Callable
from typing import Any

from kazoo.client import KazooClient
from kazoo.exceptions import KazooException, NoNodeError
from kazoo.recipe.watchers import ChildrenWatch

log = logging.getLogger(__name__)

_NODE = re.compile(r"json\.info_(\d{10})$")
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
    except (ValueError, AttributeError, TypeError):
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
        self._path = match["path"]
        self._report = report
        self._by_name = by_name
        self._last: str | None = None

    def start(self, seconds: float = 15.0) -> None:
        """Connect and watch. Raises OSError or kazoo's timeout."""
        self._client.start(seconds)
        ChildrenWatch(self._client, self._path, self._changed)

    def stop(self) -> None:
        """End the session."""
        self._client.stop()
        self._client.close()

    def _changed(self, children: list[str] | None) -> Any:
        node = lowest(children or [])
        address = ""
        if node:
            try:
                data, _ = self._client.get(f"{self._path}/{node}")
                address = address_of(data, by_name=self._by_name)
            except NoNodeError:
                return  # it went meanwhile; the watch fires again
            except KazooException as error:
                log.warning("the leading master's node cannot be read: %s", error)
                return
        if address != self._last:
            self._last = address
            self._report(address)
