"""What one case did on one node, in words that do not depend on chance, and the differences of two such
observations.

Random parts are named after what they belong to: the host end of a veth pair becomes `veth(c1:eth0)`, a
hardware address `mac(c1:eth0)`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from netns_tests.case import Case, Reach
from netns_tests.node import Answer, Netns, Node
from netns_tests.runtime import Attachment, network
from netns_tests.snapshot import Snapshot, snapshot
from netns_tests.traffic import ask, server

#: Facts that say nothing about plugins: multicast and learned forwarding entries, link-local addresses and
#: routes (they come by and
#: by), our own records (no peer has any), and the packet filter, whose shape differs by design: what it
#: does is compared by traffic.
_IGNORED = re.compile(
    r"\w+: (fdb |address \S+ fe80|route \S+ \S+ (fe80|ff00)|route local|nft |sysctl \S+/(router_solicit|mtu))"
    r"|(file|dir|socket) /run|dir /|process |mount |netns "
)
OF_THE_CALL = ("time", "call", "netnsID", "hostID", "mountID", "boot", "began", "ended")
#: In records: chosen names and addresses, and the host's namespace.
_RANDOM = (
    (r"veth[0-9a-f]{8}", "veth"),
    (r"(\w\w:){5}\w\w", "mac"),
    (r"-\d{10}-", "-host-"),
    (r'"identity": \d+', '"identity"'),
)
#: Set by the test itself, so not random.
_GIVEN = ("00:00:00:00:00:00", "02:11:22:", "02:aa:bb:")


def _names(node: Node, boxes: list[Netns]) -> dict[str, str]:
    """Random names and addresses -> names by role, for the links that exist now."""
    namespaces: dict[str, list[dict[str, Any]]] = {"node": node.json("ip", "-j", "-d", "link")}
    for box in boxes:
        namespaces[box.name] = box.json("ip", "-j", "-d", "link")
    words: dict[str, str] = {}
    inside = [(box.name, link) for box in boxes for link in namespaces[box.name]]
    ends = {link["ifindex"]: f"{name}:{link['ifname']}" for name, link in inside}
    for link in namespaces["node"]:
        veth = link.get("linkinfo", {}).get("info_kind") == "veth"
        if veth and re.fullmatch(r"veth\w{6,11}", link["ifname"]):
            words[link["ifname"]] = f"veth({ends.get(link.get('link_index'), 'node')})"
    for name, links in namespaces.items():
        for link in links:
            mac = link.get("address", "")
            if re.fullmatch(r"(\w\w:){5}\w\w", mac) and not mac.startswith(_GIVEN):
                words[mac] = f"mac({name}:{words.get(link['ifname'], link['ifname'])})"
    return words


def _renamed(seen: Mapping[str, str], words: Mapping[str, str]) -> dict[str, str]:
    """Names and values with these words replaced; they are looked for in all of them at once."""
    if not words:
        return dict(seen)
    found = re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))))

    def rename(text: str) -> str:
        return found.sub(lambda word: words[word[0]], text)

    return {rename(key): rename(value) for key, value in seen.items()}


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """A JSON value as (path, leaf) pairs. Empty objects and lists are leaves."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}")
    elif isinstance(value, list) and value:
        for number, item in enumerate(value):
            yield from _flat(item, f"{path}[{number}]")
    else:
        yield path, json.dumps(value)


def _answer(name: str, answer: Answer) -> Iterator[tuple[str, str]]:
    yield f"{name} code", str(answer.code)
    if answer.result is not None:
        yield from ((f"{name} result{path}", leaf) for path, leaf in _flat(answer.result))


def _facts(name: str, facts: Snapshot) -> Iterator[tuple[str, str]]:
    for key, value in facts.items():
        if not _IGNORED.match(key):
            if value.startswith("{"):
                yield from ((f"{name}: {key}{path}", leaf) for path, leaf in _flat(json.loads(value)))
            else:
                yield f"{name}: {key}", value


