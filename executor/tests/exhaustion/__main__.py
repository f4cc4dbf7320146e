"""`python -m executor.tests.exhaustion --seconds 10`: everything in turn, for longer than the suite has time
for, and memory by a control group (version 1) as well."""

from __future__ import annotations

import argparse
import sys
import time

from executor.tests.exhaustion.life import live
from executor.tests.exhaustion.resources import (
    AddressSpace,
    ControlGroup,
    Descriptors,
    Disk,
    Inodes,
    Resource,
    Threads,
    Warden,
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m executor.tests.exhaustion", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each is away, at each step")
    options = parser.parse_args()
    kinds: list[type[Resource]] = [
        Threads,
        Descriptors,
        AddressSpace,
        ControlGroup,
        Disk,
        Inodes,
        Warden,
    ]
    for kind in kinds:
        for rotated in (False, True):
            began = time.monotonic()
            wanting = kind()
            live(wanting, options.seconds, rotated=rotated)
            if isinstance(wanting, ControlGroup):
                wanting.close()
            form = "through the executor" if rotated else "straight to the agent"
            took = time.monotonic() - began
            sys.stdout.write(f"{kind.__name__}, output {form}: every task ended once ({took:.0f} s)\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
