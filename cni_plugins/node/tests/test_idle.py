"""Work that is put off: once for each key, after a while or at the end."""

import threading
import time

from cni_plugins.node.idle import Idle


class Work:
    def __init__(self, key: str, done: list[str], fails: bool = False) -> None:
        self.key, self._done, self._fails = key, done, fails

    def __call__(self) -> None:
        if self._fails:
            raise OSError("no")
        self._done.append(self.key)


def test_one_of_each_key_is_done_when_it_is_time() -> None:
    done: list[str] = []
    idle = Idle(seconds=0.05)
    for _ in range(3):
        idle.put_off([Work("a", done), Work("b", done)])
    assert not done
    end = time.monotonic() + 30
    while len(done) < 2:
        assert time.monotonic() < end
        time.sleep(0.01)
    idle.put_off([Work("a", done, fails=True)])
    idle.put_off([Work("b", done)])
    idle.finish()
    assert sorted(done) == ["a", "b", "b"]
    idle.finish()
    assert len(done) == 3


def test_what_is_left_is_done_at_the_end() -> None:
    done: list[str] = []
    before = threading.active_count()
    idle = Idle(seconds=3600)
    idle.put_off([Work("a", done)])
    idle.finish()
    assert done == ["a"]
    end = time.monotonic() + 30
    while threading.active_count() > before:
        assert time.monotonic() < end
        time.sleep(0.01)
