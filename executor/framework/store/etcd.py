"""The store in etcd 3.4 and later, through its JSON gateway (HTTP, no gRPC library).

Leading is to own a key under `PREFIX/leader/`, of all the one made first, bound to a lease that is kept alive
at a third of its time. The fence is the revision that key was made at: every transaction compares it, and a
key made again has another. By our own clock the lease is over before the server's is, so an instance that was
stopped knows it.

Of the gateway: 64-bit integers are strings, zero and false are left out (`succeeded` absent: a condition
failed), keys and values are base64, a `put` without its lease would take the key's lease away, and a
keep-alive of a lease that is gone answers 200 without TTL.
"""

import asyncio
import base64
import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from executor.framework.sdk.connection import Connection, dial
from executor.framework.sdk.tls import Tls
from executor.framework.store.interface import (
    ConflictError,
    Delete,
    Entry,
    FencedError,
    Leadership,
    Put,
    StoreError,
    Txn,
)

log = logging.getLogger(__name__)

_ANSWER_TIMEOUT = 5.0


@dataclass(slots=True)
class _Lease:
    """Leadership by a key under a lease."""

    store: "EtcdStore"
    key: str
    lease: str
    created: int
    seconds: float
    renewed: float
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None

    @property
    def token(self) -> int:
        return self.created

    @property
    def certain(self) -> bool:
        # A third of the lease is left for what is under way: whoever asks now may write a little later.
        return not self.lost.is_set() and _now() < self.renewed + self.seconds * 2 / 3

    async def resign(self) -> None:
        self.lost.set()
        if self.task is not None:
            self.task.cancel()
        with suppress(StoreError):
            await self.store.post("/v3/lease/revoke", {"ID": self.lease})

    async def keep(self) -> None:
        """Renew until the lease is gone, by the server's word or by our clock."""
        while not self.lost.is_set():
            await asyncio.sleep(self.seconds / 3)
            asked = _now()
            try:
                answer = await self.store.post("/v3/lease/keepalive", {"ID": self.lease})
            except StoreError as error:
                if _now() >= self.renewed + self.seconds:
                    self._lose(f"the store was out of reach for {self.seconds:g} s: {error}")
                continue
            if not int(answer.get("result", {}).get("TTL", "0")):
                self._lose("its lease has ended")
            elif asked >= self.renewed + self.seconds:
                self._lose("this instance stood still for longer than its lease")
            else:
                self.renewed = asked

    def _lose(self, why: str) -> None:
        log.error("this instance leads no more: %s", why)
        self.lost.set()


