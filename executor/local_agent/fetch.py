"""The fetcher: brings the URIs of a command into the sandbox before the executor starts, as Mesos' does."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import urllib.parse
import zipfile
from pathlib import Path

import requests
from mesos.v1 import mesos_pb2

from executor.local_agent.task_file import ContainerRequest

_TIMEOUT = 60
_CHUNK = 1 << 20
_ZIP = (".zip", ".jar")
_TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")


class FetchError(Exception):
    """A URI could not be brought into the sandbox; the text names it."""


async def fetch(request: ContainerRequest, sandbox: Path) -> None:
    """Fetch the URIs of the executor's command and of the tasks'. Raises FetchError."""
    commands = [request.executor.command, *(task.command for task in request.tasks)]
    for uri in (uri for command in commands for uri in command.uris):
        try:
            await asyncio.to_thread(_fetch, uri, sandbox)
        except (OSError, ValueError, zipfile.BadZipFile) as error:  # requests raises OSErrors
            raise FetchError(f"cannot fetch {uri.value!r}: {error}") from None


def _fetch(uri: mesos_pb2.CommandInfo.URI, sandbox: Path) -> None:
    parts = urllib.parse.urlsplit(uri.value)
    name = uri.output_file or Path(parts.path).name
    if not name:
        raise ValueError("it has no file name, and no output_file is given")
    target = sandbox / name
    if not target.resolve().is_relative_to(sandbox.resolve()):
        raise ValueError(f"output_file {name!r} is outside the sandbox")
    target.parent.mkdir(parents=True, exist_ok=True)
    if parts.scheme in ("http", "https"):
        with requests.get(uri.value, stream=True, timeout=_TIMEOUT) as answer, target.open("wb") as file:
            answer.raise_for_status()
            for chunk in answer.iter_content(_CHUNK):
                file.write(chunk)
    elif parts.scheme in ("", "file"):
        shutil.copyfile(parts.path, target)
    else:
        raise ValueError("expected http, https, file, or a path of this host")
    if uri.executable:
        target.chmod(0o755)
    elif uri.extract:
        _extract(target, sandbox)


def _extract(archive: Path, sandbox: Path) -> None:
    if archive.name.endswith(_ZIP):
        with zipfile.ZipFile(archive) as zipped:
            zipped.extractall(sandbox)
    elif archive.name.endswith(_TAR):
        # Mesos' fetcher runs tar too, which refuses names that lead out of the folder.
        done = subprocess.run(
            ["tar", "-C", sandbox, "--no-same-owner", "-xf", archive],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ValueError(done.stderr.strip())
