"""The whole talk on one machine: a framework runs an app on a CNI network, without Docker, and changes it.

Read it from `story` on. `mesokit framework --local` is the scheduler, with a master of its own and this
machine as its agent; the app's instances are real: executors in containers, networks by the plugins. Run by
`packaging/demo --framework`, in the private node that demo.py makes.
"""

from __future__ import annotations

import json
import shlex
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PATIENCE = 60.0
PER_SECOND = 100
NETWORK = "data-net"

SERVER = (
    "import http.server,os,sys\n"
    "class H(http.server.BaseHTTPRequestHandler):\n"
    "  protocol_version='HTTP/1.0'\n"
    "  def do_GET(self):\n"
    "    self.send_response(200);self.end_headers();self.wfile.write(os.environ['GREETING'].encode())\n"
    "  def log_message(self,*a):pass\n"
    "class S(http.server.ThreadingHTTPServer):\n"
    "  request_queue_size=128\n"
    "S(('',2000),H).serve_forever()\n"
)


@dataclass(slots=True)
class Tools:
    """What demo.py lends: its checks and its voice."""

    check: Callable[[str, object], None]
    title: Callable[[str], None]
    say: Callable[..., None]
    mesokit: str
    traces: Callable[[], set[str]]


def app(greeting: str, instances: int) -> dict[str, Any]:
    """The app: a web server that says a greeting, checked over TCP, updated without a gap."""
    return {
        "version": 1,
        "name": "hello",
        "instances": instances,
        "command": {"cmd": f"exec python3 -c {shlex.quote(SERVER)}", "environment": {"GREETING": greeting}},
        "resources": {"cpu": 0.1, "mem": 32},
        "container": {"network": [{"name": NETWORK}]},
        "healthcheck": {
            "type": "tcp",
            "tcp": {"port": 2000},
            "interval": 0.5,
            "delay": 0.1,
            "graceperiod": 20,
        },
        "update": {"floor": 1, "ceiling": 0.5},
        "kill": {"grace": "2secs", "drain": "1secs"},
    }


def story(tools: Tools, networks: Path, plugins: Path, executor: str, scratch: Path) -> None:
    """What happens, in order."""
    before = tools.traces()
    with framework(tools, networks, plugins, executor, scratch) as api:
        tools.title("curl -d @task.json: an app of two instances on a CNI network")
        answer = api.ask("POST", "/v1/api/app", [app("first version", 2)])
        tools.check("the framework takes it", answer.get("deployment"))
        tools.check("both instances run and are healthy", api.until(lambda a: a["ready"] == 2))
        found = api.instances()
        for item in found:
            tools.say(f"  {item['id']}  {item['state']}  {' '.join(item['addresses'])}")
        addresses = [address for item in found for address in item["addresses"]]
        tools.check("each has an address of its own", len(set(addresses)) == 2)
        for address in addresses:
            tools.check(f"HTTP at {address}", fetch(address) == "first version")

        tools.title(f"An update, while a client asks {PER_SECOND} times a second")
        with client(api) as counts:
            time.sleep(1)
            api.ask("PUT", "/v1/api/app", [app("second version", 2)])
            tools.check(
                "the new version replaces the old one", api.until(lambda a: _done(a) and a["ready"] == 2)
            )
            time.sleep(1)
        tools.say(f"  {counts.right} answers, {dict(counts.said)}, {len(counts.wrong)} lost")
        for why in counts.wrong[:3]:
            tools.say(f"  lost: {why}")
        tools.check("the client saw both versions", set(counts.said) == {"first version", "second version"})
        tools.check("and lost no request", not counts.wrong)

        tools.title("mesokit app, as an operator uses it")
        show(tools, tools.mesokit, "app", "--api", api.base, "ls")
        show(tools, tools.mesokit, "app", "--api", api.base, "instances", "hello")
        show(tools, tools.mesokit, "app", "--api", api.base, "why", "hello")

        tools.title("Down to zero, and gone")
        api.ask("POST", "/v1/apps/hello/scale", {"instances": 0})
        tools.check("no instance is left", api.until(lambda a: not a["live"] and _done(a)))
        api.ask("DELETE", "/v1/apps/hello")
        tools.check("the app is gone", api.gone("hello"))
    left = _until_empty(lambda: tools.traces() - before)
    for line in sorted(left):
        tools.say(f"  left: {line}")
    tools.check("no interface, address, rule, mount, namespace or process is left", not left)


