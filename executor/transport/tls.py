"""TLS as libprocess does it: what is verified, and against which name.

A connection verified by name is checked here and not by the ssl module, because the rules are
libprocess': with the legacy scheme the certificate must name the agent's reverse DNS name or, where
VERIFY_IPADD is on, its address; with the openssl scheme it must name what was dialled.
"""

import contextlib
import socket
import ssl
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from executor.config.settings import ConfigError
from executor.config.tls import HostnameScheme, TlsSettings

_VERSIONS = (
    ssl.TLSVersion.TLSv1,
    ssl.TLSVersion.TLSv1_1,
    ssl.TLSVersion.TLSv1_2,
    ssl.TLSVersion.TLSv1_3,
)
_SWITCHES = (ssl.OP_NO_TLSv1, ssl.OP_NO_TLSv1_1, ssl.OP_NO_TLSv1_2, ssl.OP_NO_TLSv1_3)


@dataclass(frozen=True, slots=True)
class Context:
    """A TLS context and how names are verified in it. `peer`: what the other side is called in errors."""

    settings: TlsSettings
    context: ssl.SSLContext
    peer: str = "agent"

    def wrap(self, sock: socket.socket, host: str) -> ssl.SSLSocket:
        """TLS on a connected socket, the hands yet to be shaken. A name goes into the SNI, an address not
        (RFC 6066 3).
        """
        name = None if _is_address(host) else host
        return self.context.wrap_socket(sock, server_hostname=name, do_handshake_on_connect=False)

    def verify(self, sock: ssl.SSLSocket, host: str) -> None:
        """Compare the names in the certificate that was shown, where that is asked for. Raises
        ssl.SSLCertVerificationError (an OSError).
        """
        if self.settings.verify:
            self.verify_names(sock.getpeercert() or {}, sock.getpeername(), host)

    def verify_names(self, certificate: Any, address: Any, host: str) -> None:
        """The same for a certificate as getpeercert gives it, shown at `address` (a socket's)."""
        if not self.settings.verify:
            return
        wanted = self._names(address, host)
        if not any(names(certificate, name) for name in wanted):
            raise ssl.SSLCertVerificationError(1, _mismatch(certificate, wanted, self.peer))

    def _names(self, address: Any, host: str) -> list[str]:
        if self.settings.scheme is HostnameScheme.OPENSSL:
            return [host]
        wanted = [address[0]] if self.settings.verify_address else []
        with contextlib.suppress(OSError):
            wanted.append(socket.getnameinfo(address, socket.NI_NAMEREQD)[0])
        return wanted


def make_context(settings: TlsSettings, peer: str = "agent") -> Context:
    """The context. Raises ConfigError when a file, cipher list or curve cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED if settings.verify else ssl.CERT_NONE
    context.minimum_version = _VERSIONS[min(settings.versions)]
    context.maximum_version = _VERSIONS[max(settings.versions)]
    for minor in range(min(settings.versions) + 1, max(settings.versions)):
        if minor not in settings.versions:
            context.options |= _SWITCHES[minor]
    problems: list[str] = []
    _use_authorities(context, settings, problems)
    try:
        if settings.certificate is not None:
            # With no password given, OpenSSL would ask a terminal for that of a locked key.
            context.load_cert_chain(settings.certificate, settings.key, password="")
    except OSError as error:
        problems.append(f"LIBPROCESS_SSL_CERT_FILE: {settings.certificate} or its key: {error}")
    try:
        if settings.ciphers is not None:
            context.set_ciphers(settings.ciphers)
    except ssl.SSLError:
        problems.append(f"LIBPROCESS_SSL_CIPHERS: no cipher of {settings.ciphers!r} is known here")
    try:
        if settings.curve not in (None, "auto"):
            context.set_ecdh_curve(str(settings.curve))
    except (ValueError, ssl.SSLError):
        problems.append(f"LIBPROCESS_SSL_ECDH_CURVE: {settings.curve!r} is no known curve: use auto")
    if problems:
        raise ConfigError(problems)
    return Context(settings, context, peer)


def names(certificate: Any, wanted: str) -> bool:
    """Whether a certificate, as getpeercert gives it, names a host or address (RFC 6125, RFC 2818)."""
    alternatives = certificate.get("subjectAltName", ())
    if _is_address(wanted):
        return any(
            kind == "IP Address" and ip_address(value.strip()) == ip_address(wanted)
            for kind, value in alternatives
        )
    hosts = [value for kind, value in alternatives if kind == "DNS"]
    if not alternatives:
        subject = [entry for part in certificate.get("subject", ()) for entry in part]
        hosts = [value for kind, value in subject if kind == "commonName"]
    return any(_same_host(pattern, wanted) for pattern in hosts)


def _same_host(pattern: str, host: str) -> bool:
    """A wildcard stands for the whole leftmost label, never for more."""
    pattern, host = pattern.lower().rstrip("."), host.lower().rstrip(".")
    if pattern.startswith("*."):
        return host.partition(".")[2] == pattern[2:] and "." in pattern[2:]
    return pattern == host


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _mismatch(certificate: Any, wanted: list[str], peer: str) -> str:
    held = ", ".join(value for _, value in certificate.get("subjectAltName", ())) or "no name"
    if not wanted:
        return f"the {peer}'s address has no name to verify: set LIBPROCESS_SSL_VERIFY_IPADD=true"
    return f"the {peer}'s certificate names {held}, not {' or '.join(wanted)}"


def _use_authorities(context: ssl.SSLContext, settings: TlsSettings, problems: list[str]) -> None:
    file, directory = settings.authorities_file, settings.authorities_directory
    if file is None and directory is None:
        context.load_default_certs()
        return
    try:
        context.load_verify_locations(file, directory)
    except OSError as error:
        problems.append(f"LIBPROCESS_SSL_CA_FILE: {file or directory} holds no authorities: {error}")
