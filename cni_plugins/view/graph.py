"""The node as a picture: a tree for a terminal, an SVG for everything else. Pure.

A node's network is a forest: uplinks; bridges and parents with their containers; containers on links of their
own. So nothing has to be laid out: columns (parents | host ends | containers), rows in the tree's order. A
parent with more containers than fit is drawn by groups of one task name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cni_plugins.spec.text import printable
from cni_plugins.view.attachments import Attachment, State
from cni_plugins.view.node import Node

MOST = 40  # containers of a parent that are drawn one by one
_GOOD = frozenset((State.UP, State.UNKNOWN, State.ELSEWHERE))
_NUMBERED = re.compile(r"[._-]?[0-9a-f-]*$")
_ROW, _WIDE, _GAP, _EDGE, _LETTER = 26, 220, 60, 20, 6.6
STYLE = (
    "text{font:11px monospace;fill:#222}rect{fill:#f6f8fa;stroke:#57606a}"
    ".bad rect{stroke:#cf222e;stroke-width:2}.bad text{fill:#cf222e}"
    "path{fill:none;stroke:#57606a}.bad path{stroke:#cf222e;stroke-dasharray:4}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}rect{fill:#161b22;stroke:#8b949e}"
    "svg{background:#0d1117}path{stroke:#8b949e}"
    ".bad rect,.bad path{stroke:#ff7b72}.bad text{fill:#ff7b72}}"
)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A container, or several of one name (`container` is "" then); `link` is the host's end."""

    link: str
    text: str
    about: str
    good: bool
    container: str = ""


@dataclass(frozen=True, slots=True)
class Branch:
    """An uplink, a bridge, a master, or the host itself for links that have none."""

    name: str
    about: str
    good: bool
    leaves: tuple[Leaf, ...]


def branches(
    node: Node, addresses: dict[str, list[str]], uplinks: Sequence[str], network: str | None
) -> list[Branch]:
    """The picture's parts; `addresses` are the host's by link. Of one network, all of its containers."""
    found = []
    for name in uplinks:
        link = node.by_name.get(name)
        if link is not None:
            about = " ".join(("uplink", *addresses.get(name, ())))
            found.append(Branch(name, about, link.up, ()))
    groups: dict[str, list[Attachment]] = {}
    for item in node.attachments:
        if network == item.network or (network is None and item.type != "loopback"):  # leads nowhere
            groups.setdefault(item.parent or "", []).append(item)
    for name, items in sorted(groups.items()):
        link = node.by_name.get(name)
        if not name:
            parent = Branch("host", "routes to each of them", True, _leaves(node, items, network))
        else:
            kind = link.kind or "device" if link is not None else "gone"
            about = " ".join((kind, *addresses.get(name, ())))
            parent = Branch(name, about, link is not None and link.up, _leaves(node, items, network))
        found.append(parent)
    return found


def _leaves(node: Node, items: Sequence[Attachment], network: str | None) -> tuple[Leaf, ...]:
    if len(items) <= MOST or network is not None:
        return tuple(_leaf(node, item) for item in items)
    groups: dict[tuple[str, str, State], list[Attachment]] = {}
    for item in items:
        task = node.task(item)
        named = _NUMBERED.sub("", task.names[0]) if task is not None and task.names else ""
        groups.setdefault((item.network, named or "container", node.state(item)), []).append(item)
    return tuple(
        Leaf("", f"{named} x{len(members)}", f"{net}, {state.value}", state in _GOOD)
        for (net, named, state), members in sorted(groups.items(), key=lambda entry: entry[0])
    )


def _leaf(node: Node, item: Attachment) -> Leaf:
    task = node.task(item)
    state = node.state(item)
    name = ",".join(task.names) if task is not None else item.container_id
    parts = [name, *(entry.ip for entry in item.addresses), *map(str, item.ports)]
    if state is not State.UP:
        parts.append(state.value.upper())
    about = f"{item.container_id} {item.ifname} on {item.network}, {state.value}"
    return Leaf(item.host_interface, "  ".join(parts), about, state in _GOOD, item.container_id)


def text(found: Sequence[Branch], title: str) -> Iterator[str]:
    """A tree, a line each, of printable characters."""
    yield printable(title)
    for number, branch in enumerate(found):
        last = number == len(found) - 1
        yield printable(f"{'└' if last else '├'}─ {branch.name}  {branch.about}{_mark(branch)}")
        for index, leaf in enumerate(branch.leaves):
            end = index == len(branch.leaves) - 1
            link = f"{leaf.link} ── " if leaf.link else ""
            yield printable(f"{' ' if last else '│'}  {'└' if end else '├'}─ {link}{leaf.text}")


def _mark(branch: Branch) -> str:
    return "" if branch.good else "  DOWN"


def svg(found: Sequence[Branch], title: str) -> str:
    """A document that stands alone; problems have the class `bad`."""
    parts: list[str] = []
    y = 40
    wide = max((len(leaf.text) for branch in found for leaf in branch.leaves), default=0) * _LETTER + 20
    # What is wrong stands first in a box: its end may be cut.
    heads = [f"{branch.name}{_mark(branch)}  {branch.about}" for branch in found]
    left = min(max([_WIDE, *(len(head) * _LETTER + 20 for head in heads)]), 2 * _WIDE)
    for branch, head in zip(found, heads, strict=True):
        top, rows = y, max(len(branch.leaves), 1)
        middle = top + (rows * _ROW) / 2
        body = [_box(_EDGE, middle - 10, left, head, branch.about)]
        for leaf in branch.leaves:
            x, end = _EDGE + left, _EDGE + left + _GAP + 100
            line = f'<path d="M{x:g} {middle:g}H{x + _GAP // 2:g}V{y + 10:g}H{end:g}"/>'
            label = f'<text x="{x + _GAP // 2 + 4:g}" y="{y + 7:g}">{_safe(leaf.link)}</text>'
            inner = line + label + _box(end, y, max(wide, _WIDE), leaf.text, leaf.about)
            body.append(_group(inner, good=leaf.good, container=leaf.container))
            y += _ROW
        if not branch.leaves:
            y += _ROW
        parts.append(_group("".join(body), good=branch.good))
        y += 10
    size = _EDGE * 2 + left + _GAP + 100 + max(wide, _WIDE)
    start = f'<svg xmlns="http://www.w3.org/2000/svg" width="{size:g}" height="{y + _EDGE}" role="img">'
    named = f'<title>{_safe(title)}</title><text x="{_EDGE}" y="24">{_safe(title)}</text>'
    return f"{start}<style>{STYLE}</style>{named}{''.join(parts)}</svg>\n"


def _group(inner: str, *, good: bool, container: str = "") -> str:
    named = f' data-container="{_safe(container)}"' if container else ""
    return f"<g{named}>{inner}</g>" if good else f'<g class="bad"{named}>{inner}</g>'


def _box(x: float, y: float, wide: float, label: str, about: str) -> str:
    most = max(int((wide - 12) / _LETTER), 1)
    shown = label if len(label) <= most else label[: most - 1] + "…"
    return (
        f"<g><title>{_safe(about)}</title>"
        f'<rect x="{x:g}" y="{y:g}" width="{wide:g}" height="20" rx="3"/>'
        f'<text x="{x + 6:g}" y="{y + 14:g}">{_safe(shown)}</text></g>'
    )


#: What XML reads in a text and in an attribute as more than a character.
_SPECIAL = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;"})


def _safe(text_: str) -> str:
    return printable(text_).translate(_SPECIAL)