class EtcdStore:
    """A `Store`. `endpoints` are `host:port`, tried in turn; `lease` in seconds."""

    def __init__(
        self,
        endpoints: Sequence[str],
        prefix: str = "/mesokit",
        lease: float = 10.0,
        tls: Tls | None = None,
    ) -> None:
        self._endpoints = list(endpoints)
        self._prefix = prefix.rstrip("/")
        self._lease_seconds = max(lease, 2.0)
        self._tls = tls
        self._idle: list[Connection] = []

    async def get(self, key: str) -> Entry | None:
        answer = await self.post("/v3/kv/range", {"key": _b64(self._key(key))})
        found = [self._entry(item) for item in answer.get("kvs", ())]
        return found[0] if found else None

    async def entries(self, prefix: str) -> Sequence[Entry]:
        found: list[Entry] = []
        start, end = self._key(prefix), _after(self._key(prefix))
        while True:
            answer = await self.post(
                "/v3/kv/range", {"key": _b64(start), "range_end": _b64(end), "limit": "500"}
            )
            found += [self._entry(item) for item in answer.get("kvs", ())]
            if not answer.get("more"):
                return found
            start = base64.b64decode(answer["kvs"][-1]["key"]) + b"\0"

    async def commit(self, txn: Txn, fence: Leadership) -> None:
        if fence.lost.is_set():
            raise FencedError("this instance leads no more")
        assert isinstance(fence, _Lease)
        compare: list[dict[str, str]] = [
            {"key": _b64(fence.key.encode()), "target": "CREATE", "createRevision": str(fence.created)}
        ]
        compare += [
            {"key": _b64(self._key(item.key)), "target": "MOD", "modRevision": str(item.revision)}
            for item in txn.expects
        ]
        success = [
            {"requestPut": {"key": _b64(self._key(write.key)), "value": _b64(write.value)}}
            if isinstance(write, Put)
            else {"requestDeleteRange": {"key": _b64(self._key(write.key))}}
            for write in txn.writes
        ]
        failure = [{"requestRange": {"key": _b64(fence.key.encode())}}]
        answer = await self.post("/v3/kv/txn", {"compare": compare, "success": success, "failure": failure})
        if answer.get("succeeded"):
            return
        leader = answer["responses"][0].get("response_range", answer["responses"][0].get("responseRange", {}))
        created = [int(item["create_revision"]) for item in leader.get("kvs", ())]
        if created != [fence.created]:
            fence.lost.set()
            raise FencedError("another instance leads")
        raise ConflictError(
            f"one of {', '.join(item.key for item in txn.expects)} was written by somebody else"
        )

    async def campaign(self, advertised: str) -> Leadership:
        while True:
            asked = _now()
            answer = await self.post("/v3/lease/grant", {"TTL": str(int(self._lease_seconds)), "ID": "0"})
            lease = answer["ID"]
            seconds = float(answer["TTL"])
            key = f"{self._prefix}/leader/{int(lease):016x}"
            put = {"key": _b64(key.encode()), "value": _b64(advertised.encode()), "lease": lease}
            answer = await self.post("/v3/kv/put", put)
            mine = _Lease(self, key, lease, int(answer["header"]["revision"]), seconds, asked)
            mine.task = asyncio.create_task(mine.keep())
            try:
                if await self._first(mine):
                    return mine
            except BaseException:
                await mine.resign()
                raise

    async def _first(self, mine: _Lease) -> bool:
        """Wait until no older candidate is there; False if our own key went meanwhile."""
        while not mine.lost.is_set():
            there = await self._candidates()
            if mine.key not in [key for key, _, _ in there]:
                await mine.resign()
                return False
            if there[0][0] == mine.key:
                return mine.certain
            await asyncio.sleep(min(self._lease_seconds / 10, 0.5))
        return False

    async def _candidates(self) -> list[tuple[str, int, str]]:
        start = f"{self._prefix}/leader/".encode()
        answer = await self.post("/v3/kv/range", {"key": _b64(start), "range_end": _b64(_after(start))})
        found = [
            (
                base64.b64decode(item["key"]).decode(),
                int(item["create_revision"]),
                base64.b64decode(item.get("value", "")).decode(),
            )
            for item in answer.get("kvs", ())
        ]
        return sorted(found, key=lambda item: item[1])

    async def leader(self) -> str:
        there = await self._candidates()
        return there[0][2] if there else ""

    async def close(self) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    # ---- the gateway

    async def post(self, path: str, document: dict[str, Any]) -> dict[str, Any]:
        """One call of the gateway, at the first endpoint that answers. Raises StoreError.

        A transaction that was sent and not answered is not sent again: nobody knows whether it was done.
        """
        body = json.dumps(document).encode()
        problem = "no endpoint is known"
        for _ in range(len(self._endpoints)):
            endpoint = self._endpoints[0]
            connection: Connection | None = None
            try:
                async with asyncio.timeout(_ANSWER_TIMEOUT):
                    connection = self._take() or await dial(endpoint, self._tls, _ANSWER_TIMEOUT)
                    head = await connection.request(
                        "POST", path, [("Host", endpoint), ("Content-Type", "application/json")], body
                    )
                    text = await connection.body()
            except (OSError, TimeoutError) as error:
                problem = f"{endpoint}: {error or type(error).__name__}"
                self._endpoints.append(self._endpoints.pop(0))
                sent = connection is not None and connection.sent
                if connection is not None:
                    connection.close()
                await self.close()
                if sent and path == "/v3/kv/txn":
                    break
                continue
            if connection.reusable:
                self._idle.append(connection)
            else:
                connection.close()
            if head.status != 200:
                raise StoreError(
                    f"{endpoint} answered {head.status}: {text[:300].decode('utf-8', 'replace')}"
                )
            found: dict[str, Any] = json.loads(text)
            return found
        raise StoreError(f"etcd does not answer: {problem}")

    def _take(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
            connection.close()
        return None

    def _key(self, key: str) -> bytes:
        return f"{self._prefix}/data/{key}".encode()

    def _entry(self, item: dict[str, Any]) -> Entry:
        key = base64.b64decode(item["key"]).decode().removeprefix(f"{self._prefix}/data/")
        return Entry(key, base64.b64decode(item.get("value", "")), int(item["mod_revision"]))


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _after(prefix: bytes) -> bytes:
    """The first key that does not begin with `prefix`, whose last byte is below 255 (text)."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def _now() -> float:
    return asyncio.get_running_loop().time()


__all__ = ["Delete", "EtcdStore"]
