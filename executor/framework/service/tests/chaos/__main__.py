"""`python -m executor.framework.service.tests.chaos --seed 7 --minutes 5`: play a seed, say what happened."""

import argparse
import asyncio
import logging
import random
import sys
import tempfile
from pathlib import Path

from executor.framework.service.tests.chaos.run import play


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m executor.framework.service.tests.chaos")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--verbose", action="store_true", help="say every step on standard error")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING if options.verbose else logging.CRITICAL)

    def note(text: str) -> None:
        if options.verbose:
            sys.stderr.write(text + "\n")

    sys.stderr.write(f"seed {options.seed}\n")
    with tempfile.TemporaryDirectory() as folder:
        outcome = asyncio.run(play(options.seed, options.minutes * 60, Path(folder), note))
    sys.stdout.write(outcome + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
