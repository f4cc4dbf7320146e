"""Who may change what containers have."""

from __future__ import annotations

import os

import click


def require_root() -> None:
    """Before anything is looked at: what it would meet first is chance. Raises click.ClickException."""
    if os.geteuid():
        raise click.ClickException("run me as root: this changes what containers have")
