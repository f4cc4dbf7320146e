"""The iptables backend: the reference plugins' own chains, for hosts that ask for it and for what they
left there.

One iptables-save tells what is there, one iptables-restore changes it, each waiting a bounded time for
the xtables lock. Chain names and comments are the reference plugins' to the byte, so that either side can
take down what the other has set up. Only rules that jump from a built-in chain are looked for before they
are added; a container's own chain is always written whole.

Callers hold a lock of their own around a change, since two processes that save, think and restore at once
would add the shared rules twice.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cni_plugins.kernel.namespace import entered
from cni_plugins.kernel.netlink.netfilter import NFPROTO_IPV4, NFPROTO_IPV6, Nfnetlink
from cni_plugins.kernel.nft import xtables
from cni_plugins.kernel.nft.elements import chain_message, exist
from cni_plugins.kernel.program import run
from cni_plugins.spec.deadline import Deadline
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.values import IpInterface

FAMILIES = {4: "iptables", 6: "ip6tables"}
_NFPROTO = {4: NFPROTO_IPV4, 6: NFPROTO_IPV6}
_LEGACY_NAMES = {4: "/proc/thread-self/net/ip_tables_names", 6: "/proc/thread-self/net/ip6_tables_names"}
_LOCK_SECONDS = 5
_SBIN = "/usr/sbin:/sbin:/usr/bin:/bin"

_DNAT, _SETMARK, _MASQ = "CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-SETMARK", "CNI-HOSTPORT-MASQ"
_MULTIPORT = 15


@dataclass(frozen=True, slots=True)
class Tool:
    """iptables of a family in a namespace, and one of its tables."""

    host: Namespace
    version: int
    deadline: Deadline
    table: str = "nat"

    def save(self) -> list[str]:
        """The lines of the table as iptables-save prints them. CniError 11 or 999."""
        return self._run(f"{FAMILIES[self.version]}-save", ["-t", self.table], "").splitlines()

    def restore(self, lines: Sequence[str]) -> None:
        """Change the table: all lines or none. CniError 11 or 999."""
        text = "\n".join([f"*{self.table}", *lines, "COMMIT", ""])
        wait = max(1, min(_LOCK_SECONDS, int(self.deadline.remaining())))
        self._run(f"{FAMILIES[self.version]}-restore", ["--noflush", "-w", str(wait)], text)

    def _run(self, name: str, arguments: Sequence[str], text: str) -> str:
        program = find(name)
        if program is None:
            raise CniError(
                Code.INTERNAL,
                f"the iptables backend needs {name}, which is not installed",
                "install iptables, or choose nftables as backend",
            )
        env = {"PATH": _SBIN, "LC_ALL": "C"}
        done = run(self.host, [program, *arguments], env, text.encode(), self.deadline)
        if done.status != 0:
            said = done.err.decode("utf-8", "replace").strip().replace("\n", "; ")
            raise CniError(Code.INTERNAL, f"{name} failed with status {done.status}", said)
        return done.out.decode("utf-8", "replace")


def find(name: str) -> str | None:
    """A program by the PATH of this process, or where Debian has it."""
    for folder in f"{os.environ.get('PATH', '')}:{_SBIN}".split(":"):
        program = f"{folder}/{name}"
        if folder and os.access(program, os.X_OK):
            return program
    return None


def chain_name(prefix: str, identity: Identity) -> str:
    """The reference plugins' name for a container's chain: 28 characters, whatever the identifiers."""
    digest = hashlib.sha512((identity.network + identity.container_id).encode()).hexdigest()
    return f"CNI-{prefix}{digest}"[:28]


def quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _named(identity: Identity, prefix: str = "") -> str:
    return quoted(f'{prefix}name: "{identity.network}" id: "{identity.container_id}"')


def _jumps(saved: Sequence[str], chain: str) -> list[str]:
    """The rules of other chains that jump to `chain`."""
    return [
        line
        for line in saved
        if line.startswith("-A ") and line.endswith(f" -j {chain}") and line.split(" ", 2)[1] != chain
    ]


def _gone(saved: Sequence[str], chain: str, keep: Callable[[str], bool] = lambda line: False) -> list[str]:
    """What to restore so that `chain` and the jumps to it go; with jumps to keep, the chain stays."""
    jumps = _jumps(saved, chain)
    lines = ["-D" + line[2:] for line in jumps if not keep(line)]
    declared = any(line.startswith(f":{chain} ") for line in saved)
    if declared and not any(keep(line) for line in jumps):
        lines = [f":{chain} - [0:0]", *lines, f"-X {chain}"]
    return lines


def add_masquerade(tool: Tool, identity: Identity, addresses: Sequence[IpInterface]) -> None:
    """Masquerade addresses of the tool's family as the reference plugins do. CniError 11 or 999."""
    chain = chain_name("", identity)
    comment = f"-m comment --comment {_named(identity)}"
    multicast = "224.0.0.0/4" if tool.version == 4 else "ff00::/8"
    saved = tool.save()
    # What another interface of the container on this network has in the same chain stays.
    rules = [line for line in saved if line.startswith(f"-A {chain} -d ") and line.endswith(" -j ACCEPT")]
    rules += [f"-A {chain} -d {item.network} {comment} -j ACCEPT" for item in addresses]
    rules.append(f"-A {chain} ! -d {multicast} {comment} -j MASQUERADE")
    present = _jumps(saved, chain)
    for item in addresses:
        source = f"-s {item.ip}/{item.max_prefixlen}"
        if not any(f" {source} " in line for line in present):
            rules.append(f"-A POSTROUTING {source} {comment} -j {chain}")
    tool.restore([f":{chain} - [0:0]", *dict.fromkeys(rules)])


