"""What the demo shows besides on a node without IPv4: published ports, the agent by TCP, and no IPv4 address.

`packaging/demo --ipv6-only` tells the story of demo.py with the files of packaging/example/ipv6, and these.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from pathlib import Path

from demo_run import Checks, Run, fetch, lines, running, say, show, title

PORT = 8080
GATEWAY = "fd00:10:50:11::1"
"""The node's address on data-net, by which containers and the rest of the node reach it."""


def ipv4_addresses(nsenter: Sequence[str] = ()) -> set[str]:
    """The IPv4 addresses of this node, or of a container, but loopback's: "eth0 192.0.2.1/24"."""
    told = [line.split() for line in lines(*nsenter, "ip", "-oneline", "-4", "addr")]
    return {f"{words[1]} {words[3]}" for words in told if not words[3].startswith("127.")}


def is_off() -> bool:
    """Whether this kernel has no IPv6, or has it switched off."""
    switch = Path("/proc/sys/net/ipv6/conf/all/disable_ipv6")
    return not switch.exists() or switch.read_text().strip() == "1"


def health(task: Run, check: Checks) -> None:
    """The executor's own check, from within the container."""
    update = task.wait_for("StatusUpdate", healthy=True)
    check("the executor's health check has asked over IPv6", "[::1]" in (update or {}).get("message", ""))


def no_ipv4(nsenter: Sequence[str], before: set[str], check: Checks) -> None:
    """That neither the node nor the container has an IPv4 address. A host that had some keeps them."""
    title("No IPv4 address but loopback's")
    show("ip", "-4", "-brief", "addr")
    here = ipv4_addresses()
    if before:
        say(f"  this host had some before: {', '.join(sorted(before))}")
    check("this node was given no IPv4 address", here <= before)
    show(*nsenter, "ip", "-4", "-brief", "addr")
    check("the container has none", not ipv4_addresses(nsenter))


def published(greeting: str, check: Checks) -> None:
    """The published port, where it can be reached and where not."""
    title("A port that data-net publishes on this node")
    check("the published port answers", fetch(f"http://[{GATEWAY}]:{PORT}/") == greeting)
    for host, why in (
        ("::1", "IPv6 has no route_localnet: what is sent to ::1 cannot be translated to leave the loopback"),
        ("127.0.0.1", "the container has no IPv4 address to which it could be translated"),
    ):
        at = f"[{host}]:{PORT}" if ":" in host else f"{host}:{PORT}"
        answer, seconds = connect(host)
        say(f"  {at} -> {answer} after {seconds * 1000:.0f} ms: {why}")
        check(f"{at} is refused at once, which is all it can be", answer == "refused" and seconds < 1)


def connect(host: str) -> tuple[str, float]:
    """What becomes of a connection to the published port, and after how many seconds."""
    start = time.monotonic()
    try:
        socket.create_connection((host, PORT), timeout=5).close()
        answer = "connected"
    except ConnectionRefusedError:
        answer = "refused"
    except OSError as error:
        answer = str(error)
    return answer, time.monotonic() - start


def agent_by_tcp(command: Sequence[str], greeting: str, check: Checks) -> None:
    """A container whose executor subscribes with its agent by TCP; the task asks for the published port."""
    title("An agent on TCP, not on its Unix socket")
    with running([*command, "--json", "--follow", "--tcp", "--ip", GATEWAY]) as run:
        told = run.wait_for("ExecutorSubscribed", transport="tcp")
        check("an executor has subscribed by TCP and IPv6", told)
        check("its task got the answer of the published port", run.wait_for("Output", data=f"{greeting}\n"))
        check("its container is gone", run.wait_for("ContainerGone"))
