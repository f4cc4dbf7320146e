"""A sandbox that stays root's and that tasks of several users can use; names that tasks put there first."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from executor.output.directory import Directory, file_name, unsafe_ancestor
from executor.process.identity import Identity

USER = Identity("someone", 54321, 54322, (54322,), "/")
OTHER = Identity("other", 54331, 54332, (54332,), "/")

_WORK = """
import os, sys
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[1])); os.chdir(sys.argv[3])
name = f"of-{os.getuid()}"
open(name, "w").close(); os.rename(name, name + ".new")
for act in (lambda: os.rename("ours", "theirs"), lambda: os.unlink("ours"), lambda: open("ours", "w")):
    try: act()
    except PermissionError: continue
    sys.exit("it could")
"""


def works(user: Identity, path: Path) -> None:
    """A process of the user makes and renames a file of its own there, and cannot touch ours."""
    words = [sys.executable, "-S", "-c", _WORK, str(user.uid), str(user.gid), str(path)]
    # The directory of tests is closed to others: entered by its descriptor instead.
    descriptor = os.open(path, os.O_RDONLY)
    words[-1] = f"/proc/self/fd/{descriptor}"
    subprocess.run(words, check=True, pass_fds=[descriptor])
    os.close(descriptor)


@pytest.fixture(params=[True, False], ids=["lists", "no lists"])
def lists(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """File systems that have access control lists and such that have none."""

    def refuse(*_: object) -> bytes:
        raise OSError(errno.EOPNOTSUPP, "none here")

    if not request.param:
        monkeypatch.setattr(os, "getxattr", refuse)


@pytest.mark.parametrize(
    ("owner", "group", "mode"),
    [(0, 0, 0o750), (0, 0, 0o755), (0, 0, 0o777), (0, 54322, 0o770), (0, 54322, 0o707), (54321, 0, 0o700)],
)
@pytest.mark.usefixtures("lists")
def test_a_sandbox_stays_roots_and_the_tasks_user_works_in_it(
    tmp_path: Path, owner: int, group: int, mode: int
) -> None:
    sandbox = tmp_path / "sandbox"
    sandbox.mkdir()
    (sandbox / "ours").touch(mode=0o600)
    os.chown(sandbox, owner, group)
    sandbox.chmod(mode)
    Directory.of(sandbox).share(USER)
    status = sandbox.stat()
    assert status.st_uid == 0
    assert status.st_mode & stat.S_ISVTX
    assert status.st_mode & 0o007 == mode & 0o007
    works(USER, sandbox)


def test_several_users_work_side_by_side(tmp_path: Path) -> None:
    sandbox = tmp_path / "sandbox"
    sandbox.mkdir(mode=0o750)
    (sandbox / "ours").touch(mode=0o600)
    opened = Directory.of(sandbox)
    for user in (USER, OTHER, USER):
        opened.share(user)
    works(USER, sandbox)
    works(OTHER, sandbox)
    assert {path.name for path in sandbox.iterdir()} == {"ours", "of-54321.new", "of-54331.new"}


def test_the_former_owner_keeps_access(tmp_path: Path) -> None:
    sandbox = tmp_path / "sandbox"
    sandbox.mkdir(mode=0o700)
    (sandbox / "ours").touch(mode=0o600)
    os.chown(sandbox, OTHER.uid, OTHER.gid)
    Directory.of(sandbox).share(USER)
    works(OTHER, sandbox)
    works(USER, sandbox)


def test_root_is_given_nothing(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    Directory.of(tmp_path).share(Identity("root", 0, 0, (0,), "/root"))
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_what_has_the_name_of_a_folder_is_neither_followed_nor_given_away(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    sandbox = tmp_path / "sandbox"
    sandbox.mkdir()
    (sandbox / "link").symlink_to(outside)
    (sandbox / "file").touch()
    (sandbox / "foreign").mkdir()
    os.chown(sandbox / "foreign", 54321, 54321)
    opened = Directory.of(sandbox)
    for name in ("link", "file", "foreign", "..", "a/b"):
        with pytest.raises(OSError, match=name):
            opened.enter([name], make=True)
    assert not list(outside.iterdir())
    assert (sandbox / "foreign").stat().st_uid == 54321
    opened.enter(["foreign"], owner=54321).close()


def test_only_a_file_of_our_own_is_written_to(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("precious")
    sandbox = tmp_path / "sandbox"
    sandbox.mkdir()
    (sandbox / "link").symlink_to(outside)
    (sandbox / "hard").hardlink_to(outside)
    os.mkfifo(sandbox / "fifo")
    (sandbox / "folder").mkdir()
    (sandbox / "theirs").touch()
    os.chown(sandbox / "theirs", 54321, -1)
    opened = Directory.of(sandbox)
    for name in ("link", "hard", "fifo", "folder", "theirs"):
        with pytest.raises(OSError, match=name):
            opened.open_own(name, os.O_WRONLY | os.O_TRUNC if name == "folder" else os.O_WRONLY, 0o600)
    os.close(opened.open_own("new", os.O_WRONLY, 0o600))
    assert outside.read_text() == "precious"


@pytest.mark.parametrize(
    "task_id", ["t", "t ü", "../../etc", "a/b", ".", "..", "a%2Fb", "x" * 255, "ü" * 255]
)
def test_a_task_id_is_one_name(task_id: str) -> None:
    name = file_name(task_id)
    assert "/" not in name
    assert name not in ("", ".", "..")
    assert len(name.encode()) <= 255
    if task_id in ("t", "t ü", "x" * 255):
        assert name == task_id
    others = ["a/b", "a%2Fb", ".", "%2E", "ü" * 254 + "x"]
    assert [other for other in others if file_name(other) == name] in ([], [task_id])


def test_where_others_may_rename(tmp_path: Path) -> None:
    place = tmp_path / "open" / "bundle"
    place.mkdir(parents=True)
    assert unsafe_ancestor(place) is None
    (tmp_path / "open").chmod(0o777)
    assert unsafe_ancestor(place) == tmp_path / "open"
    (tmp_path / "open").chmod(0o1777)
    assert unsafe_ancestor(place) is None
    os.chown(tmp_path / "open", 54321, -1)
    assert unsafe_ancestor(place) == tmp_path / "open"