def remove_masquerade(tool: Tool, identity: Identity, addresses: Sequence[IpInterface] | None = None) -> str:
    """Remove the rules of `addresses`, or of all (None: a reference plugin's, whose addresses are not known);
    the chain goes with its last rule. Idempotent. What could not be removed, as a sentence, "" for nothing.
    CniError 11 or 999.
    """
    chain = chain_name("", identity)
    sources = {f"{item.ip}/{item.max_prefixlen}" for item in addresses or ()}
    packed = None if addresses is None else [item.ip.packed for item in addresses]

    def keep(line: str) -> bool:
        words = line.split()
        return addresses is not None and "-s" in words and words[words.index("-s") + 1] not in sources

    return remove(
        tool,
        chain,
        lambda saved: _gone(saved, chain, keep),
        lambda family: xtables.remove_chain(tool.host, family, chain, packed),
    )


def remove(
    tool: Tool, chain: str, lines: Callable[[Sequence[str]], list[str]], by_netlink: Callable[[int], None]
) -> str:
    """Change by iptables what `lines` makes of what is there. Where iptables is not installed any more, or
    fails, its rules are removed from nf_tables, so that DEL has an end. Rules in the tables of the old
    x_tables are beyond reach then: an error if iptables could be mended, else a sentence that says so.
    """
    try:
        wanted = lines(tool.save())
        if wanted:
            tool.restore(wanted)
    except CniError as error:
        if error.code == Code.TRY_AGAIN:
            raise
        by_netlink(_NFPROTO[tool.version])
        if not _legacy_in_use(tool.host, tool.version, tool.table):
            return ""
        if find(f"{FAMILIES[tool.version]}-save") is not None:
            raise
        return (
            f"{FAMILIES[tool.version]} is not installed any more: rules of chain {chain} may remain in the "
            f"old table {tool.table} (x_tables) until it is installed and removes them, or the machine "
            "restarts"
        )
    return ""


def has_masquerade(tool: Tool, identity: Identity, addresses: Sequence[IpInterface]) -> bool:
    jumps = _jumps(tool.save(), chain_name("", identity))
    return all(any(f" -s {item.ip}/" in line for line in jumps) for item in addresses)


@dataclass(frozen=True, slots=True)
class Publication:
    """What portmap's iptables keys say of one family: `forwards` are (protocol, host ip or "", host port,
    container port)."""

    target: IpInterface
    forwards: tuple[tuple[str, str, int, int], ...]
    snat: bool
    masquerade_all: bool
    mark_bit: int
    external_chain: str
    conditions: tuple[str, ...]


def add_ports(tool: Tool, identity: Identity, wanted: Publication) -> None:
    """Publish ports as the reference portmap does. CniError 7 (no such chain), 11 or 999."""
    chain = chain_name("DN-", identity)
    saved = tool.save()
    lines = [f":{chain} - [0:0]"]
    rules = [line for line in saved if line.startswith("-A ")]

    def once(line: str, *, first: bool = False) -> None:
        if f"-A {line}" not in rules:
            lines.append(f"-{'I' if first else 'A'} {line}")

    if not any(line.startswith(f":{_DNAT} ") for line in saved):
        lines.append(f":{_DNAT} - [0:0]")
    for hook in ("PREROUTING", "OUTPUT"):
        once(f"{hook} -m addrtype --dst-type LOCAL -j {_DNAT}")
    mark = wanted.external_chain
    if mark and not any(line.startswith(f":{mark} ") for line in saved):
        raise CniError(
            Code.INVALID_CONFIG,
            f"externalSetMarkChain is {mark!r}, and the table nat of IPv{tool.version} has no such chain",
            "make the chain before the first container, or leave the key out",
        )
    if wanted.snat and not mark:
        mark = _SETMARK
        bit = f"0x{1 << wanted.mark_bit:x}/0x{1 << wanted.mark_bit:x}"
        lines += [f":{name} - [0:0]" for name in (_SETMARK, _MASQ) if f":{name} " not in "\n".join(saved)]
        comment = '-m comment --comment "CNI portfwd masquerade mark"'
        once(f"{_SETMARK} {comment} -j MARK --set-xmark {bit}")
        once(f"{_MASQ} -m mark --mark {bit} -j MASQUERADE")
        once(f'POSTROUTING -m comment --comment "CNI portfwd requiring masquerade" -j {_MASQ}', first=True)
    lines += _jumps_to_container(identity, wanted, chain, rules)
    lines += _container_rules(tool.version, wanted, chain, mark if wanted.snat else "")
    tool.restore(lines)


