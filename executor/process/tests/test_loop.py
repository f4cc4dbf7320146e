"""The loop: descriptors, timers in order, posts from other threads."""

import os
import threading
from functools import partial

from executor.eventloop import READ
from executor.process.tests.fixtures import running_loop, turn_until


def test_timers_come_in_order_and_cancelled_ones_never() -> None:
    with running_loop() as loop:
        seen: list[str] = []
        now = loop.now()
        loop.call_at(now + 0.02, lambda: seen.append("second"))
        loop.call_at(now + 0.01, lambda: seen.append("first"))
        loop.call_at(now + 0.015, lambda: seen.append("never")).cancel()
        loop.call_at(now + 0.02, lambda: seen.append("third"))
        turn_until(loop, lambda: len(seen) == 3, "three calls")
        assert seen == ["first", "second", "third"]


def test_a_timer_may_be_centuries_away() -> None:
    with running_loop() as loop:
        seen: list[str] = []
        loop.call_at(loop.now() + 2**63 / 1e9, lambda: seen.append("in 292 years"))
        threading.Timer(0.05, lambda: loop.post(lambda: seen.append("now"))).start()
        while not seen:
            loop.run_once()
        assert seen == ["now"]


def test_a_post_from_another_thread_ends_the_wait() -> None:
    with running_loop() as loop:
        seen: list[int] = []

        def post() -> None:
            for number in range(100):
                loop.post(partial(seen.append, number))

        thread = threading.Thread(target=post)
        thread.start()
        while len(seen) < 100:
            loop.run_once()
        thread.join()
        assert seen == list(range(100))


def test_a_watch_that_is_stopped_in_the_same_turn_is_not_called() -> None:
    with running_loop() as loop:
        pipes = [os.pipe() for _ in range(2)]
        seen: list[int] = []

        def readable(number: int) -> None:
            seen.append(number)
            for read, _ in pipes:
                loop.unwatch(read)

        for number, (read, write) in enumerate(pipes):
            loop.watch(read, READ, partial(readable, number))
            os.write(write, b"x")
        loop.run_once(1)
        loop.run_once(0.01)
        assert len(seen) == 1
        for pipe in pipes:
            for descriptor in pipe:
                os.close(descriptor)


def test_a_post_within_a_post_waits_for_the_next_turn() -> None:
    with running_loop() as loop:
        seen: list[str] = []

        def outer() -> None:
            seen.append("outer")
            loop.post(partial(seen.append, "inner"))

        loop.post(outer)
        loop.run_once(1)
        assert seen == ["outer"]
        loop.run_once(1)
        assert seen == ["outer", "inner"]


def test_a_written_wakeup_ends_the_wait() -> None:
    with running_loop() as loop:
        os.write(loop.wakeup, b"\x0f")
        loop.run_once()


def test_timers_that_are_cancelled_leave_the_heap() -> None:
    with running_loop() as loop:
        kept = [loop.call_at(loop.now() + 3600, lambda: None) for _ in range(10)]
        for _ in range(10_000):
            loop.call_at(loop.now() + 3600, lambda: None).cancel()
        assert len(loop._timers) < 200
        called: list[int] = []
        loop.call_at(loop.now(), lambda: called.append(1))
        loop.run_once(1)
        assert called == [1]
        for timer in kept:
            timer.cancel()
            timer.cancel()
        loop.run_once(0)


def test_timers_cancelled_from_within_a_timer_are_not_called() -> None:
    with running_loop() as loop:
        called: list[str] = []
        later = [loop.call_at(loop.now(), lambda: called.append("late")) for _ in range(200)]

        def cancel() -> None:
            for timer in later:
                timer.cancel()

        loop.call_at(loop.now() - 1, cancel)
        loop.run_once(1)
        assert called == []
