"""How a framework says who it is: an Authorization header on every request, to every master, standbys
included.
"""

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


class CredentialError(ValueError):
    """The credential cannot be read; never says what is in it."""


@dataclass(slots=True)
class Credentials:
    """`read` makes the header's value anew after each 401; it may read a file that somebody renews.

    The value is never shown: not by repr, not in an error.
    """

    read: Callable[[], str] | None = field(default=None, repr=False)
    _value: str = field(default="", repr=False)
    _fresh: bool = field(default=False, repr=False)

    def header(self) -> tuple[tuple[str, str], ...]:
        """The header, or none. Raises CredentialError."""
        if self.read is None:
            return ()
        if not self._fresh:
            self._value = self.read()
            self._fresh = True
        return (("Authorization", self._value),)

    def refresh(self) -> None:
        """Read it again when it is next needed."""
        self._fresh = False


def basic(principal: str, secret_file: Path) -> Credentials:
    """Basic authentication, the secret from a file (its last newline is not part of it)."""

    def read() -> str:
        secret = _text(secret_file)
        return "Basic " + base64.b64encode(f"{principal}:{secret}".encode()).decode()

    return Credentials(read)


def bearer(token_file: Path, scheme: str = "Bearer") -> Credentials:
    """A token from a file, read again when it is refused. `scheme` is written before it (DC/OS: `token=`)."""

    def read() -> str:
        token = _text(token_file)
        return f"{scheme}{token}" if scheme.endswith("=") else f"{scheme} {token}"

    return Credentials(read)


def _text(path: Path) -> str:
    try:
        text = path.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise CredentialError(f"cannot read the credential file {path}: {why}") from None
    if not text or any(character in text for character in "\r\n\0"):
        raise CredentialError(f"the credential file {path} does not hold one line")
    return text
