"""The settings of one executor process, from the variables an agent sets and the options of the command
line.

Everything is read here and nowhere else; all mistakes are reported together. Options may also be given as
variables (`--ack-timeout` as MESOKIT_ACK_TIMEOUT), because a framework that names only a URI has no command
line; the command line wins. A bad duration is refused, never replaced by a default.
"""

import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from executor.config.tls import TlsSettings, parse_flag, read_tls
from executor.config.token import TOKEN_VARIABLE
from executor.config.units import parse_duration, parse_size
from executor.output.progress import compile_pattern
from executor.protocol import DEFAULT_MAX_RECORD, Encoding

T = TypeVar("T")


class ConfigError(ValueError):
    """The settings cannot be used; `problems` has one sentence for each mistake."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the agent listens: a Unix socket's path, or a host (address or name) and port."""

    host: str
    port: int
    socket: Path | None
    prefix: str
    """The agent's libprocess id as a path, such as "/slave(1)"; empty where unknown."""

    @property
    def executor_path(self) -> str:
        """The path of the executor API."""
        return f"{self.prefix}/api/v1/executor"

    @property
    def authority(self) -> str:
        """The Host header's value."""
        if self.socket is not None:
            return "localhost"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Option:
    """One option of the command line, and how the help shows it."""

    name: str
    value: str
    default: str
    parse: Callable[[str], Any]
    about: str

    @property
    def variable(self) -> str:
        """The environment variable that sets it too."""
        return "MESOKIT_" + self.name.upper().replace("-", "_")

    @property
    def field(self) -> str:
        """The field of Settings."""
        return self.name.replace("-", "_")


def seconds(text: str) -> float:
    """A duration in seconds. Raises ValueError."""
    return parse_duration(text) / 1e9