def _changes(before: Snapshot, after: Snapshot) -> Snapshot:
    """The facts that are new or have changed, and "gone" for those that are no more."""
    changed = {key: value for key, value in after.items() if before.get(key) != value}
    return changed | {key: "gone" for key in before if key not in after}


def _left(before: Snapshot, after: Snapshot) -> Iterator[tuple[str, str]]:
    """What is different after DEL. Sysctls of an interface that has stayed go without saying."""
    for key, value in _changes(before, after).items():
        if not _IGNORED.match(key) and (key in before or not re.match(r"\w+: sysctl ipv[46]/conf/", key)):
            yield f"after DEL: {key}", value


def _records(node: Node) -> Iterator[tuple[str, str]]:
    """Every line of our attachment records, without what tells one call from another."""
    top = node.path("/run/mesokit/attachments")
    for path in sorted(item for item in top.rglob("*") if item.is_file()):
        for number, line in enumerate(path.read_text().splitlines()):
            entry = {key: value for key, value in json.loads(line).items() if key not in OF_THE_CALL}
            text = json.dumps(entry, sort_keys=True)
            for random, word in _RANDOM:
                text = re.sub(random, word, text)
            yield f"record {path.relative_to(top)} {number}", text


def _probe(reach: Reach, places: dict[str, Node | Netns]) -> str:
    source = places[reach.source]
    if reach.kind == "ping":
        return "answered" if source.ping(reach.target) else "silence"
    listener = places[reach.server]
    if not isinstance(listener, Netns):
        raise TypeError(f"{reach}: the server's place is a namespace")
    with server(listener, reach.kind, reach.listen or reach.port):
        return f"seen from {ask(source, reach.kind, reach.target, reach.port)}"


def observe(node: Node, folder: str, case: Case) -> dict[str, str]:
    """Runs `case` on a fresh node with the plugins in `folder`: ADD, probes, CHECK, DEL, each with what it
    left."""
    world = node.uplink()
    boxes = [node.netns("c1"), *([node.netns("c2")] if case.second else [])]
    if case.setup:
        node.shell(case.setup)
    before = snapshot(node, boxes)
    config = network(case.plugins, version=case.version)
    seen: dict[str, str] = {}
    attachments = [
        Attachment(node, folder, config, box.name, box, case.ifname, case.args, case.caps) for box in boxes
    ]
    for attachment in attachments:
        seen.update(_answer(f"ADD {attachment.cid}", attachment.add()))
    after = snapshot(node, boxes)
    words = _names(node, boxes)
    seen.update(_records(node))
    if all(attachment.result for attachment in attachments):
        seen.update(
            _facts("after ADD", {key: value for key, value in after.items() if before.get(key) != value})
        )
        places: dict[str, Node | Netns] = {"node": node, "world": world, **{box.name: box for box in boxes}}
        for reach in case.reach:
            where = f"{reach.kind} {reach.source} -> {reach.target} {reach.port}"
            seen[f"reach {where}"] = _probe(reach, places)
        if case.version in ("0.4.0", "1.0.0", "1.1.0"):
            seen.update(
                item
                for attachment in attachments
                for item in _answer(f"CHECK {attachment.cid}", attachment.check())
            )
    for attachment in attachments:
        seen.update(_answer(f"DEL {attachment.cid}", attachment.delete()))
    seen.update(_left(before, snapshot(node, boxes)))
    return _renamed(seen, words)


def differences(theirs: Mapping[str, str], ours: Mapping[str, str]) -> list[str]:
    """What two observations differ in, as lines "name: theirs -> ours". Where only one side's ADD came
    through, its result and what it made say no more than that, and are left out; so are our records, which no
    peer has."""
    names = sorted(name for name in theirs.keys() | ours.keys() if not name.startswith("record "))
    refused = any(theirs.get(name) != ours.get(name) for name in names if re.fullmatch(r"ADD \w+ code", name))
    lines = []
    for name in names:
        beside = name.startswith(("after ADD", "reach", "CHECK")) or " result" in name
        if theirs.get(name) != ours.get(name) and not (refused and beside):
            lines.append(f"{name}: {theirs.get(name, 'nothing')} -> {ours.get(name, 'nothing')}")
    return lines
