"""The addresses of a process's network namespace, read in /proc: nobody has to enter it."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

_LINK_LOCAL, _HOST = 0x20, 0x10  # scopes of IPv6 in /proc/net/if_inet6


def of_process(pid: int) -> list[str]:
    """IPv4 and then IPv6, without those of lo and the link; none where the process shares our own namespace.
    OSError.
    """
    ours = Path("/proc/self/ns/net").stat()
    theirs = Path(f"/proc/{pid}/ns/net").stat()
    if os.path.samestat(ours, theirs):
        return []
    found: list[str] = []
    address = ""
    for line in Path(f"/proc/{pid}/net/fib_trie").read_text().splitlines():
        words = line.split()
        if words[:1] == ["|--"]:
            address = words[1]
        elif words == ["/32", "host", "LOCAL"] and not address.startswith("127."):
            found.append(address)
    for line in _lines(Path(f"/proc/{pid}/net/if_inet6")):
        digits, _index, _prefix, scope, *_ = line.split()
        if int(scope, 16) not in {_LINK_LOCAL, _HOST}:
            found.append(str(ipaddress.IPv6Address(bytes.fromhex(digits))))
    return list(dict.fromkeys(found))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except FileNotFoundError:  # a kernel without IPv6
        return []
