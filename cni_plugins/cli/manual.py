"""The manual of the plugins, made of what the code knows: names, keys, defaults, module docstrings.

A plugin's page is its one line, its module's docstring (what it makes, an example) and a table of its keys
from the same metadata that decodes configurations; it cannot say what the code does not do.
"""

import importlib
import json
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cni_plugins.attach.plugin import Kind, Plugin
from cni_plugins.plugins.registry import MODULES, Plugins
from cni_plugins.spec.config import Key, keys_of

_ANY, _MAIN, _META = frozenset(Kind), frozenset({Kind.MAIN}), frozenset({Kind.META})
KINDS: Mapping[Kind, str] = {
    Kind.MAIN: "makes an interface",
    Kind.IPAM: "chooses addresses (under the key `ipam` of a plugin that makes an interface)",
    Kind.META: "changes what another plugin made: after it in a list, or around it with the key `delegate`",
}
#: What stands in any network's file, whatever its plugin: key, value, plugins that have it, meaning.
COMMON: tuple[tuple[str, str, frozenset[Kind], str], ...] = (
    (
        "cniVersion",
        "string",
        _ANY,
        "the specification's version, of the configuration and of the result: 1.0.0",
    ),
    (
        "cniVersions",
        "list of string",
        _ANY,
        "instead, versions of which the runtime takes the highest it knows",
    ),
    ("name", "string", _ANY, "the network's: what a task asks for, and the folder of its reservations"),
    ("type", "string", _ANY, "the plugin's name"),
    ("ipam", "object", _MAIN, "who chooses addresses: `type` (host-local, static, dhcp) and that one's keys"),
    (
        "delegate",
        "object",
        _META,
        "the plugin to run first, a whole configuration but for name and cniVersion",
    ),
    ("plugins", "list of object", _ANY, "of a list, or of chain: the members in order; a list has no `type`"),
    ("dns", "object", _ANY, "`nameservers`, `domain`, `search`, `options` for the result's dns"),
    (
        "capabilities",
        "object",
        _ANY,
        "what `runtimeConfig` may have, each true: portMappings, ips, mac, bandwidth, ipRanges, dns, …",
    ),
    ("runtimeConfig", "object", _ANY, "written by the runtime: the values of what `capabilities` names"),
    (
        "args",
        "object",
        _ANY,
        "written by the runtime: `cni` (ips, mac, mtu, …) and Mesos' `org.apache.mesos`",
    ),
    ("prevResult", "object", _ANY, "written by the runtime: the result so far, of a list's earlier members"),
    ("networkInfoLabels", "object", _ANY, "which labels of a Mesos task count: {prefix, allow}"),
    ("disableCheck", "boolean", _ANY, "of a list or of chain: CHECK asks no member"),
    ("disableGC", "boolean", _ANY, "of a list: the runtime runs no GC"),
    ("loadOnlyInlinedPlugins", "boolean", _ANY, "of a list: no members from files beside it"),
)
_OF_LISTS = {"plugins", "disableCheck", "disableGC", "loadOnlyInlinedPlugins"}
BEGIN = "<!-- generated: mesokit cni help --markdown -->"
END = "<!-- end of what is generated -->"


@dataclass(frozen=True, slots=True)
class Row:
    """One key: its full path in the configuration, kind of value, default as JSON ("" for none), meaning."""

    path: str
    kind: str
    default: str
    about: str


@dataclass(frozen=True, slots=True)
class Page:
    name: str
    kind: str
    about: str
    versions: tuple[str, ...]
    text: str
    rows: tuple[Row, ...]


def _default(value: Any) -> str:
    if value is None or value in ("", ()):
        return ""
    try:
        return json.dumps(value)
    except TypeError:
        return "" if not value else str(value)


def _rows(keys: tuple[Key, ...], prefix: str) -> Iterator[Row]:
    for key in keys:
        path = prefix + key.key
        yield Row(path, key.kind.name, _default(key.default), key.about)
        if key.kind.schema is not None:
            listed = "[]" if key.kind.name.startswith("list") else ""
            yield from _rows(keys_of(key.kind.schema), f"{path}{listed}.")


