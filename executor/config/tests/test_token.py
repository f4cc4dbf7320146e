"""The token is nowhere once it has been taken."""

import subprocess
import sys

PROGRAM = """
import os, sys
from pathlib import Path
from executor.config.token import take_token
print(take_token(os.environ))
held = Path("/proc/self/environ").read_bytes()
child = os.popen("env").read()
print(b"s3cr3t" in held, "s3cr3t" in child, b"AFTER=kept" in held, "AFTER=kept" in child)
print(take_token(os.environ))
"""


def test_the_token_leaves_the_environment_and_the_memory_behind_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={"BEFORE": "kept", "MESOS_EXECUTOR_AUTHENTICATION_TOKEN": "s3cr3t.tok-en", "AFTER": "kept"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split("\n")[:3] == ["s3cr3t.tok-en", "False False True True", "None"]
