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


ASIDE = """
import os, sys
from pathlib import Path
from executor.config.token import set_aside, take_back, take_token
from executor.process.prctl import hide_memory
word = "MESOS_EXECUTOR_AUTHENTICATION_" + "TOKEN"
copies = [os.environ[word] + str(n) for n in range(1000)]
copies = [copy.encode() for copy in copies]
held = set_aside(take_token(os.environ))
del copies

def count(pid):
    found = 0
    with open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            words = line.split()
            if words[1].startswith("rw") and words[-1] != "[vvar]":
                start, end = (int(word, 16) for word in words[0].split("-"))
                memory.seek(start)
                found += memory.read(end - start).count(bytes.fromhex(sys.argv[1]))
    return found

child = os.fork()
if not child:
    import time; time.sleep(1000)
found = count(child)
os.kill(child, 9)
token = take_back(held)
hide_memory()
try:
    reading = os.fork()
    if not reading:
        os.setuid(54321)
        Path(f"/proc/{os.getppid()}/environ").read_bytes()
        os._exit(0)
finally:
    if not reading: os._exit(1)
print(found, token, os.waitpid(reading, 0)[1] >> 8)
"""


def test_a_token_that_is_set_aside_is_in_no_memory_and_none_of_the_users_may_look() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASIDE, b"the.secret.token".hex()],
        env={"MESOS_EXECUTOR_AUTHENTICATION_TOKEN": "the.secret.token-" + "x1" * 50},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == ["0", "the.secret.token-" + "x1" * 50, "1"]
