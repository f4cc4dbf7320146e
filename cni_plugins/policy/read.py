"""Policy files: `*.yaml`, `*.yml` and `*.json` of a directory, read as a whole.

    policies:
      - name: db
        for: {network: app-net, labels: {role: db}}    # all must hold; {} is every endpoint
        default: deny                                  # or keep: what the network allows stays allowed
        untracked: deny                                # or both: what others take out of connection tracking
        ingress:
          - allow: [tcp/5432, icmp]
            from: [{labels: {role: web}}, {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}]
          - deny: [any]
            from: [{group: guests}]
        egress:
          - {allow: [udp/53, tcp/53], to: [any]}

Traffic is `any`, `tcp`, `tcp/80`, `tcp/8000-8100` (udp and sctp alike), `icmp`, `icmp/echo-request`,
`icmpv4/8`, `icmpv6/128`. Peers are `any`, `host`, `world`, `{cidr, except}`, or what `for` takes. One bad
file refuses the set: `Refused` holds every problem with file, line and key.
"""

import hashlib
import os
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any, TypeVar

from cni_plugins.policy import located
from cni_plugins.policy.located import Malformed, Node
from cni_plugins.policy.model import IpNetwork, Peer, PeerKind, Policy, Rule, Selector, Traffic

T = TypeVar("T")

LARGEST = 1 << 20
_MOMENT_NS = 100_000_000  # ten times as long as the coarsest clock of a file system's kernel stands still
SUFFIXES = (".yaml", ".yml", ".json")
_NAMED_TYPES = {"echo-request": (8, 128), "timestamp-request": (13, None)}


@dataclass(frozen=True, slots=True)
class Problem:
    """`where` is file:line, `key` the path of the key in the file."""

    where: str
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.key}: {self.message}" if self.key else f"{self.where}: {self.message}"


class Refused(Exception):
    """The set is not taken; every problem that was found."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems


class _Bad(Exception):
    def __init__(self, line: int, key: str, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.key = key


@dataclass(frozen=True, slots=True)
class Content:
    """What a file held when it was read last. `mark` tells that version of it from any other, () when it was
    so young that another of the same moment might look like it.
    """

    mark: tuple[int, ...]
    digest: bytes
    policies: list[Policy]
    problems: list[Problem]


Parsed = dict[str, Content]
"""For who reads files again and again. Each reading leaves in it what it has read."""


def read_directory(place: Path, parsed: Parsed | None = None) -> list[Policy]:
    """Every policy of a directory, in the order of their names; none without the directory. Refused."""
    try:
        names = sorted(os.listdir(place))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise Refused([Problem(str(place), "", error.strerror or str(error))]) from None
    paths = [f"{place}/{name}" for name in names if name.endswith(SUFFIXES) and not name.startswith(".")]
    return read_files(paths, parsed)


def read_files(paths: Sequence[str | Path], parsed: Parsed | None = None) -> list[Policy]:
    """Refused."""
    problems: list[Problem] = []
    found: dict[str, Policy] = {}
    before: Parsed = {} if parsed is None else dict(parsed)
    now: Parsed = {} if parsed is None else parsed
    now.clear()
    for path in map(str, paths):
        try:
            content = now[path] = _content(path, before.get(path))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            problems.append(Problem(path, "", reason))
            continue
        problems += content.problems
        for policy in content.policies:
            if policy.name in found:
                other = found[policy.name].where
                problems.append(Problem(policy.where, "name", f"{policy.name!r} is also at {other}"))
            found[policy.name] = policy
    if problems:
        raise Refused(problems)
    return [found[name] for name in sorted(found)]


def _content(path: str, before: Content | None) -> Content:
    """OSError, ValueError."""
    if before is not None and before.mark and before.mark == _mark(os.stat(path)):
        return before
    data, mark = _data(path)
    digest = hashlib.sha256(data).digest()
    if before is not None and before.digest == digest:
        return Content(mark, digest, before.policies, before.problems)
    return Content(mark, digest, *parse(data.decode(), path))


def _mark(status: os.stat_result) -> tuple[int, ...]:
    """Every change of a file makes another, unless it is of the same moment."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _data(path: str) -> tuple[bytes, tuple[int, ...]]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a fifo must not hold us
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a regular file")
        settled = status.st_ctime_ns + _MOMENT_NS < time.time_ns()
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError(f"larger than {LARGEST} bytes")
    return data, _mark(status) if settled else ()


