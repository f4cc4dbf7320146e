"""Set-up as root, where others may write."""

from __future__ import annotations

from pathlib import Path

from netns_tests.node import Node
from netns_tests.plugins import TOP

FAKE = """#!/bin/sh
echo "$@" >>/run/apt
"""


def test_what_others_put_into_run_lock_is_not_touched(node: Node, tmp_path: Path) -> None:
    """/run/lock is for all: a link there must not make root empty the file that it names."""
    apt = tmp_path / "apt-get"
    apt.write_text(FAKE)
    apt.chmod(0o755)
    node.shell("echo precious >/etc/victim; ln -s /etc/victim /run/lock/mesokit-setup.lock")
    node.run(
        ["bash", "-ec", f". {TOP}/packaging/lib/setup.sh; need_packages mesokit-no-such-package"],
        env={"PATH": f"{tmp_path}:{node.environment['PATH']}"},
    )
    assert "mesokit-no-such-package" in node.shell("cat /run/apt")
    assert node.shell("cat /etc/victim") == "precious\n"
