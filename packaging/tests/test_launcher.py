"""The launcher's own answers, whatever name it is called by."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
SOURCE = TOP / "packaging/launcher/launcher.c"


def alone(folder: Path, argv0: str) -> subprocess.CompletedProcess[bytes]:
    """Calls a launcher that has no bundle beside it, by another name than its file's."""
    environment = {"CNI_COMMAND": "ADD", "MESOKIT_ROOT": os.fspath(folder), "ASAN_OPTIONS": "detect_leaks=0"}
    return subprocess.run(
        [argv0],
        executable=folder / "launcher",
        env=environment,
        input=b"{}",
        capture_output=True,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A launcher that stops at the first read or write outside what is its own."""
    made = tmp_path_factory.mktemp("launcher")
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover", "-D_GNU_SOURCE", "-std=c11", "-Wall"]
    subprocess.run(["gcc", *flags, "-o", made / "launcher", SOURCE], check=True)
    return made


@pytest.mark.parametrize("length", [1, 100, 900, 5000, 100_000])
def test_a_long_name(folder: Path, length: int) -> None:
    ended = alone(folder, "n" * length)
    assert ended.stderr == b""
    assert ended.returncode == 1
    error = json.loads(ended.stdout)
    assert error["code"] == 5
    assert error["msg"].startswith("n" * min(length, 100) + ": no node service listens")


def test_a_name_that_is_no_json(folder: Path) -> None:
    error = json.loads(alone(folder, 'a"b\\c\nd').stdout)
    assert error["msg"].startswith("a?b?c?d: ")


def test_a_place_of_a_long_name(folder: Path, tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d" * 200] * 6)
    (deep / "mesokit-cni.d").mkdir(parents=True)
    (deep / "launcher").write_bytes((folder / "launcher").read_bytes())
    (deep / "launcher").chmod(0o755)
    error = json.loads(alone(deep, "bridge").stdout)
    assert error["msg"].startswith(f"bridge: cannot start {tmp_path}")


def test_what_is_shipped_says_the_same(tmp_path: Path) -> None:
    script = TOP / "packaging/bundle/launchers.py"
    made = (
        subprocess.run([sys.executable, script], check=True, stdout=subprocess.PIPE).stdout.decode().strip()
    )
    (tmp_path / "launcher").write_bytes(Path(made, "launcher").read_bytes())
    (tmp_path / "launcher").chmod(0o755)
    assert json.loads(alone(tmp_path, "n" * 900).stdout)["msg"].startswith("n" * 100 + ": no node")


@pytest.mark.parametrize("closed", [[1], [2], [0, 1], [1, 2], [0, 1, 2]])
def test_closed_streams_are_not_taken_for_the_service(
    folder: Path, tmp_path: Path, closed: list[int]
) -> None:
    """The answer comes out of standard output, or the call has failed; nothing else gets it."""
    place = tmp_path / "run/mesokit/node.sock"
    place.parent.mkdir(parents=True)
    answer = b'{"supportedVersions":[]}'
    environment = {
        "CNI_COMMAND": "VERSION",
        "MESOKIT_ROOT": os.fspath(tmp_path),
        "ASAN_OPTIONS": "detect_leaks=0",
    }
    with socket.socket(socket.AF_UNIX) as service, (tmp_path / "out").open("wb") as out:
        service.bind(os.fspath(place))
        service.listen()
        service.settimeout(60)
        shell = f'exec "$0" {" ".join(f"{number}>&-" for number in closed)}'
        argv = ["sh", "-c", shell, os.fspath(folder / "launcher")]
        called = subprocess.Popen(argv, env=environment, stdin=subprocess.DEVNULL, stdout=out)
        connection, _ = service.accept()
        with connection:
            connection.settimeout(60)
            connection.recv(1 << 16)
            connection.sendall(b"A" + struct.pack("IiII", 0x324B534D, 0, len(answer), 3) + answer + b"log")
            assert called.wait(60) == (1 in closed)
            assert connection.recv(1 << 16) == b""
    assert (tmp_path / "out").read_bytes() == (b"" if 1 in closed else answer)


@pytest.mark.parametrize(
    ("given", "told"),
    [("ns/c1", "{here}/ns/c1"), ("../c1", "{here}/../c1"), ("/run/c1", "/run/c1"), ("", "")],
)
def test_a_namespace_is_told_by_its_whole_path(folder: Path, tmp_path: Path, given: str, told: str) -> None:
    """One from the caller's directory would be looked for in others' later, and found gone."""
    place = tmp_path / "run/mesokit/node.sock"
    place.parent.mkdir(parents=True)
    environment = {
        "CNI_COMMAND": "DEL",
        "MESOKIT_ROOT": os.fspath(tmp_path),
        "ASAN_OPTIONS": "detect_leaks=0",
    }
    with socket.socket(socket.AF_UNIX) as service:
        service.bind(os.fspath(place))
        service.listen()
        service.settimeout(60)
        called = subprocess.Popen(
            [os.fspath(folder / "launcher")],
            env=environment | {"CNI_NETNS": given},
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        connection, _ = service.accept()
        with connection:
            connection.settimeout(60)
            asked = connection.recv(1 << 16)
        called.wait(60)
    assert f"\0CNI_NETNS={told.format(here=tmp_path)}\0".encode() in asked
