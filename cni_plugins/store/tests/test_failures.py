"""The ring of failed calls: bounded, whole lines, root's; and what a failure says of its call."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from cni_plugins.spec.call import Reply, Request
from cni_plugins.store import failures
from cni_plugins.store.failures import Failure, failure_of

ENV = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c1",
    "CNI_IFNAME": "eth0",
    "CNI_NETNS": "/run/netns/c1",
}
REPLY = Reply(b'{"cniVersion":"1.0.0","code":7,"msg":"no such bridge","details":"br9"}', b"", 1)


def failure(number: int = 0, stdin: bytes = b'{"name":"data-net"}', reply: Reply = REPLY) -> Failure:
    env = {**ENV, "CNI_CONTAINERID": f"c{number}"}
    return failure_of(Request("bridge", env, stdin), reply, 0.0123, "service")


def test_a_failure_says_whose_call_it_was() -> None:
    assert str(failure(1)) == (
        "ADD of bridge failed: network data-net, container c1, interface eth0: "
        "code 7: no such bridge: br9 (12 ms)"
    )


@pytest.mark.parametrize("stdin", [b"", b"{", b"[1]", b"[" * 100_000, b'{"name": 7}', b"\xff\xfe"])
@pytest.mark.parametrize("stdout", [b"", b"{}", b"no json", b"[]", b'{"code": "x", "msg": 1}', b"\xff"])
def test_nonsense_has_a_line_too(tmp_path: Path, stdin: bytes, stdout: bytes) -> None:
    found = failure_of(Request("\udcff\n" * 500, {}, stdin), Reply(stdout, b"", 1), 1.0, "one-shot")
    failures.note(tmp_path, found)
    assert failures.last(tmp_path, 5) == [found]
    assert str(found).isprintable()


def test_the_last_ones_are_there_and_the_file_is_bounded(tmp_path: Path) -> None:
    long = Reply(json.dumps({"code": 7, "msg": "\x1b" * 5000}).encode(), b"", 1)
    for number in range(600):
        failures.note(tmp_path, failure(number, reply=long))
    found = failures.last(tmp_path, 50)
    assert [each.container for each in found] == [f"c{number}" for number in range(550, 600)]
    folder = tmp_path / "failures"
    assert sorted(path.name for path in folder.iterdir()) == ["log", "log.1"]
    assert sum(path.stat().st_size for path in folder.iterdir()) < 700_000
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "log").stat().st_mode & 0o777 == 0o600


def test_many_at_once_write_whole_lines(tmp_path: Path) -> None:
    def work(first: int) -> None:
        for number in range(first, first + 100):
            failures.note(tmp_path, failure(number))

    threads = [threading.Thread(target=work, args=(start * 100,)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({each.container for each in failures.last(tmp_path, 1000)}) == 800


def test_what_cannot_be_noted_is_no_failure_of_the_call(tmp_path: Path) -> None:
    (tmp_path / "failures").write_text("a file in the way")
    failures.note(tmp_path, failure())
    (tmp_path / "failures").unlink()
    (tmp_path / "failures").mkdir()
    (tmp_path / "failures/log").symlink_to(tmp_path / "elsewhere")
    failures.note(tmp_path, failure())
    assert not (tmp_path / "elsewhere").exists()


def test_a_line_that_was_cut_is_passed_over(tmp_path: Path) -> None:
    failures.note(tmp_path, failure(1))
    with (tmp_path / "failures/log").open("ab") as file:
        file.write(b'{"time": 1\n{"time": 1}\n[]\n')
    failures.note(tmp_path, failure(2))
    assert [each.container for each in failures.last(tmp_path, 9)] == ["c1", "c2"]
    assert failures.last(tmp_path / "nothing", 9) == []
