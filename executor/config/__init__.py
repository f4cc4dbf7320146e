"""Every variable and option the executor reads, parsed once into one frozen object."""

from executor.config.duration import format_duration, parse_duration
from executor.config.settings import ConfigError, Endpoint, Settings, load
from executor.config.tls import HostnameScheme, TlsSettings

__all__ = [
    "ConfigError",
    "Endpoint",
    "HostnameScheme",
    "Settings",
    "TlsSettings",
    "format_duration",
    "load",
    "parse_duration",
]
