"""Measures the operator's commands among many containers, in the node it is started in (throw it away).

python view_figures.py MESOKIT PLUGINS ROUNDS CONTAINERS > figures.json

Milliseconds of each command from the start of its process to its end, without the node service and beside it:
processor time, user and system, and the wall's clock, which on a busy machine tells of others. Half of the
containers are on a bridge with two families, masquerade and a published port each, half on ptp.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WEB: dict[str, Any] = {
    "cniVersion": "1.1.0",
    "name": "web-net",
    "type": "chain",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "web0",
            "isDefaultGateway": True,
            "ipMasq": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "10.9.0.0/22"}], [{"subnet": "fd00:9::/64"}]],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}
POINT: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "ptp-net",
    "type": "ptp",
    "ipMasq": True,
    "ipam": {"type": "host-local", "subnet": "10.8.0.0/22"},
}
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "--version": ("--version",),
    "ls": ("ls",),
    "ls --json": ("ls", "--json"),
    "inspect": ("inspect", "10.9.0.2"),
    "ip": ("ip",),
    "check": ("check",),
    "gc --dry-run": ("gc", "--dry-run"),
    "doctor": ("doctor",),
    "graph": ("graph",),
    "events": ("events",),
}


def attach(plugins: str, number: int) -> None:
    box = f"{number:08x}-box"
    subprocess.run(["ip", "netns", "add", box], check=True)
    mapping = {"hostPort": 20000 + number, "containerPort": 80, "protocol": "tcp"}
    conf = POINT if number % 2 else WEB | {"runtimeConfig": {"portMappings": [mapping]}}
    variables = {
        "PATH": os.environ["PATH"],
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": box,
        "CNI_NETNS": f"/run/netns/{box}",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": plugins,
    }
    argv = [f"{plugins}/{conf['type']}"]
    subprocess.run(
        argv, input=json.dumps(conf).encode(), env=variables, check=True, stdout=subprocess.DEVNULL
    )


def times(argv: list[str]) -> tuple[float, float]:
    """Milliseconds of one run, of processors and of the wall's clock. Whatever it found, it has to have
    answered.
    """
    began = time.monotonic()
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, used = os.wait4(process.pid, 0)
        took = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in {0, 1, 2} or said.startswith(b"Error"):
        raise SystemExit(f"view_figures: {argv}: {said.decode(errors='replace')}")
    return (used.ru_utime + used.ru_stime) * 1000, took * 1000


@contextmanager
def serving(mesokit: str) -> Iterator[None]:
    """The node service, while the block runs."""
    service = subprocess.Popen([mesokit, "node"])
    try:
        end = time.monotonic() + 60
        while not Path("/run/mesokit/node.sock").is_socket() and time.monotonic() < end:
            time.sleep(0.05)
        yield
    finally:
        service.send_signal(signal.SIGTERM)
        service.wait(60)


def measured(mesokit: str, rounds: int) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {name: {"cpu": [], "wall": []} for name in COMMANDS}
    for turn in range(rounds + 1):
        for name, words in COMMANDS.items():
            cpu, wall = times([mesokit, *words])
            if turn:  # the first one reads files that nobody has read yet
                found[name]["cpu"].append(cpu)
                found[name]["wall"].append(wall)
    return found


def main() -> int:
    mesokit, plugins, rounds, containers = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    with serving(mesokit):
        for number in range(containers):
            attach(plugins, number)
        beside = measured(mesokit, rounds)
    found = {"one-shot": measured(mesokit, rounds), "service": beside}
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
