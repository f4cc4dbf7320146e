"""Rules of the host as nft prints them, and whose they are."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping

from cni_plugins.kernel.nft.elements import TABLE

_SECONDS = 10.0
#: How the chains of others in the tables that iptables shares begin.
_CHAINS: Mapping[str, str] = {
    "DOCKER": "Docker",
    "KUBE-": "Kubernetes",
    "LIBVIRT_": "libvirt",
    "CNI-": "the reference plugins",
    "CNI_": "the reference plugins",
    "cali-": "Calico",
    "CILIUM_": "Cilium",
    "ufw": "ufw",
    "f2b-": "fail2ban",
    "NETAVARK": "podman",
    "PODMAN": "podman",
}
_TABLES: Mapping[str, str] = {
    TABLE: "mesokit's own",
    "firewalld": "firewalld",
    "libvirt_network": "libvirt",
    "netavark": "podman",
    "docker-bridges": "Docker",
    "kube-proxy": "Kubernetes",
}


class Rules:
    """The text of rules, each chain listed once."""

    __slots__ = ("_chains",)

    def __init__(self) -> None:
        self._chains: dict[tuple[str, str, str], dict[int, str]] = {}

    def text(self, family: str, table: str, chain: str, handle: int) -> str:
        """`rule TEXT`; its handle where the text is not to be had, "" for handle 0 (the chain's policy)."""
        if not handle:
            return ""
        key = (family, table, chain)
        if key not in self._chains:
            self._chains[key] = _listed(*key)
        return f"rule {self._chains[key].get(handle, handle)}"

    def whose(self, family: str, table: str, chain: str) -> str:
        """Who made it, as a few words; "not ours" where that cannot be told."""
        if table in _TABLES:
            return _TABLES[table] if table == TABLE else f"not ours: {_TABLES[table]}"
        if table.startswith("cni_"):
            return "not ours: the reference plugins"
        for beginning, who in _CHAINS.items():
            if family in {"ip", "ip6"} and chain.startswith(beginning):
                return f"not ours: {who}"
        return "not ours"


def _listed(family: str, table: str, chain: str) -> dict[int, str]:
    argv = ["nft", "--handle", "--terse", "list", "chain", family, table, chain]
    try:
        done = subprocess.run(argv, capture_output=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return {}
    found = {}
    for line in done.stdout.decode(errors="replace").splitlines():
        text, _, handle = line.partition(" # handle ")
        if handle.strip().isdigit():
            found[int(handle)] = text.strip()
    return found
