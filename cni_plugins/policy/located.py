"""YAML and JSON with the line that each value stands in.

PyYAML is imported when a YAML file is read, never for a call of a plugin. Aliases are refused: nothing that
is read is larger than its file.
"""

import json
import re
from bisect import bisect_left
from dataclasses import dataclass
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

DEEPEST = 50
_SPACE = re.compile(r"[ \t\r\n]*")
_WORD = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null")


@dataclass(frozen=True, slots=True)
class Node:
    """`value` is a scalar, a list of nodes, or a dict of names to pairs (line of the name, node)."""

    value: Any
    line: int


class Malformed(Exception):
    """No YAML or JSON: `line` and what is wrong."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def read(text: str, *, as_json: bool) -> Node:
    """Malformed."""
    if as_json:
        return _Json(text).document()
    return _yaml(text)


class _Json:
    __slots__ = ("_breaks", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._breaks = [match.start() for match in re.finditer("\n", text)]

    def document(self) -> Node:
        try:
            json.loads(self.text)
        except json.JSONDecodeError as error:
            raise Malformed(error.lineno, error.msg) from None
        except RecursionError:
            raise Malformed(1, "nested too deeply") from None
        node, _ = self._value(self._skip(0), 0)
        return node

    def _skip(self, at: int) -> int:
        match = _SPACE.match(self.text, at)
        return match.end() if match else at

    def _line(self, at: int) -> int:
        return bisect_left(self._breaks, at) + 1

    def _value(self, at: int, depth: int) -> tuple[Node, int]:
        line, first = self._line(at), self.text[at]
        if depth > DEEPEST:
            raise Malformed(line, "nested too deeply")
        if first == '"':
            text, end = scanstring(self.text, at + 1)
            return Node(text, line), end
        if first == "[":
            items: list[Node] = []
            at = self._skip(at + 1)
            while self.text[at] != "]":
                item, at = self._value(at, depth + 1)
                items.append(item)
                at = self._skip(at)
                at = self._skip(at + 1) if self.text[at] == "," else at
            return Node(items, line), at + 1
        if first == "{":
            return self._object(at, line, depth)
        match = _WORD.match(self.text, at)
        if match is None:
            raise Malformed(line, f"{self.text[at : at + 20]!r} is no value")
        return Node(json.loads(match[0]), line), match.end()

    def _object(self, at: int, line: int, depth: int) -> tuple[Node, int]:
        found: dict[str, tuple[int, Node]] = {}
        at = self._skip(at + 1)
        while self.text[at] != "}":
            at_line = self._line(at)
            name, at = scanstring(self.text, at + 1)
            if name in found:
                raise Malformed(at_line, f"the key {name!r} stands there twice")
            at = self._skip(self._skip(at) + 1)
            node, at = self._value(at, depth + 1)
            found[name] = (at_line, node)
            at = self._skip(at)
            at = self._skip(at + 1) if self.text[at] == "," else at
        return Node(found, line), at + 1


def _yaml(text: str) -> Node:
    import yaml  # noqa: PLC0415 - 20 ms, and no call of a plugin reads YAML

    opening = (yaml.BlockSequenceStartToken, yaml.BlockMappingStartToken,
               yaml.FlowSequenceStartToken, yaml.FlowMappingStartToken)  # fmt: skip
    closing = (yaml.BlockEndToken, yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken)
    # By libyaml where there is one: the largest file takes seconds then, and else minutes.
    kind: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        depth = 0
        for token in yaml.scan(text, Loader=kind):
            if isinstance(token, yaml.AliasToken):
                raise Malformed(token.start_mark.line + 1, "aliases (*name) are not taken: write it out")
            depth += isinstance(token, opening) - isinstance(token, closing)
            if depth > DEEPEST + 1:  # not after the rest: each token costs as much as there are levels
                raise Malformed(token.start_mark.line + 1, "nested too deeply")
        loader = kind(text)
        composed = loader.get_single_node()
        return Node({}, 1) if composed is None else _of_yaml(loader, composed, 0)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
        raise Malformed(line, str(error.problem or error.context or "no YAML")) from None
    except (yaml.YAMLError, ValueError) as error:
        raise Malformed(1, str(error).splitlines()[0]) from None
    except RecursionError:
        raise Malformed(1, "nested too deeply") from None


def _of_yaml(loader: Any, node: Any, depth: int) -> Node:
    import yaml  # noqa: PLC0415 - see above

    line = node.start_mark.line + 1
    if depth > DEEPEST:
        raise Malformed(line, "nested too deeply")
    if isinstance(node, yaml.ScalarNode):
        return Node(loader.construct_object(node), line)
    if isinstance(node, yaml.SequenceNode):
        return Node([_of_yaml(loader, item, depth + 1) for item in node.value], line)
    found: dict[str, tuple[int, Node]] = {}
    for key, value in node.value:
        at = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise Malformed(at, "a key has to be a string")
        name = str(key.value)
        if name in found:
            raise Malformed(at, f"the key {name!r} stands there twice")
        found[name] = (at, _of_yaml(loader, value, depth + 1))
    return Node(found, line)
