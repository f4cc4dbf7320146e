"""A sandbox that the task's user may use."""

import os
from pathlib import Path

import pytest

from executor.app.equipment import admit
from executor.process.identity import Identity

USER = Identity("someone", 54321, 54322, (54322,), "/")


@pytest.mark.parametrize(
    ("owner", "group", "mode", "given"),
    [
        (0, 0, 0o750, True),
        (0, 0, 0o755, True),
        (0, 0, 0o777, False),
        (0, 54322, 0o770, False),
        (0, 54322, 0o707, True),
        (54321, 0, 0o700, False),
    ],
)
def test_a_sandbox_is_given_away_only_where_it_has_to_be(
    tmp_path: Path, owner: int, group: int, mode: int, given: bool
) -> None:
    sandbox = tmp_path / "sandbox"
    sandbox.mkdir()
    os.chown(sandbox, owner, group)
    sandbox.chmod(mode)
    admit(sandbox, USER)
    status = sandbox.stat()
    assert status.st_uid == (USER.uid if given else owner)
    assert (status.st_gid, status.st_mode & 0o777) == (group, mode)


def test_root_may_everywhere(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    os.chown(tmp_path, 54321, -1)
    admit(tmp_path, Identity("root", 0, 0, (0,), "/root"))
    assert tmp_path.stat().st_uid == 54321
