"""The store of a framework with one instance: a SQLite file (WAL, every commit synced).

One thread writes. Transactions that wait while it syncs are committed together with the next sync: a disk
gives 100 to 200 syncs a second, and ten thousand rows between two of them cost nothing. Each is a savepoint
of its own, so that one whose condition fails takes nobody with it. The file belongs to one instance at a time
(a lock on it, held by the open descriptor: it ends with the process); its epoch counts the instances, and is
the fence.
"""

import asyncio
import fcntl
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from executor.framework.store.interface import (
    ConflictError,
    Entry,
    FencedError,
    Leadership,
    Put,
    StoreError,
    Txn,
)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL)
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS state (one INTEGER PRIMARY KEY CHECK (one = 1), epoch INTEGER NOT NULL,
    revision INTEGER NOT NULL);
INSERT OR IGNORE INTO state VALUES (1, 0, 0);
"""

_MOST_TOGETHER = 1000


@dataclass(frozen=True, slots=True)
class _Epoch:
    """Leadership of the only instance: nobody can take it away while the file is locked."""

    token: int
    lost: asyncio.Event

    @property
    def certain(self) -> bool:
        return True

    async def resign(self) -> None:
        self.lost.set()


class _Work:
    """One thing for the writer, and who waits for it."""

    __slots__ = ("_future", "_loop", "do")

    def __init__(self, do: Callable[[sqlite3.Connection], Any] | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[Any] = self._loop.create_future()
        self.do = do

    async def done(self) -> Any:
        return await self._future

    def settle(self, result: Any, error: BaseException | None) -> None:
        def tell() -> None:
            if self._future.done():
                return
            if error is not None:
                self._future.set_exception(error)
            else:
                self._future.set_result(result)

        with suppress(RuntimeError):  # the loop is gone, and with it whoever waited
            self._loop.call_soon_threadsafe(tell)


class SqliteStore:
    """A `Store`. Open it with `open_store`."""

    def __init__(self, lock: int, work: "queue.SimpleQueue[_Work]", thread: threading.Thread) -> None:
        self._lock = lock
        self._work = work
        self._thread = thread
        self._advertised = ""

    async def get(self, key: str) -> Entry | None:
        def read(db: sqlite3.Connection) -> Entry | None:
            row = db.execute("SELECT key, value, revision FROM entries WHERE key = ?", (key,)).fetchone()
            return None if row is None else Entry(*row)

        found: Entry | None = await self._do(read)
        return found

    async def entries(self, prefix: str) -> Sequence[Entry]:
        def read(db: sqlite3.Connection) -> list[Entry]:
            rows = db.execute(
                "SELECT key, value, revision FROM entries WHERE key >= ? AND key < ? ORDER BY key",
                (prefix, prefix + "\U0010ffff"),
            )
            return [Entry(*row) for row in rows]

        found: list[Entry] = await self._do(read)
        return found

    async def commit(self, txn: Txn, fence: Leadership) -> None:
        if fence.lost.is_set():
            raise FencedError("this instance has resigned")
        await self._do(lambda db: _apply(db, txn, fence.token))

    async def campaign(self, advertised: str) -> Leadership:
        def take(db: sqlite3.Connection) -> int:
            db.execute("UPDATE state SET epoch = epoch + 1")
            return int(db.execute("SELECT epoch FROM state").fetchone()[0])

        token: int = await self._do(take)
        self._advertised = advertised
        return _Epoch(token, asyncio.Event())

    async def leader(self) -> str:
        return self._advertised

    async def close(self) -> None:
        work = _Work(None)
        self._work.put(work)
        await work.done()
        self._thread.join()
        os.close(self._lock)

    async def _do(self, do: Callable[[sqlite3.Connection], Any]) -> Any:
        work = _Work(do)
        self._work.put(work)
        return await work.done()


async def open_store(path: Path) -> SqliteStore:
    """Open or make the file. Raises StoreError, also where another instance has it."""
    lock = -1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise StoreError(
            f"{path} is in use by another instance: end that one, or give this one a file of its own"
        ) from None
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    work: queue.SimpleQueue[_Work] = queue.SimpleQueue()
    ready = _Work(None)
    thread = threading.Thread(target=_write, args=(path, work, ready), name="store", daemon=True)
    thread.start()
    try:
        await ready.done()
    except StoreError:
        os.close(lock)
        raise
    return SqliteStore(lock, work, thread)


def _write(path: Path, work: "queue.SimpleQueue[_Work]", ready: _Work) -> None:
    """The writer thread, from the opened file to the request to end."""
    try:
        db = sqlite3.connect(path, isolation_level=None)
        os.chmod(path, 0o600)  # noqa: PTH101
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.executescript(_SCHEMA)
    except (sqlite3.Error, OSError) as error:
        ready.settle(None, StoreError(f"{path}: {error}"))
        return
    ready.settle(None, None)
    while True:
        batch = [work.get()]
        while len(batch) < _MOST_TOGETHER and not work.empty():
            batch.append(work.get())
        end = next((item for item in batch if item.do is None), None)
        _together(db, [item for item in batch if item.do is not None], path)
        if end is not None:
            db.close()
            end.settle(None, None)
            return


def _together(db: sqlite3.Connection, batch: list[_Work], path: Path) -> None:
    """Every item in one transaction, each undone alone where it fails, all told after the sync."""
    results: list[tuple[_Work, Any, BaseException | None]] = []
    try:
        db.execute("BEGIN IMMEDIATE")
        for item in batch:
            assert item.do is not None
            db.execute("SAVEPOINT item")
            try:
                results.append((item, item.do(db), None))
            except (ConflictError, FencedError) as error:
                db.execute("ROLLBACK TO item")
                results.append((item, None, error))
            db.execute("RELEASE item")
        db.execute("COMMIT")
    except sqlite3.Error as error:
        if db.in_transaction:
            db.execute("ROLLBACK")
        for item in batch:
            item.settle(None, StoreError(f"{path}: {error}"))
        return
    for item, result, problem in results:
        item.settle(result, problem)


def _apply(db: sqlite3.Connection, txn: Txn, token: int) -> None:
    epoch, revision = db.execute("SELECT epoch, revision FROM state").fetchone()
    if epoch != token:
        raise FencedError(f"another instance leads (epoch {epoch}, not {token})")
    for expect in txn.expects:
        row = db.execute("SELECT revision FROM entries WHERE key = ?", (expect.key,)).fetchone()
        if (row[0] if row is not None else 0) != expect.revision:
            raise ConflictError(f"{expect.key} is not at revision {expect.revision}")
    revision += 1
    db.execute("UPDATE state SET revision = ?", (revision,))
    for write in txn.writes:
        if isinstance(write, Put):
            db.execute(
                "INSERT INTO entries VALUES (?, ?, ?) "
                "ON CONFLICT (key) DO UPDATE SET value = excluded.value, revision = excluded.revision",
                (write.key, write.value, revision),
            )
        else:
            db.execute("DELETE FROM entries WHERE key = ?", (write.key,))
