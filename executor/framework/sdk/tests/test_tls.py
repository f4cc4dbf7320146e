"""What is spoken with masters over TLS, proved by peers that speak nothing else, and by what lay on the wire
between them in both directions (scenario 14).
"""

import asyncio
import datetime
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trustme
from mesos.v1.scheduler import scheduler_pb2

from executor.framework.fake_master.master import Master
from executor.framework.fake_master.server import serve
from executor.framework.sdk import calls
from executor.framework.sdk.client import Client, Settings
from executor.framework.sdk.session_events import Deliver, Fate
from executor.framework.sdk.tests.test_client import QUICK, Reader, agent, framework, task_of
from executor.framework.sdk.tls import Tls, TlsError, from_environment, trusting

Event = scheduler_pb2.Event
AUTHORITY = trustme.CA()
PLAIN = (b"POST", b"HTTP/1.1", b"Mesos-Stream-Id", b"application/x-protobuf", b"sleep 1000", b"web")
"""What lies in clear on a connection without TLS."""

_TYPES = range(20, 24)


@dataclass
class Tap:
    """A relay to one address that keeps what passed it, for each connection: sent by the client, by the
    master.
    """

    address: str = ""
    passed: list[tuple[bytearray, bytearray]] = field(default_factory=list)

    def prove(self) -> None:
        """Nothing but TLS records, whole, went either way, and application data did."""
        assert self.passed
        for both in self.passed:
            for data in both:
                kinds = []
                rest = bytes(data)
                while len(rest) >= 5:
                    assert rest[0] in _TYPES and rest[1] == 3, rest[:16]
                    kinds.append(rest[0])
                    rest = rest[5 + int.from_bytes(rest[3:5], "big") :]
                assert not any(word in data for word in PLAIN)
                assert kinds and kinds[0] == 22


@asynccontextmanager
async def tapped(target: str) -> AsyncIterator[Tap]:
    tap = Tap()
    host, _, port = target.rpartition(":")
    tasks: set[asyncio.Task[None]] = set()

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter, kept: bytearray) -> None:
        try:
            while data := await source.read(65536):
                kept += data
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        both = (bytearray(), bytearray())
        tap.passed.append(both)
        far, out = await asyncio.open_connection(host, int(port))
        try:
            await asyncio.gather(copy(reader, out, both[0]), copy(far, writer, both[1]))
        finally:
            writer.close()
            out.close()
            tasks.discard(task)

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    tap.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield tap
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def master_context(*names: str, clients: bool = False, expired: bool = False) -> ssl.SSLContext:
    """A master's side; `clients`: whoever shows no certificate of the authority is sent away."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    until = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC) if expired else None
    AUTHORITY.issue_cert(*names, not_after=until).configure_cert(context)
    if clients:
        context.verify_mode = ssl.CERT_REQUIRED
        AUTHORITY.configure_trust(context)
    return context


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The authority, another one, and a client's certificate and key, as files."""
    folder = tmp_path_factory.mktemp("tls")
    found = {name: folder / name for name in ("authority", "stranger", "certificate", "key")}
    AUTHORITY.cert_pem.write_to_path(str(found["authority"]))
    trustme.CA().cert_pem.write_to_path(str(found["stranger"]))
    client = AUTHORITY.issue_cert("framework.example")
    client.cert_chain_pems[0].write_to_path(str(found["certificate"]))
    client.private_key_pem.write_to_path(str(found["key"]))
    return found


def test_a_master_that_wants_our_certificate_is_spoken_with_over_tls_alone(files: Mapping[str, Path]) -> None:
    async def scenario() -> None:
        tls = trusting(files["authority"], files["certificate"], files["key"])
        master = Master(QUICK)
        async with (
            serve(master, tls=master_context("127.0.0.1", clients=True)) as server,
            tapped(server.address) as tap,
        ):
            master.register(agent(), server.now())
            async with Client(framework(), Settings((tap.address,), tls=tls)) as client:
                reader = Reader(client)
                await reader.connected()
                offers = await reader.event(Event.OFFERS)
                offer = offers.offers.offers[0]
                launch = calls.launch([task_of(offers, "t1")])
                outcome = await client.call(calls.accept([offer.id.value], [launch], 0.0))
                assert outcome.fate is Fate.TAKEN
                await reader.until(lambda it: isinstance(it, Deliver) and it.event.type == Event.UPDATE)
            assert len(tap.passed) == 2  # the stream and the calls
            tap.prove()

    asyncio.run(scenario())


@pytest.mark.parametrize("written", ["//{}/api/v1/scheduler", "http://{}/api/v1/scheduler", "{}"])
def test_a_redirect_keeps_tls_whatever_its_scheme(files: Mapping[str, Path], written: str) -> None:
    async def scenario() -> None:
        context = master_context("127.0.0.1")
        async with (
            serve(Master(QUICK), tls=context) as leader,
            tapped(leader.address) as tap,
            asyncio_server(
                f"HTTP/1.1 307 Temporary Redirect\r\nLocation: {written.format(tap.address)}\r\n"
                "Content-Length: 0\r\n\r\n",
                context,
            ) as standby,
        ):
            settings = Settings((standby,), tls=trusting(files["authority"]))
            async with Client(framework(), settings) as client:
                connected = await Reader(client).connected()
                assert connected.master == tap.address
            tap.prove()

    asyncio.run(scenario())


@asynccontextmanager
async def asyncio_server(answer: str, context: ssl.SSLContext | None) -> AsyncIterator[str]:
    """Whoever asks gets this answer."""

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer.encode())
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve_one, "127.0.0.1", 0, ssl=context)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def _problem(address: str, tls: Tls) -> str:
    """Why no subscription with a master came about."""
    settings = Settings((address,), tls=tls, longest_delay=0.1, connect_timeout=2.0)
    async with Client(framework(), settings) as client:
        async with asyncio.timeout(20):
            while not client.session.problem:
                await asyncio.sleep(0.01)
        return client.session.problem


