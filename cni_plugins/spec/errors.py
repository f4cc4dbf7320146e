"""The one error type that reaches a caller, and the codes of the CNI specification.

An error is raised where the fact is known, with the code that says what the runtime may do about it;
`spec.dispatch` alone turns it into output.
"""

from enum import IntEnum


class Code(IntEnum):
    """CNI 1.1.0, "Error"; 8 is what the reference skeleton adds, 999 what it uses for anything else."""

    INCOMPATIBLE_VERSION = 1
    UNSUPPORTED_FIELD = 2
    UNKNOWN_CONTAINER = 3
    BAD_ENVIRONMENT = 4
    IO = 5
    DECODING = 6
    INVALID_CONFIG = 7
    INVALID_NETNS = 8
    TRY_AGAIN = 11
    NOT_AVAILABLE = 50
    DEGRADED = 51
    INTERNAL = 999


class CniError(Exception):
    """A failure with its CNI code; `msg` is one sentence that names the key, the value and the way out."""

    def __init__(self, code: int, msg: str, details: str = "") -> None:
        super().__init__(msg)
        self.code = int(code)
        self.msg = msg
        self.details = details

    def __str__(self) -> str:
        return f"{self.msg}: {self.details}" if self.details else self.msg
