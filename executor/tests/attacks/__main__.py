"""`python -m executor.tests.attacks --races 10000`: the attacks for longer, and what became of them."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from executor.protocol import Encoding
from executor.tests.attacks.forms import FORMS, build
from executor.tests.attacks.play import ALL_OPTIONS, play
from executor.tests.attacks.races import race
from executor.tests.scenarios import scene as scenes


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m executor.tests.attacks", description=__doc__)
    parser.add_argument("--races", type=int, default=10_000, help="names root comes for while they change")
    parser.add_argument("--launches", type=int, default=200, help="tasks started in each play")
    parser.add_argument("--form", choices=FORMS, action="append", help="only this form of the executor")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        began = time.monotonic()
        done = race(Path(folder), options.races)
        say(f"{options.races} races, {done} of them won by root, in {time.monotonic() - began:.0f} s")
    build()
    for form in options.form or FORMS:
        for name, settings in (("default", {}), ("all options", ALL_OPTIONS)):
            began = time.monotonic()
            act = partial(play, form=form, options=settings, launches=options.launches)
            scenes.play(act, Encoding.PROTOBUF)
            say(f"{form}, {name}: {options.launches} launches in {time.monotonic() - began:.0f} s")
    return 0


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
