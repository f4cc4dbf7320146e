"""TLS as libprocess configures it: the LIBPROCESS_SSL_* variables, or their legacy SSL_* names.

An agent does not set these for its executors; operators hand them on. As in libprocess, a certificate is
always asked of the agent but only verified when VERIFY_SERVER_CERT says so.
"""

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_PREFIXES = ("LIBPROCESS_SSL_", "SSL_")


class HostnameScheme(enum.Enum):
    """What the agent's certificate is compared with: its address' reverse DNS name, or what was dialled."""

    LEGACY = "legacy"
    OPENSSL = "openssl"


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """How to speak TLS to the agent. `versions` are the enabled ones, as (1, minor); paths are as given."""

    verify: bool
    verify_address: bool
    verify_depth: int
    scheme: HostnameScheme
    certificate: Path | None
    key: Path | None
    authorities_file: Path | None
    authorities_directory: Path | None
    ciphers: str | None
    curve: str | None
    versions: frozenset[int]


def read_tls(environ: Mapping[str, str], problems: list[str]) -> TlsSettings | None:
    """The TLS settings, or None where TLS is off. Appends a sentence to `problems` for each bad variable."""
    reader = _Reader(environ, problems)
    if not reader.flag("ENABLED", False):
        return None
    certificate, key = reader.path("CERT_FILE"), reader.path("KEY_FILE")
    if key is not None and certificate is None:
        problems.append("LIBPROCESS_SSL_KEY_FILE has no certificate: set LIBPROCESS_SSL_CERT_FILE")
    verify = reader.flag("VERIFY_SERVER_CERT", reader.flag("VERIFY_CERT", False))
    versions = frozenset(minor for minor in range(4) if reader.flag(f"ENABLE_TLS_V1_{minor}", minor >= 2))
    if not versions:
        problems.append("every TLS version is switched off: set LIBPROCESS_SSL_ENABLE_TLS_V1_2=true")
    return TlsSettings(
        verify=verify,
        verify_address=reader.flag("VERIFY_IPADD", False),
        verify_depth=reader.number("VERIFY_DEPTH", 4),
        scheme=reader.scheme(),
        certificate=certificate,
        key=key,
        authorities_file=reader.path("CA_FILE"),
        authorities_directory=reader.path("CA_DIR"),
        ciphers=reader.text("CIPHERS"),
        curve=reader.text("ECDH_CURVE"),
        versions=versions,
    )


@dataclass(frozen=True, slots=True)
class _Reader:
    environ: Mapping[str, str]
    problems: list[str]

    def find(self, name: str) -> tuple[str, str] | None:
        for prefix in _PREFIXES:
            value = self.environ.get(prefix + name)
            if value:
                return prefix + name, value
        return None

    def text(self, name: str) -> str | None:
        found = self.find(name)
        return found[1] if found else None

    def flag(self, name: str, default: bool) -> bool:
        return self._parsed(name, default, parse_flag)

    def number(self, name: str, default: int) -> int:
        return self._parsed(name, default, _parse_count)

    def scheme(self) -> HostnameScheme:
        return self._parsed("HOSTNAME_VALIDATION_SCHEME", HostnameScheme.LEGACY, _parse_scheme)

    def path(self, name: str) -> Path | None:
        found = self.find(name)
        if found is None:
            return None
        path = Path(found[1].removeprefix("file://"))
        if not path.exists():
            self.problems.append(f"{found[0]}: {str(path)!r} does not exist: give an existing path")
        return path

    def _parsed(self, name: str, default: T, parse: Callable[[str], T]) -> T:
        found = self.find(name)
        if found is None:
            return default
        try:
            return parse(found[1])
        except ValueError as error:
            self.problems.append(f"{found[0]}: {error}")
            return default


def parse_flag(text: str) -> bool:
    """A Mesos flag. Raises ValueError with a sentence."""
    if text in ("1", "true"):
        return True
    if text in ("0", "false"):
        return False
    raise ValueError(f"{text!r} is neither 1, true, 0 nor false")


def _parse_count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError(f"{text!r} is not a number of certificates such as 4")
    return int(text)


def _parse_scheme(text: str) -> HostnameScheme:
    try:
        return HostnameScheme(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither legacy nor openssl") from None
