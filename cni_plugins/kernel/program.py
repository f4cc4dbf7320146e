"""Programs run in a namespace: delegates that are not ours, iptables.

`subprocess` is imported when the first one runs: hardly any call runs one, and each would pay for it when no
service does the work.
"""

import errno
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cni_plugins.kernel.namespace import entered
from cni_plugins.spec.deadline import Deadline
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.namespace import Namespace

_BUSY_TRIES = 5


@dataclass(frozen=True, slots=True)
class Finished:
    """`status` is negative for a signal."""

    status: int
    out: bytes
    err: bytes


def run(
    namespace: Namespace, argv: Sequence[str], env: Mapping[str, str], stdin: bytes, deadline: Deadline
) -> Finished:
    """Run a program to its end, in a session of its own. A text file that is busy (somebody is writing it) is
    tried again. CniError 11 when the deadline passes: it is killed then; 999 if it cannot be started.
    """
    import subprocess  # noqa: PLC0415 - see above

    for attempt in range(_BUSY_TRIES):
        try:
            with entered(namespace):
                process = subprocess.Popen(
                    argv,
                    env=env,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                )
            break
        except OSError as error:
            if error.errno != errno.ETXTBSY or attempt == _BUSY_TRIES - 1:
                raise CniError(Code.INTERNAL, f"cannot run {argv[0]}", str(error)) from error
            time.sleep(min(1.0, deadline.require(f"{argv[0]}, which is being written")))
    try:
        out, err = process.communicate(stdin, timeout=deadline.require(argv[0]))
    except (CniError, subprocess.TimeoutExpired):
        process.kill()
        process.communicate()
        name = argv[0].rpartition("/")[2]
        raise CniError(Code.TRY_AGAIN, f"{name} was not done after {deadline.seconds:g} s") from None
    return Finished(process.returncode, out, err)