def parse(text: str, file: str) -> tuple[list[Policy], list[Problem]]:
    """The policies of one file, and what is wrong with others."""
    try:
        document = located.read(text, as_json=file.endswith(".json"))
        entries = _document(document)
    except Malformed as error:
        return [], [Problem(f"{file}:{error.line}", "", str(error))]
    except _Bad as error:
        return [], [Problem(f"{file}:{error.line}", error.key, str(error))]
    policies: list[Policy] = []
    problems: list[Problem] = []
    for number, node in enumerate(entries):
        try:
            policies.append(_policy(node, f"policies[{number}]", file))
        except _Bad as error:
            problems.append(Problem(f"{file}:{error.line}", error.key, str(error)))
    return policies, problems


def _document(document: Node) -> list[Node]:
    keys = _object(document, "", ("policies",))
    if "policies" not in keys:
        return []
    return _items(keys["policies"], "policies")


def _object(node: Node, key: str, known: tuple[str, ...]) -> dict[str, Node]:
    if not isinstance(node.value, dict):
        raise _Bad(node.line, key, f"{_shown(node)}: not an object")
    for name, (line, _) in node.value.items():
        if name not in known:
            raise _Bad(line, _under(key, name), f"unknown key; known are {', '.join(known)}")
    return {name: inner for name, (_, inner) in node.value.items()}


