"""Mistakes in what a person wrote, each naming the key, the value and what was expected there."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Json = Any


@dataclass(frozen=True, slots=True)
class Fault:
    """`key` is the path of the value in its document; `found` what stands there, as JSON."""

    key: str
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.key or 'the document'}: {self.found}: expected {self.expected}"


class DescriptionError(ValueError):
    """A document cannot be used; all of its faults at once."""

    def __init__(self, source: str, faults: Sequence[Fault]) -> None:
        super().__init__("\n".join(f"{source}: {fault}" for fault in faults))
        self.faults = tuple(faults)


def fault(key: str, value: Json, expected: str) -> Fault:
    """A fault with the value printed short."""
    text = json.dumps(value, ensure_ascii=False)
    return Fault(key, text if len(text) <= 60 else text[:57] + "…", expected)


def missing(key: str, expected: str) -> Fault:
    """A fault for a key that has to be there."""
    return Fault(key, "missing", expected)


def unknown_key(key: str, name: str, known: Iterable[str]) -> Fault:
    """A fault for a key nobody reads, with the nearest one that somebody does."""
    return Fault(f"{key}.{name}" if key else name, "unknown key", suggestion(name, known))


def suggestion(name: str, known: Iterable[str]) -> str:
    """The nearest known name, or all of them."""
    names = sorted(known)
    folded = {candidate.replace("_", "").lower(): candidate for candidate in names}
    near = difflib.get_close_matches(name.replace("_", "").lower(), folded, n=1, cutoff=0.6)
    return repr(folded[near[0]]) if near else f"one of {', '.join(names) or 'nothing'}"


def load_json(text: bytes, source: str) -> Json:
    """Parse a document. Raises DescriptionError, which names line and column, also for a key given twice."""
    try:
        document = json.loads(text, object_pairs_hook=_no_duplicates)
        # Python takes half a surrogate pair for a character; nothing that the text goes to does.
        json.dumps(document, ensure_ascii=False).encode()
        return document
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise DescriptionError(source, [Fault(where, error.msg.lower(), "a JSON document")]) from None
    except UnicodeDecodeError as error:
        where = f"byte {error.start}"
        raise DescriptionError(source, [Fault(where, "not UTF-8", "a JSON document")]) from None
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])
        raise DescriptionError(source, [Fault("", half, "whole characters, not half a pair")]) from None
    except RecursionError:
        raise DescriptionError(source, [Fault("", "lists in lists", "far fewer levels of them")]) from None
    except ValueError:
        # What is left: Python converts no integers of more than 4300 digits.
        raise DescriptionError(source, [Fault("", "a number", "far fewer digits in it")]) from None
    except _DuplicateKeyError as error:
        raise DescriptionError(source, [Fault(str(error), "given twice", "each key once")]) from None


class _DuplicateKeyError(Exception):
    pass


def _no_duplicates(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    document = dict(pairs)
    if len(document) != len(pairs):
        names = [name for name, _ in pairs]
        raise _DuplicateKeyError(next(name for name in names if names.count(name) > 1))
    return document
