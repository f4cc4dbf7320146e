"""Who may change what containers have, and how who may not is told."""

from __future__ import annotations

import errno
import os

import click

_REFUSALS = (os.strerror(errno.EPERM), os.strerror(errno.EACCES))


def require_root() -> None:
    """Before anything is looked at: what it would meet first is chance. Raises click.ClickException."""
    if os.geteuid():
        raise click.ClickException("run me as root: this changes what containers have")


def told(error: Exception) -> str:
    """An error's sentence; where the kernel refused it to who is not root, with the way out."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{os.fsdecode(error.filename)}: {error.strerror}" if error.filename else error.strerror
    refused = os.geteuid() and any(refusal in text for refusal in _REFUSALS)
    return f"{text}: run me as root" if refused else text
