"""Executor tokens: JWT signed with HS256, as an agent with --jwt_secret_key makes and checks them.

The claims are `fid`, `eid` and `cid`; there is no expiry. A token admits to calls of that executor only.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from dataclasses import dataclass

CHALLENGE = 'Bearer realm="mesos-agent-executor"'
"""The WWW-Authenticate header of a 401."""


@dataclass(frozen=True, slots=True)
class Claims:
    """Whose token it is: framework, executor and container."""

    framework: str
    executor: str
    container: str


def make_token(claims: Claims, key: bytes) -> str:
    """A signed token."""
    header = _encode(json.dumps({"alg": "HS256", "typ": "JWT"}, separators=(",", ":")).encode())
    body = {"cid": claims.container, "eid": claims.executor, "fid": claims.framework}
    payload = _encode(json.dumps(body, separators=(",", ":")).encode())
    return f"{header}.{payload}.{_signature(f'{header}.{payload}', key)}"


def read_token(token: str, key: bytes) -> Claims | None:
    """The claims of a token, or None when it was not signed with this key."""
    signed, _, signature = token.rpartition(".")
    if not hmac.compare_digest(_signature(signed, key).encode(), signature.encode()):
        return None
    try:
        body = json.loads(_decode(signed.partition(".")[2]))
        return Claims(body["fid"], body["eid"], body["cid"])
    except (binascii.Error, ValueError, KeyError, TypeError):
        return None


def _signature(signed: str, key: bytes) -> str:
    return _encode(hmac.digest(key, signed.encode(), hashlib.sha256))


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
