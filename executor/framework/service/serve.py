"""One instance of the framework, from its options to its end: API and files at once, leadership when it
comes.

    wait to lead -> load, subscribe, work -> lead no more -> exit (whoever started it starts it again)

An instance that led and leads no more ends its process instead of waiting again: nothing of its memory may
outlive its leadership. SIGTERM and SIGINT leave in order: the stream is closed, tasks go on, the leadership
is given back.
"""

import asyncio
import gc
import logging
import os
import signal
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import uvicorn

from executor.framework.sdk.leader import Detector
from executor.framework.service.api import Site, application
from executor.framework.service.books import Settings
from executor.framework.service.core import Framework
from executor.framework.service.files import Served, read_files
from executor.framework.store import sqlite
from executor.framework.store.interface import FencedError, Leadership, Store, StoreError
from executor.local_agent import browsers

log = logging.getLogger(__name__)

LED_NO_MORE = 3
REFUSED = 4


@dataclass(frozen=True, slots=True)
class Place:
    """Where the API listens and where others find it. `token_file`, `certificate`, `key`: see `mesokit
    framework`.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    advertised: str = ""
    token_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    files: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Stored:
    """Which store: one of these."""

    sqlite: Path | None = None
    etcd: tuple[str, ...] = ()
    zookeeper: str = ""
    prefix: str = "/mesokit"
    lease: float = 10.0


@dataclass(slots=True)
class Instance:
    """What `run` made, for tests and for whoever embeds it. `port` is set once the API listens; set
    `stop` to end it.
    """

    site: Site | None = None
    port: int = 0
    listening: asyncio.Event = field(default_factory=asyncio.Event)
    leading: asyncio.Event = field(default_factory=asyncio.Event)
    stop: asyncio.Event = field(default_factory=asyncio.Event)


def settle_memory() -> None:
    """Leave what is there, thousands of instances, out of the search for garbage, and search less often:
    offers and plans make many objects and hardly a cycle, and each search of everything costs more than a
    round of placing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


async def open_store(stored: Stored) -> Store:
    """The store that is asked for. Raises StoreError."""
    # The clients of stores that are not asked for need not be there.
    if stored.etcd:
        from executor.framework.store.etcd import EtcdStore  # noqa: PLC0415

        return EtcdStore(stored.etcd, stored.prefix, stored.lease)
    if stored.zookeeper:
        from executor.framework.store import zookeeper  # noqa: PLC0415

        return await zookeeper.open_store(stored.zookeeper, stored.prefix, stored.lease)
    return await sqlite.open_store(stored.sqlite or Path("/var/lib/mesokit/framework.db"))


async def run(
    settings: Settings,
    place: Place,
    stored: Stored,
    *,
    zookeeper_masters: str = "",
    made: Instance | None = None,
) -> int:
    """Run until told to end; the exit status. Raises StoreError, OSError and ValueError before it listens."""
    if settings.client.credentials.read is not None and not settings.principal:
        raise ValueError(
            "a credential without a principal: say with --principal whom it stands for, since masters refuse "
            "reservations and changes of a framework that does not name the principal it authenticates as"
        )
    if not place.advertised and place.host in ("0.0.0.0", "::"):
        raise ValueError(
            f"--listen {place.host}:{place.port}: nobody finds this instance at that address: say with "
            "--advertise where agents and clients do"
        )
    made = made if made is not None else Instance()
    files = read_files(place.files)
    token = _token(place.token_file)
    _check_certificate(place)
    sockets = _listening(place)
    try:
        store = await open_store(stored)
    except BaseException:
        _close(sockets)
        raise
    scheme = "https" if place.certificate is not None else "http"
    site = made.site = Site(store, files, token, scheme)
    stop = made.stop
    server = _server(site, place)
    made.port = sockets[0].getsockname()[1]
    await server.startup(sockets)
    dates = asyncio.create_task(_keep_date(server))
    try:
        made.listening.set()
        advertised = place.advertised or f"{place.host}:{made.port}"
        site.names = frozenset((browsers.host_name(advertised), socket.gethostname().lower()))
        for number in (signal.SIGTERM, signal.SIGINT):
            with suppress(NotImplementedError, RuntimeError):
                asyncio.get_running_loop().add_signal_handler(number, stop.set)
        base = f"{scheme}://{advertised}"
        settings = replace(_delivered(settings, files, base), webui_url=settings.webui_url or f"{base}/")
        _warn_of_loopback(settings, base)
        return await _lead(settings, advertised, stop, zookeeper_masters, made)
    finally:
        dates.cancel()
        await server.shutdown(sockets)
        await store.close()


