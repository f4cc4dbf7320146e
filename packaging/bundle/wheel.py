"""The wheel: for a Python of one's own, a laptop say. `mesokit cni install` makes the plugins of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import freeze
from frozen import version_of_project

_PARTS = ("executor", "cni_plugins", "proto", "pyproject.toml", "README.md")


def file_name() -> str:
    return f"mesokit-{version_of_project()}-py3-none-any.whl"


def build(stage: Path, dist: Path, date: int) -> None:
    """Writes it into `dist`; from a copy, because setuptools takes up what it left behind earlier."""
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True)
    for part in _PARTS:
        source = freeze.TOP / part
        if source.is_dir():
            shutil.copytree(source, stage / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, stage / part)
    argv = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
    ]
    finished = subprocess.run(
        [*argv, "--wheel-dir", dist, stage],
        env={**os.environ, "SOURCE_DATE_EPOCH": str(date), "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if finished.returncode:
        raise freeze.BuildError(f"the wheel cannot be made:\n{finished.stdout.decode()[-2000:]}")
