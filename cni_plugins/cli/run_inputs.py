"""What `mesokit run` is given, looked at before anything is made: TASK.json, directories, the executor."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from executor.local_agent.cni import NetworkError, scan
from executor.local_agent.task_file import ContainerRequest, read_description
from executor.local_agent.validation import DescriptionError

PLUGIN_DIRS = ("/opt/cni/bin", "/usr/lib/mesokit/plugins", "/usr/lib/cni", "/usr/libexec/cni")
"""Where plugins are installed: by hand or by us, by our package, by distributions."""


class RefusalError(click.ClickException):
    """TASK.json or an option cannot be used; the usage line would not help."""

    exit_code = 2


def plugin_path(given: str) -> str:
    """The directories to look for plugins in, as CNI_PATH has them."""
    if given:
        return given
    if set_ := os.environ.get("CNI_PATH", ""):
        return set_
    beside = Path(sys.executable).resolve().parents[1]  # an archive that was unpacked anywhere
    places = [*PLUGIN_DIRS, *([str(beside)] if (beside / "mesokit-cni.d").is_dir() else [])]
    return ":".join(place for place in places if Path(place).is_dir()) or PLUGIN_DIRS[0]


def check_directories(
    requests: tuple[ContainerRequest, ...], config_dir: Path, plugin_path: str, given: str
) -> Iterator[str]:
    """What is wrong with files of the network directory, a note each. Raises RefusalError."""
    if not any(request.networks for request in requests):
        return
    try:
        networks = scan(config_dir, plugin_path)
    except NetworkError as error:
        raise RefusalError(f"--network-config-dir: {error}") from None
    if not any(place and Path(place).is_dir() for place in plugin_path.split(":")):
        what = "--plugin-dir" if given else "plugins"
        raise RefusalError(
            f"{what}: {plugin_path!r}: no such directory; give --plugin-dir, or install the plugins into "
            + " or ".join(PLUGIN_DIRS[:2])
        )
    for reason in networks.skipped:
        yield f"not a network: {reason}"


def make(directory: Path, option: str) -> None:
    """Make a directory that an option names. Raises RefusalError."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RefusalError(f"{option}: {directory}: {error.strerror}") from None


def read(task: str) -> tuple[ContainerRequest, ...]:
    """What TASK.json asks for; "-" is standard input. Raises RefusalError."""
    source = "standard input" if task == "-" else task
    try:
        if task == "-" and sys.stdin is None:
            raise RefusalError("standard input is closed: give a TASK.json, or pipe one in")
        text = sys.stdin.buffer.read() if task == "-" else Path(task).read_bytes()
        return read_description(text, source)
    except OSError as error:
        raise RefusalError(f"{source}: {error.strerror}") from None
    except DescriptionError as error:
        raise RefusalError(str(error)) from None


def executor_command(given: str | None) -> list[str]:
    """The executor to run: the one that is named, else the one installed with us. Raises RefusalError."""
    if given is None:
        beside = Path(sys.executable).parent / "mesokit-executor"
        found = str(beside) if beside.exists() else shutil.which("mesokit-executor")
        if found is None:
            raise RefusalError("no mesokit-executor beside this program or in PATH: name one with --executor")
        return [found]
    try:
        program, *arguments = shlex.split(given) or [""]
    except ValueError as error:
        raise RefusalError(f"--executor: {given!r}: {error}: expected a command as in a shell") from None
    found = shutil.which(program)
    if found is None:
        raise RefusalError(f"--executor: {program!r}: expected a program that can be run")
    return [str(Path(found).absolute()), *arguments]