def _token(path: Path | None) -> str:
    """What clients have to say, "" where nothing is asked of them. Raises ValueError for a file without one:
    whoever gave a file wants to be asked.
    """
    if path is None:
        return ""
    token = path.read_text().strip()
    if not token:
        raise ValueError(f"--token-file {path}: it is empty: write a token into it, or leave the option out")
    return token


def _listening(place: Place) -> list[socket.socket]:
    """Sockets of all addresses of the host's name, on one port. Raises OSError that says which cannot be."""
    found: list[socket.socket] = []
    port = place.port
    try:
        for family, _, _, _, address in dict.fromkeys(
            socket.getaddrinfo(place.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        ):
            found.append(socket.create_server((address[0], port), family=family, backlog=2048))
            port = found[0].getsockname()[1]
    except OSError as error:
        _close(found)
        why = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise OSError(f"cannot listen on {place.host}, port {place.port} (--listen): {why}") from None
    return found


def _close(sockets: list[socket.socket]) -> None:
    for each in sockets:
        each.close()


def _check_certificate(place: Place) -> None:
    """Raises ValueError for a certificate or key that cannot be used."""
    if place.certificate is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(place.certificate, place.key)
    except ssl.SSLError as error:
        raise ValueError(
            f"--certificate {place.certificate}, --key {place.key}: expected a chain of certificates and its "
            f"key in PEM{f': {error.reason}' if error.reason else ''}"
        ) from None


def _server(site: Site, place: Place) -> uvicorn.Server:
    config = uvicorn.Config(
        application(site),
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
        ssl_certfile=place.certificate,
        ssl_keyfile=place.key,
        ssl_version=ssl.PROTOCOL_TLS_SERVER,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    return server


async def _keep_date(server: uvicorn.Server) -> None:
    """The `Date` of answers, once a second: all that is left of `Server.serve`, which looks ten times a
    second whether it is to end, and takes signals that are this process's own.
    """
    while True:
        await server.on_tick(0)
        await asyncio.sleep(1.0)


def _delivered(settings: Settings, files: dict[str, Served], base: str) -> Settings:
    """Agents fetch the executor from here, where it is among the files and no other address is given."""
    delivery = settings.delivery
    if delivery.uri or not files:
        return settings
    served = next(iter(files.values()))
    archive = served.name.endswith((".tar", ".tar.gz", ".tgz"))
    command = "./mesokit-executor/mesokit-executor" if archive else f"./{served.name}"
    return replace(
        settings,
        delivery=replace(delivery, uri=f"{base}{served.target}", archive=archive, command=command),
    )


def _warn_of_loopback(settings: Settings, base: str) -> None:
    """Agents of other machines cannot fetch from this one's loopback address."""
    far = [name for name in settings.client.masters if not browsers.is_loopback(browsers.host_name(name))]
    here = browsers.is_loopback(browsers.host_name(base.partition("//")[2]))
    if far and here and settings.delivery.uri.startswith(base):
        log.warning("agents cannot fetch the executor from %s: say with --advertise where they can", base)


async def _campaign(store: Store, advertised: str) -> Leadership:
    """Wait to lead, also while the store is out of reach: whoever waits has nothing to lose."""
    while True:
        try:
            return await store.campaign(advertised)
        except StoreError as error:
            log.warning("cannot wait for the leadership: %s", error)
            await asyncio.sleep(1.0)


async def _lead(
    settings: Settings, advertised: str, stop: asyncio.Event, masters: str, made: Instance
) -> int:
    site = made.site
    assert site is not None
    campaign = asyncio.create_task(_campaign(site.store, advertised))
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({campaign, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not campaign.done():
            return 0
        leadership = campaign.result()
        log.info("this instance leads (%s)", leadership.token)
        framework = Framework(settings, site.store, leadership)
        detector = _detect(masters, framework)
        work = asyncio.create_task(framework.run())
        loaded = asyncio.create_task(framework.loaded.wait())
        try:
            await asyncio.wait({work, loaded}, return_when=asyncio.FIRST_COMPLETED)
            settle_memory()
            site.framework = framework
            made.leading.set()
            await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
            framework.stop()
            await work
            return REFUSED if framework.refused else 0
        except FencedError as error:
            log.error("this instance leads no more: %s", error)
            return LED_NO_MORE
        finally:
            loaded.cancel()
            site.framework = None
            if detector is not None:
                await asyncio.to_thread(detector.stop)
            with suppress(StoreError):
                await leadership.resign()
    finally:
        for task in (campaign, stopped):
            task.cancel()


def _detect(masters: str, framework: Framework) -> Detector | None:
    if not masters:
        return None
    loop = asyncio.get_running_loop()

    def report(address: str) -> None:
        loop.call_soon_threadsafe(framework.lead, address)

    detector = Detector(
        masters,
        report,
        by_name=framework.books.settings.client.tls is not None,
    )
    detector.start()
    return detector
