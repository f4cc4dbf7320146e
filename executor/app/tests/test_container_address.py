"""The address of a container, seen from within a network namespace of its own."""

import subprocess
import sys

import pytest

SCRIPT = "from executor.app.container_address import own_address; print(own_address())"


def own_address(*commands: str) -> str:
    """What is found in a fresh namespace after these commands of ip(8)."""
    script = "; ".join(f"ip {command}" for command in commands)
    wrapped = ["unshare", "-n", "sh", "-ec", f'{script}; exec "$0" -c "$1"', sys.executable, SCRIPT]
    return subprocess.run(wrapped, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


UP = (
    "link set lo up",
    "link add eth0 type veth peer name other0",
    "link add eth1 type veth peer name other1",
    "link set eth0 up",
    "link set eth1 up",
)


@pytest.mark.parametrize(
    ("commands", "address"),
    [
        ((), "None"),
        (("addr add 10.1.2.3/24 dev eth0", "addr add 10.1.2.4/24 dev eth0"), "10.1.2.3"),
        (("addr add 10.1.2.3/24 dev eth1", "addr add fd00::3/64 dev eth0 nodad"), "10.1.2.3"),
        (("addr add fd00::7/64 dev eth1 nodad", "addr add fe80::7/64 dev eth0 nodad"), "fd00::7"),
    ],
)
def test_the_first_address_of_the_first_interface(commands: tuple[str, ...], address: str) -> None:
    assert own_address(*UP, *commands) == address
