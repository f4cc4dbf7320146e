"""The directory layer alone: root comes for names, many times, while a hostile process exchanges them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from executor.output.directory import Directory
from executor.process.identity import resolve
from executor.tests.attacks.watch import make_outside, picture
from executor.tests.scenarios.processes import wait_until

_HOSTILE = Path(__file__).with_name("hostile.py")


def race(folder: Path, count: int) -> int:
    """Make, share, write and shift `count` times below a sandbox in which a process of nobody's exchanges
    directories and links; how many times that came to a regular end. AssertionError when anything outside
    changed.
    """
    user = resolve("nobody")
    outside, sandbox = folder / "outside", folder / "sandbox"
    make_outside(outside)
    sandbox.mkdir(mode=0o750)
    script = folder / "hostile.py"
    script.write_bytes(_HOSTILE.read_bytes())
    folder.chmod(0o755)
    root = Directory.of(sandbox)
    root.share(user)
    before = picture(outside)
    interpreter = Path(sys.executable).resolve()
    hostile = subprocess.Popen(
        [interpreter, "-I", "-S", script, "races", outside, "t"],
        cwd=sandbox, user=user.uid, group=user.gid, extra_groups=[],
    )  # fmt: skip
    done = 0
    try:
        wait_until((sandbox / "ready-races").exists, "the hostile process")
        for number in range(count):
            with contextlib.suppress(OSError):
                done += _once(root, number)
            for name in ("progress", "pd", "tasks"):
                with contextlib.suppress(OSError):
                    os.rename(sandbox / name, sandbox / f"root-{name}-{number}")  # noqa: PTH104
    finally:
        (sandbox / "stop").touch()
        hostile.wait()
        root.close()
    assert picture(outside) == before
    assert not (sandbox / "could").exists()
    return done


def _once(root: Directory, number: int) -> int:
    user = resolve("nobody")
    with contextlib.suppress(OSError):
        folder = root.enter(["progress", "t"], make=True, owner=user.uid)
        try:
            if os.fstat(folder.descriptor).st_uid == 0:
                folder.share(user)
            with contextlib.suppress(OSError):
                os.close(folder.open_foreign("p", user.uid))
        finally:
            folder.close()
    output = root.enter(["tasks", "t"], make=True)
    try:
        descriptor = output.open_own("stdout", os.O_WRONLY, 0o644)
        os.write(descriptor, b"%d" % number)
        os.close(descriptor)
        output.shift("stdout", 2)
    finally:
        output.close()
    return 1
