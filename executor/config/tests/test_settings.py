"""Settings: every mistake told at once, no value replaced in silence."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor.config.settings import OPTIONS, ConfigError, Settings, load, usage
from executor.config.tls import HostnameScheme
from executor.protocol import Encoding

REQUIRED = {
    "MESOS_FRAMEWORK_ID": "F",
    "MESOS_EXECUTOR_ID": "E",
    "MESOS_SLAVE_PID": "slave(1)@10.0.0.7:5051",
    "MESOS_AGENT_ENDPOINT": "10.0.0.7:5051",
}


def read(extra: dict[str, str] | None = None, arguments: list[str] | None = None) -> Settings:
    return load({**REQUIRED, **(extra or {})}, arguments or [], Path("/"))


def problems(extra: dict[str, str], arguments: list[str] | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as raised:
        read(extra, arguments)
    return raised.value.problems


def test_the_least_an_agent_sets() -> None:
    settings = read()
    assert settings.endpoint.executor_path == "/slave(1)/api/v1/executor"
    assert settings.endpoint.authority == "10.0.0.7:5051"
    assert (settings.checkpoint, settings.recovery_timeout, settings.backoff_max) == (False, 900, 2)
    assert (settings.shutdown_grace, settings.kill_grace, settings.ack_timeout) == (5, 3, 60)
    assert settings.tls is None
    assert settings.token is None


def test_every_problem_is_told_at_once_and_named() -> None:
    told = problems(
        {
            "MESOS_FRAMEWORK_ID": "",
            "MESOS_CHECKPOINT": "maybe",
            "MESOS_RECOVERY_TIMEOUT": "15 mins",
            "MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD": "5s",
            "MESOS_SUBSCRIPTION_BACKOFF_MAX": "abc",
            "MESOS_AGENT_ENDPOINT": "10.0.0.7",
            "LIBPROCESS_SSL_ENABLED": "yes",
            "MESOKIT_ACK_TIMEOUT": "-1secs",
        },
        ["--stay", "--encoding=xml", "--nonsense", "--kill-grace"],
    )
    for name in (
        "MESOS_FRAMEWORK_ID",
        "MESOS_CHECKPOINT",
        "MESOS_RECOVERY_TIMEOUT",
        "MESOS_SUBSCRIPTION_BACKOFF_MAX",
        "MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD",
        "MESOS_AGENT_ENDPOINT",
        "LIBPROCESS_SSL_ENABLED",
        "MESOKIT_ACK_TIMEOUT",
        "--encoding",
        "--nonsense",
        "--kill-grace",
    ):
        assert sum(name in problem for problem in told) == 1, name


@pytest.mark.parametrize(("text", "value"), [("1", True), ("0", False), ("true", True), ("false", False)])
def test_checkpoint_is_what_mesos_writes(text: str, value: bool) -> None:
    assert read({"MESOS_CHECKPOINT": text}).checkpoint is value


@pytest.mark.parametrize(
    ("text", "host", "port", "authority"),
    [
        ("[::1]:5051", "::1", 5051, "[::1]:5051"),
        ("agent.example:80", "agent.example", 80, "agent.example:80"),
        ("[fe80::1%eth0]:5051", "fe80::1%eth0", 5051, "[fe80::1%eth0]:5051"),
        ("fd00::7:5051", "fd00::7", 5051, "[fd00::7]:5051"),
    ],
)
def test_endpoints(text: str, host: str, port: int, authority: str) -> None:
    endpoint = read({"MESOS_AGENT_ENDPOINT": text}).endpoint
    assert (endpoint.host, endpoint.port, endpoint.authority) == (host, port, authority)


BAD = ["[::1", "[::1]", "::1]:1", "[a]b:1", "a:b:1", "a/b:1", "x@y:1", ":1", "[]:1"]


@pytest.mark.parametrize("text", BAD)
def test_half_an_endpoint_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match="MESOS_AGENT_ENDPOINT"):
        read({"MESOS_AGENT_ENDPOINT": text})


@given(st.text(max_size=30))
def test_any_endpoint_is_used_or_refused(text: str) -> None:
    try:
        endpoint = read({"MESOS_AGENT_ENDPOINT": text}).endpoint
    except ConfigError as error:
        assert "MESOS_AGENT_ENDPOINT" in error.problems[0]
    else:
        assert endpoint.host
        assert 0 < endpoint.port < 65536


def test_the_domain_socket_goes_before_tcp_and_knows_no_tls() -> None:
    settings = read({"MESOS_DOMAIN_SOCKET": "/run/a.sock", "LIBPROCESS_SSL_ENABLED": "1"})
    assert settings.endpoint.socket == Path("/run/a.sock")
    assert settings.tls is None
    without = {name: value for name, value in REQUIRED.items() if name != "MESOS_AGENT_ENDPOINT"}
    assert load({**without, "MESOS_DOMAIN_SOCKET": "/run/a.sock"}, [], Path("/")).endpoint.socket


def test_the_command_line_wins_over_the_variable_and_that_over_the_default() -> None:
    assert read().encoding is Encoding.PROTOBUF
    assert read({"MESOKIT_ENCODING": "json"}).encoding is Encoding.JSON
    assert read({"MESOKIT_ENCODING": "json"}, ["--encoding", "protobuf"]).encoding is Encoding.PROTOBUF
    assert read(arguments=["--stay", "--ack-timeout=1.5secs"]).ack_timeout == 1.5
    assert read(arguments=["--stay"]).stay


def test_the_help_names_every_option_and_variable() -> None:
    text = usage()
    for option in OPTIONS:
        assert f"--{option.name}" in text
        assert option.variable in text


def test_the_token_is_not_shown() -> None:
    settings = read({"MESOS_EXECUTOR_AUTHENTICATION_TOKEN": "s3cr3t"})
    assert settings.token is not None
    assert settings.token not in repr(settings)


def test_tls_as_libprocess_reads_it(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.touch()
    tls = read(
        {
            "SSL_ENABLED": "true",
            "LIBPROCESS_SSL_VERIFY_CERT": "1",
            "LIBPROCESS_SSL_VERIFY_IPADD": "true",
            "LIBPROCESS_SSL_HOSTNAME_VALIDATION_SCHEME": "openssl",
            "LIBPROCESS_SSL_CA_FILE": str(authority),
            "LIBPROCESS_SSL_ENABLE_TLS_V1_2": "false",
        }
    ).tls
    assert tls is not None
    assert (tls.verify, tls.verify_address, tls.scheme) == (True, True, HostnameScheme.OPENSSL)
    assert tls.authorities_file == authority
    assert tls.versions == {3}
    plain = read({"LIBPROCESS_SSL_ENABLED": "1"}).tls
    assert plain is not None
    assert not plain.verify


def test_tls_mistakes() -> None:
    told = problems(
        {
            "LIBPROCESS_SSL_ENABLED": "1",
            "LIBPROCESS_SSL_KEY_FILE": "/no/such/key",
            "LIBPROCESS_SSL_HOSTNAME_VALIDATION_SCHEME": "none",
            "LIBPROCESS_SSL_VERIFY_DEPTH": "deep",
            "LIBPROCESS_SSL_ENABLE_TLS_V1_2": "0",
            "LIBPROCESS_SSL_ENABLE_TLS_V1_3": "0",
        }
    )
    assert len(told) == 5
