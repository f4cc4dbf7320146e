"""All that a plugin could leave behind, as plain facts, and the difference of two moments.

    before = snapshot(node)
    ...
    assert_clean(node, before)

A snapshot maps a fact's name ("node: route table main 10.9.0.0/24", "file /run/mesokit/…") to its value as
text. Counters, timers, handles and interface numbers are left out: they change by themselves, and so is what
the kernel makes of its own accord, a while after a link came up or a container spoke: link-local addresses of
hardware addresses, the routes that follow from those, multicast groups, learned addresses. Facts of a network
namespace are prefixed with its name; `node` is the node's own.

What both our plugins and the reference ones leave on purpose, because it belongs to the network or to the
machine and not to one attachment, is listed in PERMANENT with the reason, and `residue` does not report it.
Everything else counts.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from netns_tests.glance import digest, glance
from netns_tests.node import Netns, Node

Snapshot = dict[str, str]

#: Facts (as regular expressions over "name = value") that may stay when the last attachment has gone.
PERMANENT: tuple[tuple[str, str], ...] = (
    (r"node: sysctl ipv[46]/ip_forward ", "the machine forwards"),
    (r"node: sysctl ipv[46]/conf/[^ ]*/((mc_)?forwarding|accept_redirects) ", "follow from it"),
    (r"node: route local anycast ", "a router's addresses: so too"),
    (r"dir ", "empty directories hold nothing"),
    (r"file /var/lib/cni/networks/[^/]+/(lock|last_reserved_ip\.\d+) ", "host-local's; not a reservation"),
    (r"file /run/mesokit/(locks/|[^ ]*\.lock )", "a lock file must not vanish under one who waits for it"),
    (
        r'file /run/mesokit/policy/(state\.json  = [\s\S]*"endpoints":\[\n\]\}$|verified )',
        "which policies hold, for whoever comes; no endpoint is in it",
    ),
    (r"(file|dir) /run/mesokit/failures\b", "the calls that failed, for an operator"),
    (r"file /run/mesokit/host-local/[^/]+/stamp ", "when the index of reservations was last true"),
    (
        r"node: nft (table|chain) ip6? nat (nat|POSTROUTING|PREROUTING|OUTPUT|CNI-HOSTPORT-\w+) ",
        "the frame of iptables",
    ),
    (
        r"node: nft rule ip6? nat (POSTROUTING|PREROUTING|OUTPUT) .*CNI-HOSTPORT-(DNAT|MASQ)\"",
        "and of portmap in it",
    ),
    (r"node: nft rule ip6? nat CNI-HOSTPORT-(MASQ|SETMARK) ", "likewise"),
    (
        r"node: nft (table|chain) ip6? filter (filter|INPUT|FORWARD|OUTPUT|CNI-[A-Z]+(-STAGE-\d)?) ",
        "the frame of the firewall, and the administrator's own rules",
    ),
    (r"node: nft rule ip6? filter FORWARD .*CNI-(FORWARD|ISOLATION-STAGE-1)\"", "likewise"),
    (r"node: nft rule ip6? filter CNI-FORWARD .*CNI-ADMIN\"", "likewise"),
    (r"node: nft rule ip6? filter CNI-ISOLATION-STAGE-\d .*\"return\"", "likewise"),
    (r"file /run/xtables\.lock ", "iptables' own"),
    (r"node: nft (table|chain|set|map|rule) (inet|bridge) mesokit\b", "the frame: attachments are elements"),
)

#: Programs with what each is asked, an answer a line: starting one is most of the price of asking.
_ASKED = (
    ("ip -4 -d", ("link", "addr", "route show table all", "rule")),
    ("ip -6 -d", ("addr", "route show table all", "rule")),
    ("bridge", ("fdb", "vlan")),
)
#: Words that a shell hands over itself: a pipe from `echo` is two more processes.
_SCRIPT = "\n".join(
    "\n".join((f"{program} -j -force -batch - <<'@'", *questions, "@\necho @@@@"))
    for program, questions in _ASKED
)
#: What the programs said, by the digest of all that they were given (glance.py).
_SAID: dict[bytes, Snapshot] = {}
_MANY = 1000

#: Keys of iproute2's and nft's JSON that change without anybody changing the configuration.
_VOLATILE = frozenset(
    (
        "ifindex", "link_index", "link_netnsid", "link", "handle", "index", "hello_timer",
        "tcn_timer", "topology_change_timer", "gc_timer", "valid_life_time", "preferred_life_time",
        "root_id",
        "bridge_id", "root_port", "root_path_cost", "topology_change", "used", "expires", "updated",
        "topology_change_detected", "topology_change_ack", "tentative", "dadfailed", "cacheinfo",
        "stats", "stats64", "numtxqueues", "promiscuity", "allmulti", "min_mtu", "max_mtu", "state",
        "designated_cost", "designated_port", "designated_bridge", "message_age_timer",
        "forward_delay_timer", "hold_timer", "config_pending", "operstate", "packets", "bytes",
        "age", "metainfo", "fdb_n_learned",
    )
)  # fmt: skip


def _stable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _stable(item) for key, item in value.items() if key not in _VOLATILE}
    if isinstance(value, list):
        return [_stable(item) for item in value]
    return value


def _text(value: Any) -> str:
    return json.dumps(_stable(value), sort_keys=True)


def _answers(output: str) -> list[list[dict[str, Any]]]:
    """What _ASKED gave."""
    tables: list[list[dict[str, Any]]] = []
    for text, (program, questions) in zip(output.split("@@@@\n"), _ASKED, strict=False):
        lines = text.splitlines()
        if len(lines) != len(questions):
            raise ValueError(f"{program} was asked {questions} and answered {text}")
        tables.extend(json.loads(line) for line in lines)
    return tables


#: The link-local address that the kernel makes of a hardware address, when the link has a carrier.
_BY_ITSELF = re.compile(r"fe80::.*ff:fe")
#: Routes that it makes along with it: protocol, type, destination.
_FOLLOWS = re.compile(r"kernel (local|unicast) fe80::|kernel multicast ff00::/8")
#: Hardware addresses of the groups that a link is in.
_GROUPS = ("33:33:", "01:00:5e:")


def _link_facts(links: list[dict[str, Any]], addresses: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for link in links:
        flags = [flag for flag in link.get("flags", []) if flag not in ("LOWER_UP", "NO-CARRIER")]
        yield f"link {link['ifname']}", _text({**link, "flags": sorted(flags)})
    for link in addresses:
        for address in link.get("addr_info", []):
            if not _BY_ITSELF.match(address["local"]):
                where = f"{link.get('ifname')} {address['local']}/{address['prefixlen']}"
                yield f"address {where}", _text(address)


def _routing_facts(
    routes: Iterable[dict[str, Any]], rules: Iterable[dict[str, Any]], fdb: Iterable[dict[str, Any]],
    vlans: Iterable[dict[str, Any]],
) -> Iterator[tuple[str, str]]:  # fmt: skip
    for route in routes:
        if _FOLLOWS.match(f"{route.get('protocol')} {route['type']} {route['dst']}"):
            continue
        flags = [flag for flag in route.get("flags", []) if flag not in ("linkdown", "dead")]
        where = [route.get(key, "-") for key in ("table", "type", "dst", "gateway", "dev", "metric")]
        yield f"route {' '.join(map(str, where))}", _text({**route, "flags": flags})
    for rule in rules:
        yield f"rule {_text(rule)}", ""
    for entry in fdb:
        if entry.get("state", "") in ("", "stale") or entry["mac"].startswith(_GROUPS):
            continue  # learned from a frame that passed: it comes when a container speaks, and ages away
        yield f"fdb {entry.get('ifname')} {entry['mac']} {entry.get('vlan', '-')}", _text(entry)
    for port in vlans:
        for vlan in port.get("vlans", []):
            yield f"vlan {port['ifname']} {vlan['vlan']}", _text(vlan)


def _nft_facts(ruleset: dict[str, Any]) -> Iterator[tuple[str, str]]:
    number = 0
    for item in ruleset.get("nftables", []):
        for kind, body in item.items():
            if kind == "metainfo":
                continue
            where = f"{body.get('family')} {body.get('table', body.get('name'))}"
            if kind in ("set", "map"):
                yield f"nft {kind} {where} {body['name']}", _text({**body, "elem": []})
                for element in body.get("elem", []):
                    yield f"nft element {where} {body['name']} {_text(element)}", ""
            elif kind == "rule":
                number += 1
                yield f"nft rule {where} {body['chain']} {_text(body)}", ""
            else:
                yield f"nft {kind} {where} {body.get('name')}", _text(body)


def namespace_facts(node: Node, netns: str | None, name: str) -> Snapshot:
    """The facts of one network namespace, each prefixed with `name`."""
    place = str(node.path(netns)) if netns else f"/proc/{node.pid}/ns/net"
    seen = glance(place)
    facts = dict(_SAID.get(seen.digest or b"", {}))
    if not facts:
        facts = _told(node, netns)
        if seen.digest is not None and digest(place) == seen.digest:
            if len(_SAID) >= _MANY:
                _SAID.clear()
            _SAID[seen.digest] = dict(facts)
    if seen.ruled:
        facts.update(_nft_facts(node.run(["nft", "-j", "list", "ruleset"], netns=netns).json()))
    facts.update((f"sysctl {path}", value) for path, value in seen.sysctls.items())
    return {f"{name}: {key}": value for key, value in facts.items()}


def _told(node: Node, netns: str | None) -> Snapshot:
    """What `ip` and `bridge` say."""
    tables = _answers(node.run(["sh", "-c", _SCRIPT], netns=netns).text)
    links, addresses4, routes4, rules4, addresses6, routes6, rules6, fdb, vlans = tables
    for family, rules in (("inet", rules4), ("inet6", rules6)):
        for rule in rules:
            del rule["protocol"]
            rule["family"] = family
    facts = dict(_link_facts(links, [*addresses4, *addresses6]))
    facts.update(_routing_facts([*routes4, *routes6], [*rules4, *rules6], fdb, vlans))
    return facts


def _file_facts(node: Node, roots: Sequence[str]) -> Iterator[tuple[str, str]]:
    for root in roots:
        top = node.path(root)
        for path in sorted(top.rglob("*")):
            inside = root + str(path)[len(str(top)) :]
            if inside.startswith("/run/netns"):
                continue
            if path.is_symlink():
                yield f"link-file {inside}", str(path.readlink())
            elif path.is_dir():
                yield f"dir {inside}", ""
            elif path.is_socket():
                yield f"socket {inside}", ""
            elif path.is_file():
                yield f"file {inside} ", path.read_bytes().decode(errors="backslashreplace")


def _machine_facts(node: Node) -> Iterator[tuple[str, str]]:
    for path in sorted(node.path("/run/netns").iterdir()):
        yield f"netns {path.name}", ""
    for line in Path(f"/proc/{node.pid}/mountinfo").read_text().splitlines():
        fields = line.split()
        source = fields[fields.index("-") + 1]
        if fields[4].startswith(("/run/", "/var/lib/")):
            yield f"mount {fields[4]} {source}", ""
    for path in node.path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        if command and path.parent.name != "1":
            yield f"process {path.parent.name} {command}", ""


#: Where plugins, runtimes and our own programs keep state.
STATE = ("/run", "/var/lib/cni", "/var/lib/mesokit", "/etc/cni")


def snapshot(node: Node, boxes: Iterable[Netns] = (), files: Sequence[str] = STATE) -> Snapshot:
    """The facts of the node, and of the container namespaces given."""
    facts = namespace_facts(node, None, "node")
    for box in boxes:
        facts.update(namespace_facts(node, box.path, box.name))
    facts.update(_file_facts(node, files))
    facts.update(_machine_facts(node))
    return facts


#: The service's processes of a moment, which were seen when they were there: who looks through the rules, who
#: keeps leases.
_ENDED = re.compile(r"- process \d+ .*mesokit node = ")
#: A fresh worker in the place of one that has ended.
_BEGUN = re.compile(r"\+ process \d+ .*mesokit node = ")


def difference(before: Snapshot, after: Snapshot, allowed: Iterable[str] = ()) -> list[str]:
    """What differs, a line each ("+" new, "-" gone, "~" changed), without PERMANENT and what `allowed`
    patterns match."""
    patterns = [re.compile(pattern) for pattern in (*(pattern for pattern, _ in PERMANENT), *allowed)]
    lines: list[tuple[str, str]] = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        sign = "+" if old is None else "-" if new is None else "~"
        value = f"{new if old is None else old if new is None else f'{old} -> {new}'}"
        lines.append((f"{name} = {value}", sign))
    shown = [f"{sign} {line}" for line, sign in lines if not any(pattern.match(line) for pattern in patterns)]
    replaced = sum(1 for line in shown if _ENDED.match(line))
    for line in [line for line in shown if _BEGUN.match(line)][:replaced]:
        shown.remove(line)
    return [line for line in shown if not _ENDED.match(line)]


def residue(
    node: Node, before: Snapshot, *, boxes: Iterable[Netns] = (), allowed: Iterable[str] = (),
    seconds: float = 60, files: Sequence[str] = STATE,
) -> list[str]:  # fmt: skip
    """What is there now and was not before, or the reverse. The kernel removes some things a little later
    (the far end of a veth pair, a namespace nobody holds), so a difference must last for `seconds` to
    count."""
    boxes, allowed = list(boxes), list(allowed)
    deadline = time.monotonic() + seconds
    while True:
        left = difference(before, snapshot(node, boxes, files), allowed)
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.1)


def assert_clean(node: Node, before: Snapshot, why: str = "", **more: Any) -> None:
    """`residue` with the same arguments is empty."""
    left = residue(node, before, **more)
    shown = "\n".join(line[:300] for line in left[:40])
    doing = [_doing(node, found[1]) for line in left if (found := re.match(r"\+ process (\d+) ", line))]
    assert not left, "\n".join([f"{why}: left behind, {len(left)} facts:", shown, *doing[:3]])


def _doing(node: Node, pid: str) -> str:
    """Why a process does not end: its state, and where in the kernel it is."""
    files = " ".join(f"/proc/{pid}/{name}" for name in ("stat", "wchan", "stack"))
    return f"process {pid}: {node.shell(f'cat {files} 2>&1', check=False)}"
