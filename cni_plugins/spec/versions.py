"""The versions of the CNI specification, as the exact strings a configuration may name (no ranges, as in
Go).
"""

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
NEWEST = VERSIONS[-1]


def since(minimum: str) -> tuple[str, ...]:
    """The versions from `minimum` on: what a plugin that came with a later specification supports."""
    return VERSIONS[VERSIONS.index(minimum) :]


def at_least(version: str, minimum: str) -> bool:
    return VERSIONS.index(version) >= VERSIONS.index(minimum)