def _under(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _items(node: Node, key: str) -> list[Node]:
    if not isinstance(node.value, list):
        raise _Bad(node.line, key, f"{_shown(node)}: not a list")
    return node.value


def _shown(node: Node) -> str:
    value: Any = node.value
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _string(node: Node, key: str) -> str:
    if not isinstance(node.value, str):
        raise _Bad(node.line, key, f"{_shown(node)}: not a string (put it in quotes)")
    if "\0" in node.value:
        raise _Bad(node.line, key, f"{_shown(node)}: it has a NUL character")
    return node.value


def _flag(node: Node, key: str) -> bool:
    if not isinstance(node.value, bool):
        raise _Bad(node.line, key, f"{_shown(node)}: not true or false")
    return node.value


def _policy(node: Node, key: str, file: str) -> Policy:
    keys = _object(node, key, ("name", "for", "default", "audit", "untracked", "ingress", "egress"))
    if "name" not in keys:
        raise _Bad(node.line, f"{key}.name", "missing: every policy has a name")
    name = _string(keys["name"], f"{key}.name")
    if not name:
        raise _Bad(keys["name"].line, f"{key}.name", "'': a policy needs a name")
    if "for" not in keys:
        raise _Bad(node.line, f"{key}.for", "missing: {} is every endpoint")
    chosen: dict[str, str] = {}
    for word, other in (("default", "keep"), ("untracked", "both")):
        chosen[word] = _string(keys[word], f"{key}.{word}") if word in keys else "deny"
        if chosen[word] not in ("deny", other):
            raise _Bad(keys[word].line, f"{key}.{word}", f"{chosen[word]!r}: not deny or {other}")
    if "ingress" not in keys and "egress" not in keys:
        raise _Bad(node.line, key, "neither ingress nor egress: the policy says nothing")

    def rules(direction: str, peers: str) -> tuple[Rule, ...] | None:
        if direction not in keys:
            return None
        place = f"{key}.{direction}"
        entries = _items(keys[direction], place)
        return tuple(_rule(item, f"{place}[{number}]", peers, file) for number, item in enumerate(entries))

    return Policy(
        name=name,
        selector=_selector(keys["for"], f"{key}.for"),
        ingress=rules("ingress", "from"),
        egress=rules("egress", "to"),
        keep=chosen["default"] == "keep",
        audit=_flag(keys["audit"], f"{key}.audit") if "audit" in keys else False,
        where=f"{file}:{node.line}",
        untracked=chosen["untracked"] == "both",
    )


_SELECTOR = ("network", "group", "groups", "labels", "container")


def _selector(node: Node, key: str) -> Selector:
    keys = _object(node, key, _SELECTOR)
    network = _string(keys["network"], f"{key}.network") if "network" in keys else None
    container = _string(keys["container"], f"{key}.container") if "container" in keys else None
    groups = [_string(keys["group"], f"{key}.group")] if "group" in keys else []
    if "groups" in keys:
        groups += _each(keys["groups"], f"{key}.groups", _string)
        if not groups:
            raise _Bad(keys["groups"].line, f"{key}.groups", "empty: no endpoint is in none of no groups")
    labels: list[tuple[str, str | None]] = []
    if "labels" in keys:
        entries = keys["labels"].value
        if not isinstance(entries, dict):
            raise _Bad(keys["labels"].line, f"{key}.labels", f"{_shown(keys['labels'])}: not an object")
        for name, (_, inner) in entries.items():
            labels.append((name, None if inner.value is None else _string(inner, f"{key}.labels.{name}")))
    return Selector(network, tuple(groups), tuple(sorted(labels, key=lambda item: item[0])), container)


def _each(node: Node, key: str, read: Callable[[Node, str], T]) -> list[T]:
    return [read(item, f"{key}[{number}]") for number, item in enumerate(_items(node, key))]


def _rule(node: Node, key: str, peers: str, file: str) -> Rule:
    keys = _object(node, key, ("allow", "deny", peers))
    if ("allow" in keys) == ("deny" in keys):
        raise _Bad(node.line, key, "a rule has either allow or deny")
    if peers not in keys:
        raise _Bad(node.line, f"{key}.{peers}", "missing: [any] is everybody")
    action = "allow" if "allow" in keys else "deny"
    traffic = _each(keys[action], f"{key}.{action}", _traffic)
    if not traffic:
        raise _Bad(keys[action].line, f"{key}.{action}", "empty: [any] is all traffic")
    return Rule(
        allow=action == "allow",
        traffic=tuple(item for group in traffic for item in group),
        peers=tuple(_each(keys[peers], f"{key}.{peers}", _peer)),
        where=f"{file}:{node.line}",
    )


def _peer(node: Node, key: str) -> Peer:
    if isinstance(node.value, str):
        if node.value not in ("any", "host", "world"):
            raise _Bad(node.line, key, f"{node.value!r}: not any, host, world, or an object")
        return Peer(PeerKind(node.value))
    keys = _object(node, key, (*_SELECTOR, "cidr", "except"))
    if "cidr" not in keys:
        if "except" in keys:
            raise _Bad(keys["except"].line, f"{key}.except", "it needs a cidr")
        return Peer(PeerKind.ENDPOINTS, _selector(node, key))
    if keys.keys() - {"cidr", "except"}:
        raise _Bad(node.line, key, "a cidr stands alone, or with except")
    cidr = _network(keys["cidr"], f"{key}.cidr")
    excepted = tuple(_each(keys["except"], f"{key}.except", _network)) if "except" in keys else ()
    for item in excepted:
        if item.version != cidr.version:
            raise _Bad(keys["except"].line, f"{key}.except", f"{item} is of another family than {cidr}")
    return Peer(PeerKind.CIDR, cidr=cidr, excepted=excepted)


def _network(node: Node, key: str) -> IpNetwork:
    text = _string(node, key)
    try:
        return ip_network(text)
    except ValueError as error:
        raise _Bad(node.line, key, f"{text!r}: {error}") from None


def traffic_of(node: Node) -> list[Traffic]:
    """What `tcp/80` and its like mean. ValueError."""
    try:
        return _traffic(node, "")
    except _Bad as error:
        raise ValueError(str(error)) from None


def _traffic(node: Node, key: str) -> list[Traffic]:
    text = _string(node, key)
    protocol, slash, rest = text.partition("/")

    def bad(why: str) -> _Bad:
        return _Bad(node.line, key, f"{text!r}: {why}")

    if protocol in ("tcp", "udp", "sctp"):
        return [Traffic(protocol, *_numbers(rest, 1, 65535, "port", bad))] if slash else [Traffic(protocol)]
    if protocol == "icmp" and slash:
        if rest not in _NAMED_TYPES:
            names = ", ".join(_NAMED_TYPES)
            raise bad(f"not one of {names}; a number belongs to icmpv4/ or icmpv6/")
        four, six = _NAMED_TYPES[rest]
        made = [Traffic("icmpv4", four or 0, four or 0)]
        return made if six is None else [*made, Traffic("icmpv6", six, six)]
    if protocol in ("icmpv4", "icmpv6"):
        return [Traffic(protocol, *_numbers(rest, 0, 255, "type", bad))] if slash else [Traffic(protocol)]
    if text in ("any", "icmp"):
        return [Traffic(text)]
    raise bad("not any, tcp, udp, sctp, icmp, icmpv4 or icmpv6, with /PORT, /LOW-HIGH or /TYPE")


def _numbers(text: str, least: int, most: int, what: str, bad: Callable[[str], _Bad]) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    if not (first.isascii() and first.isdigit()) or (dash and not (last.isascii() and last.isdigit())):
        raise bad(f"no {what}, and no range of {what}s")
    low, high = int(first), int(last if dash else first)
    for number in (low, high):
        if not least <= number <= most:
            raise bad(f"{what} {number} is not within {least} to {most}")
    if high < low:
        raise bad("the range ends before it begins")
    return low, high
