"""TLS towards masters and agents: whom to trust, who we are, and what the other side must be called.

Two ways to say it. By `trusting`: the certificate must come from an authority that we trust and name what was
dialled, host or address. By `from_environment`: the LIBPROCESS_SSL_* variables as every Mesos process reads
them, so with libprocess' own rules (executor/config/tls.py); there a certificate is verified only if
VERIFY_SERVER_CERT says so.

Where TLS is asked for, nothing is ever said in clear: not to a master that does not speak it, not to the one
that a redirect names, whatever scheme stands in it.
"""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from executor.config.settings import ConfigError
from executor.config.tls import read_tls
from executor.transport.tls import Context, make_context


class TlsError(ValueError):
    """A certificate, key, authority or variable that cannot be used; says which."""


@dataclass(frozen=True, slots=True)
class Tls:
    """`libprocess` has the rules for names where they are not the context's own."""

    context: ssl.SSLContext
    libprocess: Context | None = None

    @property
    def verifies(self) -> bool:
        """Whether anything is asked of the other side's certificate."""
        return self.context.verify_mode is ssl.CERT_REQUIRED

    async def verify(self, writer: asyncio.StreamWriter, host: str) -> None:
        """After the handshake: compare names where the context did not. Raises OSError."""
        if self.libprocess is None:
            return
        certificate = writer.get_extra_info("peercert") or {}
        address = writer.get_extra_info("peername")
        # Its rules may ask the resolver for the address' name, which waits.
        await asyncio.to_thread(self.libprocess.verify_names, certificate, address, host)


def trusting(authority: Path | None, certificate: Path | None = None, key: Path | None = None) -> Tls:
    """Trust one authority's certificates (PEM), None for those of this host; show `certificate` to whoever
    asks. Raises TlsError.
    """
    if key is not None and certificate is None:
        raise TlsError(f"key {key} has no certificate beside it")
    try:
        context = ssl.create_default_context(cafile=authority)
    except OSError as error:
        raise TlsError(f"{authority} holds no certificate authority: {_why(error)}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if certificate is not None:
        try:
            # With no password given, OpenSSL would ask a terminal for that of a locked key.
            context.load_cert_chain(certificate, key, password="")
        except OSError as error:
            raise TlsError(f"certificate {certificate} or its key cannot be used: {_why(error)}") from None
    return Tls(context)


def from_environment(environ: Mapping[str, str]) -> Tls | None:
    """What LIBPROCESS_SSL_* say, None where they do not switch TLS on. Raises TlsError with all problems."""
    problems: list[str] = []
    settings = read_tls(environ, problems)
    if problems:
        raise TlsError("; ".join(problems))
    if settings is None:
        return None
    try:
        made = make_context(settings, peer="master")
    except ConfigError as error:
        raise TlsError(str(error)) from None
    return Tls(made.context, made)


def refusal(address: str, error: ssl.SSLError) -> OSError:
    """What a handshake, or the word that comes instead of one, failed of: for people."""
    if isinstance(error, ssl.SSLCertVerificationError):
        text = getattr(error, "verify_message", "") or str(error.args[-1])
        return OSError(f"the certificate of {address} is not accepted: {text}")
    if error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"):
        return OSError(f"{address} does not speak TLS, and nothing is said in clear")
    return OSError(f"TLS with {address}: {(error.reason or 'broken off').replace('_', ' ').lower()}")


def _why(error: OSError) -> str:
    reason = getattr(error, "reason", None)
    return (reason or error.strerror or str(error)).replace("_", " ").lower()
