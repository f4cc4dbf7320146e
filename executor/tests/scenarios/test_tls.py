"""What is spoken over TLS, proved by a peer that speaks nothing else: versions, ciphers, groups, names,
client certificates; and that nothing of a request goes out before the handshake, or without one (M7).

Between the executor and its agent a tap keeps every byte that the executor sent, undeciphered.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trustme

from executor.protocol import Encoding
from executor.tests.scenarios.addresses import Tcp
from executor.tests.scenarios.events import launch, task
from executor.tests.scenarios.executor_process import Executor
from executor.tests.scenarios.scene import Scene, together
from executor.tests.scenarios.scripted_agent import ScriptedAgent
from executor.tests.scenarios.tap import APPLICATION_DATA, HANDSHAKE, Hello, Tap, hello, records, tapped

TOKEN = "a-token-that-must-not-be-seen"  # noqa: S105
AUTHORITY = trustme.CA()
PLAIN = (TOKEN.encode(), b"POST", b"HTTP/1.1", b"Bearer", b"framework")
"""What a request holds, in clear."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """One handshake as the agent saw it."""

    version: str | None
    cipher: str
    name: str | None
    client: str | None


@dataclass
class Recorder:
    """The agent's side of every handshake that came to its end."""

    spoken: list[Spoken] = field(default_factory=list)
    names: dict[int, str | None] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def context(self, host: str, *, client_required: bool = False) -> ssl.SSLContext:
        """A server's context for one host that takes note."""
        recorder = self

        class Recording(ssl.SSLSocket):
            def do_handshake(self, block: bool = False) -> None:
                super().do_handshake(block)
                certificate = self.getpeercert() or {}
                alternatives = certificate.get("subjectAltName", ())
                cipher = self.cipher()
                assert cipher is not None
                with recorder.lock:
                    recorder.spoken.append(
                        Spoken(
                            self.version(),
                            cipher[0],
                            recorder.names.get(id(self)),
                            str(alternatives[0][1]) if alternatives else None,
                        )
                    )

        def named(sock: ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
            self.names[id(sock)] = name

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        AUTHORITY.issue_cert(host).configure_cert(context)
        context.sslsocket_class = Recording
        context.sni_callback = named  # type: ignore[assignment]
        if client_required:
            AUTHORITY.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@dataclass
class Meeting:
    """An executor, its agent, and what lies between."""

    scene: Scene
    agent: ScriptedAgent
    executor: Executor
    tap: Tap
    recorder: Recorder

    def works(self) -> None:
        """A task goes through; all that was sent is TLS, begins with a handshake, and nothing can be read."""
        self.agent.send(launch(task("t", "exit 0")))
        self.agent.wait_state("t", "FINISHED")
        assert self.executor.wait_exit() == 0
        assert len(self.tap.sent) >= 2
        for connection in self.tap.sent:
            kinds = [kind for kind, _ in records(bytes(connection))]
            assert kinds[0] == HANDSHAKE
            assert APPLICATION_DATA in kinds
        self.says_nothing_in_clear()
        assert {entry.request.headers["authorization"] for entry in self.agent.log} == {f"Bearer {TOKEN}"}

    def fails(self) -> None:
        """It leaves without a word that could be read, and without a call."""
        assert self.executor.wait_exit() > 0
        assert self.agent.log == []
        self.says_nothing_in_clear()
        for text in (self.executor.log, self.executor.stderr, self.executor.stdout):
            assert TOKEN not in text

    def says_nothing_in_clear(self) -> None:
        for word in PLAIN:
            assert word not in self.tap.everything

    def hello(self) -> Hello:
        return hello(bytes(self.tap.sent[0]))


@contextmanager
def meeting(
    variables: Mapping[str, str],
    *,
    tls: bool = True,
    client_required: bool = False,
    host: str | None = None,
    enabled: bool = True,
    lasting: bool = True,
    only: ssl.TLSVersion | None = None,
) -> Iterator[Meeting]:
    """`host` is by what name the executor knows its agent; by address if there is none. Values that end in
    .pem are files: ca.pem, cert.pem, key.pem.
    """
    scene = Scene(Encoding.PROTOBUF)
    recorder = Recorder()
    # A name has to resolve to where the tap is.
    ip, port = ("127.0.0.1", 0) if host else (Tcp().ip, Tcp().port)
    context = recorder.context(host or ip, client_required=client_required) if tls else None
    if context is not None and only is not None:
        context.minimum_version = context.maximum_version = only
    try:
        with contextlib.ExitStack() as stack:
            agent = scene.agent(Tcp(tls=context), token=TOKEN)
            assert isinstance(agent.where, Tcp)
            tap = stack.enter_context(tapped((ip, port), (agent.where.ip, agent.where.port)))
            files = _files(scene.directory)
            endpoint = f"{host or ip}:{tap.port}"
            executor = scene.start(
                agent,
                {
                    "LIBPROCESS_SSL_ENABLED": "true" if enabled else "false",
                    "MESOS_AGENT_ENDPOINT": endpoint,
                    "MESOS_SLAVE_PID": f"slave(1)@{endpoint}",
                    "MESOKIT_REGISTRATION_TIMEOUT": "30secs" if lasting else "1secs",
                    **{name: files.get(value, value) for name, value in variables.items()},
                },
            )
            yield Meeting(scene, agent, executor, tap, recorder)
    except BaseException as error:
        error.add_note(scene.report())
        raise
    finally:
        scene.close()


def _files(directory: Path) -> dict[str, str]:
    mine = AUTHORITY.issue_cert("executor.example")
    AUTHORITY.cert_pem.write_to_path(str(directory / "ca.pem"))
    mine.private_key_pem.write_to_path(str(directory / "key.pem"))
    for blob in mine.cert_chain_pems:
        blob.write_to_path(str(directory / "cert.pem"), append=True)
    return {name: str(directory / name) for name in ("ca.pem", "cert.pem", "key.pem")}


V12, V13 = "LIBPROCESS_SSL_ENABLE_TLS_V1_2", "LIBPROCESS_SSL_ENABLE_TLS_V1_3"
VERIFY = {
    "LIBPROCESS_SSL_VERIFY_SERVER_CERT": "true",
    "LIBPROCESS_SSL_VERIFY_IPADD": "true",
    "LIBPROCESS_SSL_CA_FILE": "ca.pem",
}
CLIENT = {"LIBPROCESS_SSL_CERT_FILE": "cert.pem", "LIBPROCESS_SSL_KEY_FILE": "key.pem"}


def _spoken(
    variables: Mapping[str, str], version: str, *, cipher: str = "", client: str | None = None
) -> None:
    with meeting(variables, client_required=client is not None) as met:
        met.works()
        assert met.recorder.spoken
        for one in met.recorder.spoken:
            assert one.version == version
            assert one.cipher.startswith(cipher)
            # An address is no name: RFC 6066 3.
            assert one.name is None
            assert one.client == client
        assert met.hello().name is None


def test_versions_and_ciphers_are_those_that_are_configured() -> None:
    together(
        lambda: _spoken({}, "TLSv1.3"),
        lambda: _spoken({V13: "false"}, "TLSv1.2"),
        lambda: _spoken({V12: "0", V13: "1"}, "TLSv1.3"),
        lambda: _spoken(
            {V13: "false", "LIBPROCESS_SSL_CIPHERS": "ECDHE-ECDSA-AES128-GCM-SHA256"},
            "TLSv1.2",
            cipher="ECDHE-ECDSA-AES128-GCM-SHA256",
        ),
        # The older names of the same variables.
        lambda: _spoken(
            {"LIBPROCESS_SSL_ENABLED": "", "SSL_ENABLED": "1", "SSL_ENABLE_TLS_V1_3": "0"}, "TLSv1.2"
        ),
    )


def test_both_sides_show_certificates_and_verify_them() -> None:
    together(
        lambda: _spoken(VERIFY | CLIENT, "TLSv1.3", client="executor.example"),
        lambda: _spoken(VERIFY | CLIENT | {V13: "false"}, "TLSv1.2", client="executor.example"),
    )


def test_the_curve_is_the_one_that_is_configured() -> None:
    with meeting({"LIBPROCESS_SSL_ECDH_CURVE": "secp384r1"}) as met:
        met.works()
        assert met.hello().groups == (0x0018,)


def test_a_name_is_sent_and_verified() -> None:
    variables = {
        "LIBPROCESS_SSL_VERIFY_SERVER_CERT": "true",
        "LIBPROCESS_SSL_HOSTNAME_VALIDATION_SCHEME": "openssl",
        "LIBPROCESS_SSL_CA_FILE": "ca.pem",
    }
    with meeting(variables, host="localhost") as met:
        met.works()
        assert {one.name for one in met.recorder.spoken} == {"localhost"}
        assert met.hello().name == "localhost"


def test_an_agent_that_wants_a_certificate_hears_nothing_without_one() -> None:
    """With TLS 1.3 a client is done before the server says no: what it then sends is ciphered, and unread."""
    with meeting({}, client_required=True, lasting=False) as met:
        met.fails()
        assert met.recorder.spoken == []


def test_an_agent_of_another_authority_hears_nothing() -> None:
    with meeting(VERIFY | {"LIBPROCESS_SSL_CA_FILE": "cert.pem"}, lasting=False) as met:
        met.fails()
        for connection in met.tap.sent:
            assert APPLICATION_DATA not in [
                kind for kind, content in records(bytes(connection)) if len(content) > 100
            ]


def test_an_agent_that_speaks_no_tls_hears_nothing_in_clear() -> None:
    with meeting({}, tls=False, lasting=False) as met:
        assert met.executor.wait_exit() > 0
        assert met.agent.log == []
        met.says_nothing_in_clear()
        assert met.tap.sent
        assert all(records(bytes(one))[0][0] == HANDSHAKE for one in met.tap.sent)


@pytest.mark.parametrize(
    ("off", "only"), [(V12, ssl.TLSVersion.TLSv1_2), (V13, ssl.TLSVersion.TLSv1_3)], ids=["1.2", "1.3"]
)
def test_an_agent_of_other_versions_is_not_spoken_to(off: str, only: ssl.TLSVersion) -> None:
    with meeting({off: "false"}, lasting=False, only=only) as met:
        met.fails()
        assert met.recorder.spoken == []


def test_without_tls_a_tls_agent_is_not_reached_and_the_log_says_so() -> None:
    with meeting({}, enabled=False, lasting=False) as met:
        assert met.executor.wait_exit() > 0
        assert met.agent.log == []
        assert "no subscription" in met.executor.log
