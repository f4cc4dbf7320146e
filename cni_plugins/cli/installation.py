"""Plugins of an installed distribution in a directory of the operator's choice.

A CNI plugin is an executable that goes by its name. The packages bring launchers for that; `pip install`
brings none, because `bridge` in the PATH is iproute2's. So each is a short script here, or in a bundle a link
to its launcher.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import click

from cni_plugins.plugins.registry import MODULES

_MARK = "# A CNI plugin of mesokit, made by `mesokit cni install`."
_CALL = "import sys; from cni_plugins.main import main; sys.argv = sys.argv[1:]; sys.exit(main())"


def install(directory: Path) -> list[str]:
    """Makes every plugin; their names. Raises ClickException for what cannot be written or is not ours."""
    names = sorted(MODULES)
    launchers = _launchers()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name in names:
            if not _ours(directory / name):
                raise click.ClickException(
                    f"{directory / name} is not of mesokit: remove it, or name another directory"
                )
        for name in names:
            _put(directory / name, launchers / name if launchers else None)
    except OSError as error:
        raise click.ClickException(f"{error.filename or directory}: {error.strerror}") from error
    return names


def _launchers() -> Path | None:
    """Where the launchers are, in a bundle."""
    if not getattr(sys, "frozen", False):
        return None
    above = Path(sys.executable).resolve().parents[1]
    return next(place for place in (above, above / "plugins") if (place / "bridge").exists())


def _ours(path: Path) -> bool:
    """Whether there is none, or one that was made here."""
    if path.is_symlink():
        return "mesokit" in os.fspath(path.readlink())
    if not path.exists():
        return True
    with path.open("rb") as stream:
        return _MARK.encode() in stream.read(200)


def _put(path: Path, launcher: Path | None) -> None:
    """Replaced by renaming: a call that runs keeps what it runs."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    if launcher is not None:
        fresh.symlink_to(launcher)
    else:
        words = [sys.executable, "-I", "-c", _CALL, path.name]
        fresh.write_text(f"#!/bin/sh\n{_MARK}\nexec {shlex.join(words)}\n")
        fresh.chmod(0o755)
    fresh.rename(path)
