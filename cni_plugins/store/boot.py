"""Which boot this is, and how far into it: what orders events of one machine without its wall clock, which
may be set to anything at any time.
"""

import time
from functools import cache
from pathlib import Path


@cache
def current() -> str:
    """The kernel's name for this boot (random(4), `boot_id`); "" where /proc does not have it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def elapsed() -> float:
    """Seconds since the boot, suspension included (CLOCK_BOOTTIME): the clock of `Call.began`."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
