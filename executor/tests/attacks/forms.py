"""The forms of an executor, laid into a sandbox as an agent's fetcher does: everything is root's."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

TOP = Path(__file__).resolve().parents[3]
FORMS = ("checkout", "directory", "one-file")


def build() -> None:
    """What packaging/build makes, made where it is missing or old."""
    subprocess.run([TOP / "packaging/build"], check=True, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def laid(form: str, sandbox: Path) -> Iterator[dict[str, str]]:
    """The program in the sandbox, for Scene.start, and the variables that it needs."""
    variables: dict[str, str] = {}
    program: Path | None = None
    if form == "checkout":
        copy = sandbox / "checkout"
        ignore = shutil.ignore_patterns("__pycache__", "tests")
        shutil.copytree(TOP / "executor", copy / "executor", ignore=ignore)
        shutil.copytree(TOP / "proto" / "mesos", copy / "mesos", ignore=ignore)
        variables["PYTHONPATH"] = str(copy)
    elif form == "directory":
        with tarfile.open(TOP / "dist/mesokit-executor.tar.gz") as archive:
            archive.extractall(sandbox)
        program = sandbox / "mesokit-executor/mesokit-executor"
    else:
        program = sandbox / "mesokit-executor"
        shutil.copy(TOP / "dist/mesokit-executor", program)
    before = os.environ.get("MESOKIT_EXECUTOR")
    if program is not None:
        os.environ["MESOKIT_EXECUTOR"] = str(program)
    try:
        yield variables
    finally:
        os.environ.pop("MESOKIT_EXECUTOR", None)
        if before is not None:
            os.environ["MESOKIT_EXECUTOR"] = before
