"""`python -m executor.tests.chaos --seed 7 --minutes 5`: play one seed and say what happened."""

from __future__ import annotations

import argparse
import random
import sys

from executor.protocol import Encoding
from executor.tests.chaos.run import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m executor.tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--encoding", choices=[one.value for one in Encoding], default="protobuf")
    parser.add_argument("--verbose", action="store_true", help="say every step on standard error")
    options = parser.parse_args()

    def note(text: str) -> None:
        if options.verbose:
            sys.stderr.write(text + "\n")

    sys.stderr.write(f"seed {options.seed}\n")
    outcome = run(options.seed, options.minutes * 60, Encoding(options.encoding), note)
    sys.stdout.write(f"{outcome}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