def _done(found: dict[str, Any]) -> bool:
    return bool(found["deployment"]["status"] == "done")


class Api:
    """The framework's API."""

    def __init__(self, base: str) -> None:
        self.base = base

    def ask(self, method: str, path: str, document: Any = None) -> Any:
        """A call; what it answers, also where that is a refusal."""
        body = None if document is None else json.dumps(document).encode()
        request = urllib.request.Request(self.base + path, body, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return json.loads(response.read())
        except urllib.error.HTTPError as error:
            return json.loads(error.read())

    def instances(self) -> list[dict[str, Any]]:
        """The app's instances that live."""
        found: list[dict[str, Any]] = self.ask("GET", "/v1/apps/hello").get("live", [])
        return found

    def ready(self) -> list[str]:
        """Addresses of those to which requests may be sent."""
        return [
            item["addresses"][0]
            for item in self.instances()
            if item["state"] == "running" and item["ready"] and item["addresses"]
        ]

    def until(self, condition: Callable[[dict[str, Any]], bool]) -> bool:
        """Wait until the app is as wanted."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if condition(self.ask("GET", "/v1/apps/hello")):
                return True
            time.sleep(0.1)
        return False

    def gone(self, name: str) -> bool:
        """Wait until there is no app of that name."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if name not in [item["name"] for item in self.ask("GET", "/v1/apps")]:
                return True
            time.sleep(0.1)
        return False


@contextmanager
def framework(tools: Tools, networks: Path, plugins: Path, executor: str, scratch: Path) -> Iterator[Api]:
    """`mesokit framework --local`, until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [tools.mesokit, "framework", "--local", "--listen", f"127.0.0.1:{port}"]
    command += ["--store", str(scratch / "framework.db"), "--executor-command", executor]
    command += ["--network-config-dir", str(networks), "--plugin-dir", str(plugins)]
    tools.say(f"$ {shlex.join(command)}", "36")
    process = subprocess.Popen(command, start_new_session=True)
    api = Api(f"http://127.0.0.1:{port}")
    try:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if api.ask("GET", "/v1/status").get("connected"):
                    break
            except OSError:
                time.sleep(0.1)
        yield api
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


@dataclass(slots=True)
class Counts:
    """What the client saw: answers by their text, and what went wrong."""

    said: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    @property
    def right(self) -> int:
        return sum(self.said.values())


@contextmanager
def client(api: Api) -> Iterator[Counts]:
    """A client that asks the ready instances in turn, as a load balancer that follows the API would."""
    counts, stop = Counts(), threading.Event()
    known: list[str] = api.ready()
    lock = threading.Lock()

    def follow() -> None:
        nonlocal known
        while not stop.is_set():
            found = api.ready()
            with lock:
                known = found or known
            stop.wait(0.1)

    def ask() -> None:
        number = 0
        due = time.monotonic()
        while not stop.is_set():
            number += 1
            with lock:
                address = known[number % len(known)]
            text = fetch(address)
            if text.startswith("no answer"):
                counts.wrong.append(text)
            else:
                counts.said[text] = counts.said.get(text, 0) + 1
            due += 1 / PER_SECOND
            stop.wait(max(0.0, due - time.monotonic()))

    threads = [threading.Thread(target=work, daemon=True) for work in (follow, ask)]
    for thread in threads:
        thread.start()
    try:
        yield counts
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def fetch(address: str) -> str:
    """What an instance says."""
    try:
        host = f"[{address}]" if ":" in address else address
        with urllib.request.urlopen(f"http://{host}:2000/", timeout=5) as response:
            text: str = response.read().decode()
            return text
    except OSError as error:
        return f"no answer from {address}: {error}"


def show(tools: Tools, *command: str) -> None:
    """A command before the reader's eyes."""
    tools.say(f"$ {shlex.join(command)}", "36")
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    for line in (done.stdout + done.stderr).splitlines():
        tools.say(f"  {line}")


def _until_empty(look: Callable[[], set[str]]) -> set[str]:
    deadline = time.monotonic() + 10
    while (found := look()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found
