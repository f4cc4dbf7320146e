"""What the demos are told with: a `mesokit run` and what it tells, checks that were seen, and a voice."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cni_plugins.cli.colour import coloured

PATIENCE = 30.0
"""Seconds that anything may take before the demo calls it missing."""


class Run:
    """A `mesokit run --json` and what it has told so far; each thing is shown as it is told."""

    def __init__(self, command: list[str]) -> None:
        say(f"$ {shlex.join(command)}", "36")
        # A session of its own: Ctrl-C is the demo's, which then ends this one in order.
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        self.told: list[dict[str, Any]] = []
        self.over = False
        self.news = threading.Condition()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = json.loads(line)
            if text := in_words(event):
                say(f"  {text}")
            with self.news:
                self.told.append(event)
                self.news.notify_all()
        with self.news:
            self.over = True
            self.news.notify_all()

    def wait_for(self, event: str, **values: object) -> dict[str, Any] | None:
        """The first event of this name with these values; None if it does not come."""

        def found() -> dict[str, Any] | None:
            wanted = {"event": event, **values}
            return next((told for told in self.told if wanted.items() <= told.items()), None)

        with self.news:
            self.news.wait_for(lambda: found() or self.over, PATIENCE)
            return found()

    def interrupt(self) -> None:
        """What Ctrl-C does: the agent kills its tasks, detaches their networks and exits."""
        self.process.send_signal(signal.SIGINT)

    def end(self) -> None:
        """Wait until it has ended, by itself if it is about to."""
        gone = any(told["event"] == "ContainerGone" for told in self.told)
        try:
            self.process.wait(PATIENCE if gone else 0)
        except subprocess.TimeoutExpired:
            self.process.terminate()
            self.process.wait()


@contextmanager
def running(command: list[str]) -> Iterator[Run]:
    """A `mesokit run` that has ended when the block is left, one way or the other."""
    run = Run(command)
    try:
        yield run
    finally:
        run.end()


def in_words(event: dict[str, Any]) -> str:
    """An event of `mesokit run --json` for a person; "" for those that say nothing new here."""
    text = ""
    match event["event"]:
        case "PluginCalled":
            made = f": {', '.join(event['addresses'])}" if event["addresses"] else ""
            made += f", FAILED: {event['error']}" if event["error"] else ""
            took = f"{event['seconds'] * 1000:.0f} ms"
            text = (
                f"CNI {event['verb']} {event['network']}: {event['plugin']} {event['ifname']}{made} ({took})"
            )
        case "ContainerStarted":
            text = f"executor {event['pid']} started; enter with: {shlex.join(event['nsenter'])}"
        case "StatusUpdate":
            message = f": {event['message']}" if event["message"] else ""
            text = f"status update: {event['task']} {event['state']}{message}"
        case "Output":
            text = f"output: {event['data'].strip()}"
        case "ExecutorExited":
            text = f"executor {event['exit']}"
        case "Note":
            text = str(event["text"])
    return text


class Checks:
    """What was seen, in the words of the summary."""

    def __init__(self) -> None:
        self.results: dict[str, bool] = {}

    def __call__(self, what: str, seen: object) -> None:
        self.results[what] = bool(seen)
        say(f"  {'✔' if seen else '✘'} {what}", "32" if seen else "31")

    @property
    def all_held(self) -> bool:
        """Whether there was at least one check, and none failed."""
        return bool(self.results) and all(self.results.values())


def fetch(url: str) -> str:
    """The body of an HTTP answer, once there is one: a server needs a moment to listen."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                body = answer.read().decode().strip()
                say(f"  GET {url} -> {body}")
                return str(body)
        except OSError as error:
            if time.monotonic() > deadline:
                return f"no answer from {url}: {error}"
            time.sleep(0.05)


def until_empty(look: Callable[[], set[str]]) -> set[str]:
    """What is still there after a while: the kernel frees a namespace a little after its last process."""
    deadline = time.monotonic() + 5
    while (found := look()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def lines(*command: str) -> list[str]:
    """The lines a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def show(*command: str) -> str:
    """Run a command before the reader's eyes; what it printed."""
    say(f"$ {shlex.join(command)}", "36")
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    for line in (done.stdout + done.stderr).splitlines():
        say(f"  {line}")
    return done.stdout


def title(text: str) -> None:
    """The heading of a part."""
    say(f"\n{text}", "1")


def say(text: str, colour: str = "") -> None:
    """Print a line, in colour where somebody looks who can see it. Output that cannot be written interrupts
    the story, once, in whatever thread it is noticed.
    """
    try:
        sys.stdout.write(f"{coloured(text, colour, sys.stdout) if colour else text}\n")
        sys.stdout.flush()
    except OSError as error:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        if isinstance(error, BrokenPipeError):
            os.kill(os.getpid(), signal.SIGPIPE)
        else:
            sys.stderr.write(f"demo: standard output: {error.strerror}\n")
            os.kill(os.getpid(), signal.SIGUSR1)