@pytest.mark.parametrize(
    ("name", "trusted", "host", "said"),
    [
        ("127.0.0.1", "stranger", "127.0.0.1", "unable to get local issuer certificate"),
        ("other.example", "authority", "127.0.0.1", "IP address mismatch"),
        ("other.example", "authority", "localhost", "Hostname mismatch"),
        ("127.0.0.1", "expired", "127.0.0.1", "certificate has expired"),
    ],
)
def test_certificates_that_are_refused(
    files: Mapping[str, Path], name: str, trusted: str, host: str, said: str
) -> None:
    async def scenario() -> None:
        master = Master(QUICK)
        expired = trusted == "expired"
        async with serve(master, tls=master_context(name, expired=expired)) as server:
            address = f"{host}:{server.address.rpartition(':')[2]}"
            problem = await _problem(address, trusting(files["authority" if expired else trusted]))
            assert said in problem and f"the certificate of {address} is not accepted" in problem
            assert server.log == []

    asyncio.run(scenario())


def test_a_name_in_the_certificate_is_enough(files: Mapping[str, Path]) -> None:
    async def scenario() -> None:
        async with serve(Master(QUICK), tls=master_context("localhost")) as server:
            settings = Settings(
                (f"localhost:{server.address.rpartition(':')[2]}",), tls=trusting(files["authority"])
            )
            async with Client(framework(), settings) as client:
                await Reader(client).connected()

    asyncio.run(scenario())


def test_nothing_is_said_in_clear_to_a_master_without_tls(files: Mapping[str, Path]) -> None:
    async def scenario() -> None:
        async with serve(Master(QUICK)) as server, tapped(server.address) as tap:
            problem = await _problem(tap.address, trusting(files["authority"]))
            assert "master" in problem or tap.address in problem
            assert server.log == []
            for sent, _ in tap.passed:
                assert not any(word in sent for word in PLAIN)
        answer = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
        async with asyncio_server(answer, None) as plain:
            assert await _problem(plain, trusting(files["authority"]))

    asyncio.run(scenario())


def test_a_plain_answer_to_a_handshake_is_named_for_what_it_is(files: Mapping[str, Path]) -> None:
    async def scenario() -> None:
        async def clear(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(clear, "127.0.0.1", 0)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        problem = await _problem(address, trusting(files["authority"]))
        assert "does not speak TLS, and nothing is said in clear" in problem
        server.close()

    asyncio.run(scenario())


def test_without_a_certificate_a_master_that_wants_one_is_named(files: Mapping[str, Path]) -> None:
    context = master_context("127.0.0.1", clients=True)
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        # OpenSSL's own server sends the alert; asyncio's closes without it.
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                beside = connection.dup()
                with suppress(OSError), context.wrap_socket(connection, server_side=True) as it:
                    it.recv(1)
                with suppress(OSError), beside:  # a close with bytes unread would overtake the alert
                    beside.shutdown(socket.SHUT_WR)
                    while beside.recv(4096):
                        pass

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    try:
        problem = asyncio.run(_problem(address, trusting(files["authority"])))
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
    assert "certificate required" in problem


def test_the_variables_of_libprocess(files: Mapping[str, Path]) -> None:
    given = {
        "LIBPROCESS_SSL_ENABLED": "true",
        "LIBPROCESS_SSL_CA_FILE": str(files["authority"]),
        "LIBPROCESS_SSL_CERT_FILE": str(files["certificate"]),
        "LIBPROCESS_SSL_KEY_FILE": str(files["key"]),
        "LIBPROCESS_SSL_VERIFY_SERVER_CERT": "true",
        "LIBPROCESS_SSL_HOSTNAME_VALIDATION_SCHEME": "openssl",
    }

    async def scenario() -> None:
        tls = from_environment(given)
        assert tls is not None and tls.verifies
        async with (
            serve(Master(QUICK), tls=master_context("127.0.0.1", clients=True)) as server,
            tapped(server.address) as tap,
        ):
            async with Client(framework(), Settings((tap.address,), tls=tls)) as client:
                await Reader(client).connected()
            tap.prove()
        async with serve(Master(QUICK), tls=master_context("other.example")) as server:
            problem = await _problem(server.address, tls)
            assert "the master's certificate names other.example, not 127.0.0.1" in problem
            assert server.log == []
            # Without VERIFY_SERVER_CERT any certificate will do, as in libprocess.
            loose = from_environment({**given, "LIBPROCESS_SSL_VERIFY_SERVER_CERT": "false"})
            assert loose is not None and not loose.verifies
            async with Client(framework(), Settings((server.address,), tls=loose)) as client:
                await Reader(client).connected()

    asyncio.run(scenario())
    assert from_environment({"LIBPROCESS_SSL_CA_FILE": str(files["authority"])}) is None


def test_files_and_variables_that_cannot_be_used_are_named(files: Mapping[str, Path], tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("")
    with pytest.raises(TlsError, match="holds no certificate authority"):
        trusting(empty)
    with pytest.raises(TlsError, match=r"certificate .*empty or its key cannot be used"):
        trusting(files["authority"], empty)
    with pytest.raises(TlsError, match="has no certificate beside it"):
        trusting(files["authority"], None, files["key"])
    with pytest.raises(TlsError, match="LIBPROCESS_SSL_CA_FILE: '/nowhere' does not exist"):
        from_environment({"LIBPROCESS_SSL_ENABLED": "1", "LIBPROCESS_SSL_CA_FILE": "/nowhere"})
