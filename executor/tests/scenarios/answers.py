"""What the scripted agent does with a call, instead of or besides answering it as an agent would."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Accept:
    """200 with an event stream for SUBSCRIBE (SUBSCRIBED first, unless `quiet`), 202 for anything else.

    `raw`: these bytes, one to a segment, in place of the usual head or response; `hang_up`: then the end.
    """

    quiet: bool = False
    raw: bytes = b""
    hang_up: bool = False


@dataclass(frozen=True, slots=True)
class Refuse:
    """A status and its body; the call has not happened."""

    status: int
    body: str = ""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Reset:
    """RST instead of an answer. `taken`: the call took effect before, which its sender cannot know."""

    taken: bool = False


@dataclass(frozen=True, slots=True)
class Close:
    """The connection ends without an answer, in order (FIN)."""

    taken: bool = False


@dataclass(frozen=True, slots=True)
class Silence:
    """No answer at all; the connection stays open until the agent stops."""


@dataclass(frozen=True, slots=True)
class Endless:
    """`first`, then `again` for ever with `pause` seconds between. `taken`: the call took effect."""

    first: bytes
    again: bytes
    pause: float = 0.0
    taken: bool = False


Answer = Accept | Refuse | Reset | Close | Silence | Endless
