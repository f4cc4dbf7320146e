"""The resolv.conf that a Mesos agent wrote for a container, changed in place.

The agent mounts that file over /etc/resolv.conf in the container. A mount stands for the file, not for its
name, so a new file under the old name would never be seen: the old one is written over, the new text padded
with newlines to the longer of the two and then cut, so that a reader never finds it empty or without its
first line. The container may have written to it before; nothing of that is believed.
"""

import os
import stat
from contextlib import suppress

from cni_plugins.spec.errors import CniError, Code
from cni_plugins.steps.context import Context
from cni_plugins.steps.step import Step, step

_LARGEST = 65536


def _opened(path: str) -> int:
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(f"{path} is no regular file")
    return fd


def read(path: str) -> str | None:
    """The text, a character for each byte; None when there is no such regular file, or it is too large to be
    an agent's.
    """
    try:
        fd = _opened(path)
    except OSError:
        return None
    try:
        data = os.pread(fd, _LARGEST + 1, 0)
    finally:
        os.close(fd)
    return data.decode("latin-1") if len(data) <= _LARGEST else None


@step
class DnsFile(Step):
    """`before` and `after` have a character for each byte."""

    path: str
    before: str
    after: str

    def _write(self, text: str) -> None:
        fd = _opened(self.path)
        try:
            data = text.encode("latin-1")
            longer = max(os.fstat(fd).st_size, len(data))
            os.pwrite(fd, data.ljust(min(longer, _LARGEST), b"\n"), 0)
            os.ftruncate(fd, len(data))
        finally:
            os.close(fd)

    def apply(self, context: Context) -> None:
        """CniError 5."""
        try:
            self._write(self.after)
        except OSError as error:
            raise CniError(Code.IO, f"cannot write {self.path}", str(error)) from error

    def undo(self, context: Context) -> None:
        """Put the old text back. A file that is gone went with its container."""
        with suppress(FileNotFoundError):
            try:
                self._write(self.before)
            except FileNotFoundError:
                raise
            except OSError as error:
                raise CniError(Code.IO, f"cannot write {self.path}", str(error)) from error
