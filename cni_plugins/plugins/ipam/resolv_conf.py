"""The host's resolv.conf (resolv.conf(5)), for the `dns` of a result."""

from pathlib import Path

from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Dns


def read(path: str) -> Dns:
    """A resolv.conf as the result's dns. CniError 5 when it cannot be read."""
    servers: list[str] = []
    search: tuple[str, ...] = ()
    options: list[str] = []
    domain = ""
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except (OSError, ValueError) as error:
        raise CniError(Code.IO, f"cannot read resolvConf {path}", str(error)) from error
    for line in lines:
        words = line.split()
        if not words or words[0][0] in "#;":
            continue
        if words[0] == "nameserver" and len(words) > 1:
            servers.append(words[1])
        elif words[0] == "domain" and len(words) > 1:
            domain = words[1]
        elif words[0] == "search":
            search = tuple(words[1:])
        elif words[0] == "options":
            options += words[1:]
    return Dns(tuple(servers), domain, search, tuple(options))
