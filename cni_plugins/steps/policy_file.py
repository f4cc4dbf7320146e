"""`state.json`, the policy that this node enforces: a JSON document, a line for each policy and endpoint.

A process that reads it again, after somebody wrote it, parses the lines that it has not seen; so it never has
to take anybody's word for what has changed. A file of an older release is one line, and is read as a whole.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cni_plugins.policy import document
from cni_plugins.policy.model import Endpoint, Policy
from cni_plugins.policy.names import Pairs
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.values import JsonObject, dump_json, parse_json
from cni_plugins.steps.policy_bridged import Bridging

T = TypeVar("T", Policy, Endpoint)

VERSION = 1
_MIDDLE, _END = b'],"endpoints":[', b"]}"


@dataclass(frozen=True, slots=True)
class State:
    """What was applied last. `read`: whether policies were, ever since the boot. `bridging`: how packets
    between the ports of a bridge are judged. `names`: what the kernel calls profiles otherwise than their
    content says (policy/names.py).
    """

    policies: tuple[Policy, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    read: bool = False
    bridging: Bridging = Bridging.NONE
    names: Pairs = ()


@dataclass(slots=True)
class Lines:
    """What was read or written last: objects by their lines, and lines by their objects' identity (which is
    theirs because they are held).
    """

    policies: dict[bytes, Policy] = field(default_factory=dict)
    endpoints: dict[bytes, Endpoint] = field(default_factory=dict)
    written: dict[int, bytes] = field(default_factory=dict)
    state: State = field(default_factory=State)
    mark: tuple[int, ...] = ()  # of the file: who writes it puts another in its place

    def keep(self, state: State, policies: Sequence[bytes], endpoints: Sequence[bytes]) -> None:
        """All that is known, from now on."""
        self.policies = dict(zip(policies, state.policies, strict=True))
        self.endpoints = dict(zip(endpoints, state.endpoints, strict=True))
        self.state = state
        self.written = {
            id(item): line
            for listed, lines in ((state.policies, policies), (state.endpoints, endpoints))
            for item, line in zip(listed, lines, strict=True)
        }


class Newer(Exception):
    """A newer release wrote the file; its version."""


def write(state: State, host: Namespace, lines: Lines) -> bytes:
    """The file of a state."""
    policies = _written(state.policies, document.of_policy, lines)
    endpoints = _written(state.endpoints, document.of_endpoint, lines)
    lines.keep(state, policies, endpoints)
    head = {"version": VERSION, "host": [host.device, host.inode], "read": state.read}
    head |= {"bridging": state.bridging.value, "names": dict(state.names), "policies": []}
    start = dump_json(head).encode().removesuffix(_END)
    parts = (start, b",\n".join(policies), _MIDDLE, b",\n".join(endpoints), _END)
    return b"\n".join(part for part in parts if part)


def _written(listed: Iterable[T], make: Callable[[T], JsonObject], lines: Lines) -> list[bytes]:
    known = lines.written
    return [known.get(id(item)) or dump_json(make(item)).encode("utf-8", "surrogatepass") for item in listed]


def read(data: bytes, host: Namespace, lines: Lines) -> State:
    """The state; empty when it is another namespace's. Newer; KeyError, TypeError or ValueError for what
    `write` did not write.
    """
    listed = data.split(b"\n")
    if len(listed) < 3 or listed[-1] != _END or _MIDDLE not in listed:
        return _read_whole(data, host)
    middle = listed.index(_MIDDLE)
    head = parse_json(listed[0] + _END)
    if not _is_ours(head, host):
        return State()
    policies = [line.removesuffix(b",") for line in listed[1:middle]]
    endpoints = [line.removesuffix(b",") for line in listed[middle + 1 : -1]]
    state = State(
        _parsed(policies, document.policy, lines.policies),
        _parsed(endpoints, document.endpoint, lines.endpoints),
        bool(head["read"]),
        _bridging(head),
        _names(head),
    )
    if state == lines.state:
        return lines.state
    lines.keep(state, policies, endpoints)
    return state


def _parsed(listed: Iterable[bytes], make: Callable[[JsonObject], T], known: dict[bytes, T]) -> tuple[T, ...]:
    return tuple(known.get(line) or make(parse_json(line)) for line in listed)


def _is_ours(head: Any, host: Namespace) -> bool:
    if head["version"] != VERSION:
        raise Newer(str(head["version"]))
    return bool(head["host"] == [host.device, host.inode])


def _bridging(head: JsonObject) -> Bridging:
    """A release that did not say knew br_netfilter alone."""
    return Bridging(str(head.get("bridging", Bridging.FILTER)))


def _names(head: JsonObject) -> Pairs:
    """A release that did not say called all of them by their content."""
    return tuple(sorted((str(content), str(name)) for content, name in head.get("names", {}).items()))


def _read_whole(data: bytes, host: Namespace) -> State:
    found = parse_json(data)
    if not _is_ours(found, host):
        return State()
    return State(
        tuple(document.policy(item) for item in found["policies"]),
        tuple(document.endpoint(item) for item in found["endpoints"]),
        bool(found["read"]),
        _bridging(found),
        _names(found),
    )
