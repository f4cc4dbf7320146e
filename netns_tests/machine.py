"""A private machine that systemd has booted: a node (node.py) whose process 1 is Debian's systemd.

    with Machine() as machine:
        machine.run(["dpkg", "-i", package])
        machine.property("mesokit-node.service", "ActiveState")
        machine.cni("ADD", "/usr/lib/mesokit/plugins/bridge", conf, "c1", machine.netns("c1"))

Beside a node's, it has a control group, a /dev and a copy of /usr of its own, so that packages can be
installed. machine_init.py tells how it is made, and why nothing of it gets out or stays.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from netns_tests.machine_init import TARGET
from netns_tests.node import Node, NodeError, python, until


class Machine(Node):
    """See the top of this module."""

    maker = None

    def __enter__(self) -> Self:
        super().__enter__()
        self.run(["sh", "-c", f"ip link set lo up; hostname {self.hostname}"])
        try:
            until(self._booted, what="systemd has booted")
        except TimeoutError as error:
            said = self.run(["journalctl", "--no-pager", "-n", "50"], check=False).text
            self.close()
            raise NodeError(f"{error}\n{said}") from error
        return self

    def _starter(self, control: int) -> list[str]:
        return python(Path(__file__).with_name("machine_init.py"), control)

    def _booted(self) -> bool:
        return self.run(["systemctl", "is-active", TARGET], check=False).text == "active\n"

    @property
    def keeper(self) -> int:
        """The process outside that holds it."""
        assert self._process is not None
        return self._process.pid

    def systemctl(self, *arguments: str, check: bool = True) -> str:
        """What `systemctl` prints."""
        return self.run(["systemctl", "--no-pager", *arguments], check=check).text

    def property(self, unit: str, name: str) -> str:
        """One property of a unit, as `systemctl show` prints it."""
        return self.systemctl("show", "--value", "-p", name, unit).strip()

    def journal(self, unit: str) -> str:
        """What a unit and systemd about it said."""
        return self.run(["journalctl", "--no-pager", "-o", "cat", "-u", unit]).text
