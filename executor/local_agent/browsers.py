"""Is it our own page that asks? What a browser says of a request, for servers that listen on loopback.

Any site that somebody visits may send requests to 127.0.0.1, and by a name of its own that leads there (DNS
rebinding) also read the answers. The latter shows in Host, which is then no name of this machine; the former
in Sec-Fetch-Site (W3C Fetch Metadata) and, where it may change something, in Origin (RFC 6454). What is no
browser sends neither of the two.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Container, Mapping
from urllib.parse import urlsplit

_OWN = frozenset(("same-origin", "none"))  # "none": typed, or a bookmark
_LOCAL = "localhost"
_UNFIT = frozenset("@/?#\\ ")


def host_name(host: str) -> str:
    """The name in a Host field or of an origin, without its port, in lower case; "" where it is none."""
    if _UNFIT.intersection(host):
        return ""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def is_loopback(name: str) -> bool:
    """Whether a name means this machine: an address of loopback, or `localhost`."""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == _LOCAL


def foreign(headers: Mapping[str, str], names: Container[str] = ()) -> str:
    """Why this request is another site's: a sentence, "" for one that is ours or no browser's. `headers` have
    lower-case names; `names` go as ours beside loopback.
    """
    host = headers.get("host", "")
    name = host_name(host)
    if not (is_loopback(name) or name in names):
        return f"Host {host!r}: this is not a name of mine: ask for 127.0.0.1 or localhost"
    site = headers.get("sec-fetch-site")
    if site is not None and site not in _OWN:
        return f"Sec-Fetch-Site {site!r}: only my own page may ask"
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2].lower() != host.lower():
        return f"Origin {origin!r}: only my own page may ask"
    return ""
