"""What a check says of a step. Apart from who checks, whose imports are many."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """Of a step: it is in the kernel as made; it is not; it has nothing that could be checked; it cannot be
    told.
    """

    OK = "ok"
    FAILED = "failed"
    PASSIVE = "passive"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class StepState:
    """A step in words, whether it stands, and why not (`remedy` "" where the step knows none)."""

    kind: str
    about: str
    verdict: Verdict
    problem: str = ""
    remedy: str = ""