def _encoding(text: str) -> Encoding:
    try:
        return Encoding(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither protobuf nor json") from None


def _level(text: str) -> str:
    if text not in ("debug", "info", "warning", "error"):
        raise ValueError(f"{text!r} is not one of debug, info, warning, error")
    return text.upper()


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        raise ValueError(f"{text!r} is not a number such as 3")
    return int(text)


def _optional_path(text: str) -> Path | None:
    if not text:
        return None
    if ".." in Path(text).parts or not Path(text).name:
        raise ValueError(f"{text!r} is not the path of a file without '..'")
    return Path(text)


def _optional_pattern(text: str) -> re.Pattern[bytes] | None:
    return compile_pattern(text) if text else None


def _record_limit(text: str) -> int:
    size = parse_size(text)
    if size < 1024:
        raise ValueError(f"{text!r} is too small for any event: use at least 1KB")
    return size


def option(value: str, default: str, parse: Callable[[str], Any], about: str) -> dict[str, Any]:
    """What makes a field of Settings an option: see Option."""
    return {"option": (value, default, parse, about)}


@dataclass(frozen=True, slots=True)
class Settings:
    """Durations are seconds, sizes are bytes. An option of the command line is a field with `option`: what it
    is called, its default, how it is read and what the help says of it are here and nowhere else.
    """

    framework_id: str
    executor_id: str
    agent_id: str | None
    endpoint: Endpoint
    tls: TlsSettings | None
    token: str | None
    sandbox: Path
    checkpoint: bool
    recovery_timeout: float
    backoff_max: float
    shutdown_grace: float
    allocation_role: str | None

    encoding: Encoding = field(
        metadata=option("protobuf|json", "protobuf", _encoding, "how messages are written on the wire")
    )
    max_record: int = field(
        metadata=option(
            "SIZE",
            f"{DEFAULT_MAX_RECORD >> 20}MB",
            _record_limit,
            "largest event accepted; a larger one drops the subscription",
        )
    )
    registration_timeout: float = field(
        metadata=option("DURATION", "1mins", seconds, "give up when the first subscription takes longer")
    )
    subscribe_timeout: float = field(
        metadata=option(
            "DURATION", "15secs", seconds, "longest wait for the answer to SUBSCRIBE on an open connection"
        )
    )
    ack_timeout: float = field(
        metadata=option(
            "DURATION",
            "60secs",
            seconds,
            "longest wait for the last acknowledgement before leaving without it",
        )
    )
    idle_timeout: float = field(
        metadata=option(
            "DURATION",
            "0ns",
            seconds,
            "leave when subscribed this long without ever getting a task; 0ns waits for ever",
        )
    )
    watchdog: float = field(
        metadata=option(
            "DURATION",
            "65mins",
            seconds,
            "subscribe anew after this long without an event; agents send one every 30mins; 0ns never does",
        )
    )
    heartbeat_interval: float = field(
        metadata=option("DURATION", "30mins", seconds, "between HEARTBEAT calls; 0ns sends none")
    )
    kill_grace: float = field(
        metadata=option(
            "DURATION", "3secs", seconds, "between SIGTERM and SIGKILL where no kill policy says otherwise"
        )
    )
    linger: float = field(
        metadata=option(
            "DURATION",
            "30ms",
            seconds,
            "stay this long after the last acknowledgement, for a LAUNCH that answers it",
        )
    )
    stay: bool = field(
        metadata=option("", "false", parse_flag, "stay when the last task is done, instead of leaving")
    )
    log_file: Path | None = field(
        metadata=option(
            "PATH",
            "mesokit-executor.log",
            _optional_path,
            "the executor's own log, relative to the sandbox; empty for standard error",
        )
    )
    log_level: str = field(metadata=option("LEVEL", "info", _level, "debug, info, warning or error"))
    log_size: int = field(metadata=option("SIZE", "5MB", parse_size, "size at which the log is rotated"))
    log_backups: int = field(metadata=option("N", "2", _count, "rotated logs kept"))
    output_size: int = field(
        metadata=option(
            "SIZE",
            "0B",
            parse_size,
            "rotate stdout and stderr of tasks at this size; 0B hands them the sandbox's own pipes",
        )
    )
    output_backups: int = field(metadata=option("N", "2", _count, "rotated outputs kept"))
    inspect: bool = field(
        metadata=option("true|false", "true", parse_flag, "serve the state on mesokit.sock in the sandbox")
    )
    progress_regex: re.Pattern[bytes] | None = field(
        metadata=option(
            "REGEX",
            "",
            _optional_pattern,
            "find progress in the output: group 1 is per cent, group 2 a message",
        )
    )
    progress_file: Path | None = field(
        metadata=option(
            "PATH",
            "",
            _optional_path,
            "a file in the sandbox where tasks write progress, named to them in MESOKIT_PROGRESS_FILE; "
            "{task} in it stands for the task's id",
        )
    )
    progress_interval: float = field(
        metadata=option("DURATION", "1secs", seconds, "least time between two progress messages")
    )
    usage_interval: float = field(
        metadata=option(
            "DURATION", "0ns", seconds, "time between two samples of what tasks use; 0ns on demand"
        )
    )

    def __repr__(self) -> str:
        return f"Settings({self.framework_id!r}, {self.executor_id!r}, {self.endpoint!r})"


OPTIONS = tuple(
    Option(declared.name.replace("_", "-"), *declared.metadata["option"])
    for declared in fields(Settings)
    if "option" in declared.metadata
)


def load(environ: Mapping[str, str], arguments: Sequence[str], cwd: Path) -> Settings:
    """The settings. `cwd` is the sandbox where no variable names it. Raises ConfigError."""
    problems: list[str] = []
    options = _options(environ, arguments, problems)
    read = _Variables(environ, problems)
    checkpoint = read.parsed("MESOS_CHECKPOINT", "0", parse_flag, False)
    sandbox = _sandbox(environ, cwd)
    file = options["progress_file"]
    if file is not None and file.is_absolute():
        if not file.is_relative_to(sandbox):
            problems.append(f"progress-file: {str(file)!r} does not lie in the sandbox, {sandbox}")
        else:
            options["progress_file"] = file.relative_to(sandbox)
    settings = Settings(
        framework_id=read.required("MESOS_FRAMEWORK_ID"),
        executor_id=read.required("MESOS_EXECUTOR_ID"),
        agent_id=environ.get("MESOS_SLAVE_ID") or None,
        endpoint=_endpoint(environ, read, problems),
        tls=None if environ.get("MESOS_DOMAIN_SOCKET") else read_tls(environ, problems),
        token=environ.get(TOKEN_VARIABLE) or None,
        sandbox=sandbox,
        checkpoint=checkpoint,
        recovery_timeout=read.parsed("MESOS_RECOVERY_TIMEOUT", "15mins", seconds, 900.0),
        backoff_max=read.parsed("MESOS_SUBSCRIPTION_BACKOFF_MAX", "2secs", seconds, 2.0),
        shutdown_grace=read.parsed("MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD", "5secs", seconds, 5.0),
        allocation_role=environ.get("MESOS_ALLOCATION_ROLE") or None,
        **options,
    )
    if problems:
        raise ConfigError(problems)
    return settings


def usage() -> str:
    """The help text."""
    lines = [
        "usage: mesokit-executor [option ...]",
        "",
        "A Mesos executor. The agent starts it and sets MESOS_FRAMEWORK_ID, MESOS_EXECUTOR_ID,",
        "MESOS_AGENT_ENDPOINT and the other variables it reads. Durations are written as Mesos does:",
        "1500ms, 5secs, 15mins.",
        "",
    ]
    for option in OPTIONS:
        lines.append(f"  --{option.name} {option.value}".rstrip())
        default = f" [{option.default}]" if option.default else ""
        lines.append(f"        {option.about}{default}; also {option.variable}")
    lines += ["  --version", "  --help"]
    return "\n".join(lines)


def _options(environ: Mapping[str, str], arguments: Sequence[str], problems: list[str]) -> dict[str, Any]:
    known = {option.name: option for option in OPTIONS}
    given = {
        option.name: (option.variable, environ[option.variable])
        for option in OPTIONS
        if option.variable in environ
    }
    rest = list(arguments)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        option = known.get(name.removeprefix("--")) if name.startswith("--") else None
        if option is None:
            problems.append(f"there is no option {name!r}: --help lists them")
        elif equals:
            given[option.name] = (name, value)
        elif not option.value:
            given[option.name] = (name, "true")
        elif rest:
            given[option.name] = (name, rest.pop(0))
        else:
            problems.append(f"{name} needs a value: {option.value}")
    values: dict[str, Any] = {}
    for option in OPTIONS:
        where, text = given.get(option.name, (option.name, option.default))
        try:
            values[option.field] = option.parse(text)
        except ValueError as error:
            problems.append(f"{where}: {error}")
            values[option.field] = option.parse(option.default)
    return values


@dataclass(frozen=True, slots=True)
class _Variables:
    environ: Mapping[str, str]
    problems: list[str]

    def required(self, name: str) -> str:
        value = self.environ.get(name, "")
        if not value:
            self.problems.append(f"{name} is not set: a Mesos agent sets it for its executors")
        return value

    def parsed(self, name: str, default: str, parse: Callable[[str], T], fallback: T) -> T:
        try:
            return parse(self.environ.get(name) or default)
        except ValueError as error:
            self.problems.append(f"{name}: {error}")
            return fallback


def _sandbox(environ: Mapping[str, str], cwd: Path) -> Path:
    """The sandbox as this process sees it: MESOS_DIRECTORY is the host's view of it."""
    for name in ("MESOS_SANDBOX", "MESOS_DIRECTORY"):
        value = environ.get(name)
        if value and Path(value).is_dir():
            return Path(value)
    return cwd


def _endpoint(environ: Mapping[str, str], read: _Variables, problems: list[str]) -> Endpoint:
    prefix = ""
    if pid := environ.get("MESOS_SLAVE_PID"):
        name, at, _ = pid.partition("@")
        if at and name and name.isprintable() and not set(name) & set(" /?#%"):
            prefix = f"/{name}"
        else:
            problems.append(f"MESOS_SLAVE_PID: {pid!r} is not an agent's id such as slave(1)@10.0.0.7:5051")
    if socket := environ.get("MESOS_DOMAIN_SOCKET"):
        if not socket.startswith("/"):
            problems.append(f"MESOS_DOMAIN_SOCKET: {socket!r} is not an absolute path")
        return Endpoint("", 0, Path(socket), prefix)
    text = read.required("MESOS_AGENT_ENDPOINT")
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if text and not (_is_host(host) and port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        problems.append(f"MESOS_AGENT_ENDPOINT: {text!r} is not an address and port such as 10.0.0.7:5051")
        return Endpoint("", 0, None, prefix)
    return Endpoint(host, int(port or 0), None, prefix)


def _is_host(text: str) -> bool:
    """Whether it may be a name or an address; colons are an IPv6 address's alone, `%` begins its zone."""
    if ":" not in text:
        return bool(text) and not set(text) & set("[]/@ ")
    try:
        socket.inet_pton(socket.AF_INET6, text.partition("%")[0])
    except (OSError, ValueError):
        return False
    return True