def _jumps_to_container(
    identity: Identity, wanted: Publication, chain: str, rules: Sequence[str]
) -> list[str]:
    stale = ["-D" + line[2:] for line in _jumps(rules, chain)]
    by_protocol: dict[str, list[int]] = {}
    for protocol, _, host_port, _ in wanted.forwards:
        by_protocol.setdefault(protocol, []).append(host_port)
    added = []
    conditions = "".join(f" {word}" for word in wanted.conditions)
    for protocol in sorted(by_protocol):
        ports = list(dict.fromkeys(by_protocol[protocol]))
        for start in range(0, len(ports), _MULTIPORT):
            listed = ",".join(map(str, ports[start : start + _MULTIPORT]))
            comment = _named(identity, "dnat ")
            added.append(
                f"-A {_DNAT} -p {protocol} -m comment --comment {comment} -m multiport --dports {listed}"
                f"{conditions} -j {chain}"
            )
    return stale + added


def _container_rules(version: int, wanted: Publication, chain: str, mark: str) -> list[str]:
    everybody = "0.0.0.0/0" if version == 4 else "::/0"
    hidden = everybody if wanted.masquerade_all else str(wanted.target.network)
    address = str(wanted.target.ip) if version == 4 else f"[{wanted.target.ip}]"
    lines = []
    for protocol, host_ip, host_port, container_port in wanted.forwards:
        to = f" -d {host_ip}" if host_ip else ""
        match = f"{to} -p {protocol} -m {protocol} --dport {host_port}"
        if mark:
            lines.append(f"-A {chain} -s {hidden}{match} -j {mark}")
            if version == 4:
                lines.append(f"-A {chain} -s 127.0.0.1/32{match} -j {mark}")
        lines.append(f"-A {chain}{match} -j DNAT --to-destination {address}:{container_port}")
    return lines


def remove_ports(tool: Tool, identity: Identity) -> str:
    """Remove a container's chain and the jumps to it; the shared chains stay. Idempotent. What could not be
    removed, as a sentence, "" for nothing. CniError 11 or 999.
    """
    chain = chain_name("DN-", identity)
    return remove(
        tool,
        chain,
        lambda saved: _gone(saved, chain),
        lambda family: xtables.remove_chain(tool.host, family, chain),
    )


def has_ports(tool: Tool, identity: Identity, wanted: Publication) -> bool:
    chain = chain_name("DN-", identity)
    saved = tool.save()
    targets = [line for line in saved if line.startswith(f"-A {chain} ") and " -j DNAT " in line]
    return bool(_jumps(saved, chain)) and len(targets) == len(wanted.forwards)


def remove_commented(tool: Tool, chain: str, comment: str) -> str:
    """Remove the rules of `chain` that carry exactly `comment` (what mesos-cni-port-mapper leaves). What
    could not be removed, as a sentence, "" for nothing. CniError 11 or 999.
    """

    def lines(saved: Sequence[str]) -> list[str]:
        return [
            "-D" + line[2:]
            for line in saved
            if line.startswith(f"-A {chain} ") and f"--comment {quoted(comment)} " in f"{line} "
        ]

    return remove(
        tool, chain, lines, lambda family: xtables.remove_commented(tool.host, family, chain, comment)
    )


def versions_with(host: Namespace, chains: Sequence[str], table: str = "nat") -> list[int]:
    """The families (4, 6) whose `table` may hold one of `chains`, found without running a program: by name
    where iptables works over nf_tables; where it is the old one, by the table being in use at all and by
    there being a program that could tell."""
    found = []
    with Nfnetlink(host) as socket:
        present = {
            version: any(exist(socket, [chain_message(family, table, chain) for chain in chains]))
            for version, family in _NFPROTO.items()
        }
    for version, there in present.items():
        if there or (_legacy_in_use(host, version, table) and find(f"{FAMILIES[version]}-save") is not None):
            found.append(version)
    return found


def _legacy_in_use(host: Namespace, version: int, table: str) -> bool:
    try:
        with entered(host):
            fd = os.open(_LEGACY_NAMES[version], os.O_RDONLY | os.O_CLOEXEC)
            try:
                return f"{table}\n".encode() in os.read(fd, 4096)
            finally:
                os.close(fd)
    except OSError:
        return False


def by_version(addresses: Sequence[IpInterface]) -> Mapping[int, list[IpInterface]]:
    families: dict[int, list[IpInterface]] = {}
    for item in addresses:
        families.setdefault(item.version, []).append(item)
    return families