def page(name: str) -> Page:
    """The page of one plugin. KeyError when there is none of that name."""
    plugin: Plugin[Any] = Plugins()[name]
    text = (importlib.import_module(MODULES[name]).__doc__ or "").strip()
    prefix = "ipam." if plugin.kind is Kind.IPAM else ""
    rows = tuple(_rows(keys_of(plugin.config), prefix))
    return Page(name, KINDS[plugin.kind], plugin.about, plugin.versions, text, rows)


def pages() -> list[Page]:
    """Every plugin's page, those that make interfaces first."""
    order = list(KINDS.values())
    return sorted((page(name) for name in MODULES), key=lambda item: (order.index(item.kind), item.name))


def plain(item: Page, width: int = 100) -> str:
    """A page for a terminal of so many columns."""
    lines = [*_wrapped(f"{item.name}: {item.about}", width), *_wrapped(f"It {item.kind}.", width), ""]
    lines += [fitted(item.text, width), ""]
    if item.rows:
        lines.append("Keys:")
        for row in item.rows:
            default = f", {row.default} unless given" if row.default else ""
            lines += _wrapped(f"{row.path} ({row.kind}{default})", width, "  ", "      ")
            lines += _wrapped(row.about, width, "      ", "      ")
    else:
        lines.append("It has no keys of its own.")
    lines += ["", *_wrapped(_beside(item), width)]
    versions = f"{item.versions[0]} to {item.versions[-1]}"
    verbs = f"Specification versions {versions}; verbs ADD, DEL, CHECK, GC, STATUS, VERSION."
    return "\n".join([*lines, "", *_wrapped(verbs, width)])


def _beside(item: Page) -> str:
    """The keys that stand beside a plugin's own, as a sentence."""
    of = next(kind for kind, about in KINDS.items() if about == item.kind)
    without = _OF_LISTS if Plugins()[item.name].takes_ipam else _OF_LISTS | {"ipam"}
    names = [key for key, _, kinds, _ in COMMON if of in kinds and key not in without]
    listed = ", ".join(names)
    return f"Beside its own, a network's file has: {listed} (`mesokit cni help --markdown` explains them)."


def fitted(text: str, width: int) -> str:
    """Paragraphs anew for so many columns; those with an indented line, examples and tables, as they are."""
    parts = []
    for paragraph in text.split("\n\n"):
        lines = paragraph.splitlines()
        as_it_is = any(line[:1] in (" ", "|", "*", "{") for line in lines)
        parts.append(paragraph if as_it_is else "\n".join(_wrapped(" ".join(lines), width)))
    return "\n\n".join(parts)


def _wrapped(text: str, width: int, first: str = "", rest: str = "") -> list[str]:
    return textwrap.wrap(
        text,
        max(width, 30),
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _table_row(row: Row) -> str:
    default = f"`{_cell(row.default)}`" if row.default else ""
    return f"| `{row.path}` | {_cell(row.kind)} | {default} | {_cell(row.about)} |"


def markdown() -> str:
    """All pages, as MANUAL.md of the plugins holds them."""
    lines = [
        BEGIN,
        "",
        "### Keys of every network",
        "",
        "| key | value | of | meaning |",
        "|---|---|---|---|",
    ]
    for key, value, kinds, about in COMMON:
        of = (
            "any"
            if kinds == _ANY
            else "plugins that make an interface"
            if kinds == _MAIN
            else "plugins around one"
        )
        lines.append(f"| `{key}` | {value} | {of} | {_cell(about)} |")
    lines.append("")
    for item in pages():
        lines += [f"### {item.name}", "", f"{item.about[:1].upper()}{item.about[1:]}. It {item.kind}.", ""]
        lines += [item.text, ""]
        if item.rows:
            lines += ["| key | value | default | meaning |", "|---|---|---|---|"]
            lines += [_table_row(row) for row in item.rows]
        else:
            lines.append("It has no keys of its own.")
        lines.append("")
    return "\n".join([*lines, END])


def renewed(text: str) -> str:
    """A document with the part between its two marks made anew. ValueError when the marks are missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document has no part between {BEGIN} and {END}")
    return before + markdown() + after


def as_json(item: Page) -> dict[str, Any]:
    return {
        "name": item.name,
        "kind": item.kind,
        "about": item.about,
        "versions": list(item.versions),
        "text": item.text,
        "keys": [
            {"key": row.path, "value": row.kind, "default": row.default, "about": row.about}
            for row in item.rows
        ],
    }
