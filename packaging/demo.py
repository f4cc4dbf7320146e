"""The demo: a task on two networks, from its start to the proof that nothing of it is left.

Read it from `story` on: that is what happens, in order. The files it uses are those in packaging/example:
a task in the short form, and two networks. The task is run by `mesokit run`, as you would run it.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from cni_plugins.cli.colour import coloured

TOP = Path(__file__).resolve().parents[1]
EXAMPLE = TOP / "packaging" / "example"
MESOKIT = str(TOP / ".venv" / "bin" / "mesokit")
GREETING = "Framework task running!"
PATIENCE = 30.0
"""Seconds that anything may take before the demo calls it missing."""


def story(plugin_dir: Path, scratch: Path, check: Checks) -> None:
    """What happens. Every `check` is a line of the summary; the demo succeeds if all of them held."""
    networks = write_networks(scratch / "net.d", plugin_dir)
    bridges = [bridge_of(document)["bridge"] for document in networks.values()]
    before = traces(scratch)

    title("A task starts on two networks")
    command = [MESOKIT, "run", str(EXAMPLE / "task.json"), *agent_options(scratch, plugin_dir), "--json"]
    with running(command) as task:
        check("the task is starting", task.wait_for("StatusUpdate", state="TASK_STARTING"))
        update = task.wait_for("StatusUpdate", state="TASK_RUNNING")
        check("the task is running", update)
        addresses = [address.partition("/")[0] for address in (update or {}).get("addresses", [])]
        check("it has an address on each network", len(addresses) == len(networks))
        if not check.all_held:
            return

        title("What the plugins made on this node")
        show("ip", "-brief", "addr")
        for line in sorted(traces(scratch) - before):
            say(f"  {line}")

        title("It answers, to this node on each network and to a second container on one")
        for name, address in zip(networks, addresses, strict=False):
            check(f"HTTP over {name}", fetch(f"http://{address}:2000/") == GREETING)
        visitor = write_visitor(scratch / "visitor.json", next(iter(networks)), addresses[0])
        with running(
            [MESOKIT, "run", str(visitor), *agent_options(scratch, plugin_dir), "--json", "--follow"]
        ) as v:
            check("a second container got the answer too", v.wait_for("Output", data=f"{GREETING}\n"))
            check("the second container is gone", v.wait_for("ContainerGone"))

        title("What the task sees of the network")
        started = task.wait_for("ContainerStarted") or {"nsenter": ["false"]}
        inside = show(*started["nsenter"], "ip", "addr")
        check(
            "eth0 and eth1 are inside",
            all(f"eth{n}@" in inside and a in inside for n, a in enumerate(addresses)),
        )
        routes = show(*started["nsenter"], "ip", "route")
        check("the default route is dev-net's", "default via 11.50.11.1 dev eth1" in routes)
        if is_ours(plugin_dir):
            sysctls = ("net.core.somaxconn", "net.ipv4.conf.eth1.accept_redirects")
            files = [f"/proc/sys/{name.replace('.', '/')}" for name in sysctls]
            tuned = show(*started["nsenter"], "cat", *files)
            check("tuning has set a sysctl for each network", tuned.split() == ["512", "0"])

        title("The kill")
        task.interrupt()
        check("the task is being killed", task.wait_for("StatusUpdate", state="TASK_KILLING"))
        check("the task is killed", task.wait_for("StatusUpdate", state="TASK_KILLED"))
        check("its networks are detached", task.wait_for("ContainerGone"))

    title("What is left")
    remove_bridges_of_others(bridges, plugin_dir)
    left = until_empty(lambda: traces(scratch) - before)
    for line in sorted(left):
        say(f"  left: {line}")
    check("no interface, address, rule, mount, namespace or process is left", not left)


def traces(scratch: Path) -> set[str]:
    """All that tasks and plugins could leave on a node, a line each."""
    found = {f"interface {line.split()[1]}" for line in lines("ip", "-oneline", "link")}
    found |= {f"firewall {line.strip()}" for line in lines("nft", "list", "ruleset") if names_us(line)}
    for state in (Path("/run/mesokit/attachments"), Path("/run/cni"), Path("/var/lib/cni")):
        found |= {f"file {path}" for path in state.rglob("*") if path.is_file() and path.name != "lock"}
    found = {line for line in found if "last_reserved_ip" not in line}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        found.add(f"mount {line.split()[4]}")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found.add(f"namespace {(process / 'ns/net').readlink()}")
            if os.fsencode(scratch) in (process / "environ").read_bytes():
                words = (process / "cmdline").read_bytes().split(b"\0")
                found.add(f"process {process.name} {b' '.join(words).decode(errors='replace')[:80].strip()}")
        except OSError:
            continue  # it ended while we looked
    return found


def names_us(line: str) -> bool:
    """Whether a line of `nft list ruleset` is about the demo's networks.

    What is not is the frame of our table: empty maps, and the rules that look into them, the same for any
    number of containers. It stays, as an empty table of anybody's would.
    """
    return any(name in line for name in ("10.50.11.", "11.50.11.", "data-net", "dev-net"))


def write_networks(directory: Path, plugin_dir: Path) -> dict[str, Any]:
    """The example's networks by name, written where the agent will read them.

    Other people's `tuning` refuses to run alone, as Mesos would have to run it; there the bridge goes bare.
    """
    directory.mkdir()
    networks = {}
    for path in sorted((EXAMPLE / "net.d").iterdir()):
        document = json.loads(path.read_text())
        if not is_ours(plugin_dir):
            document = {"name": document["name"], **document["delegate"]}
        (directory / path.name).write_text(json.dumps(document, indent=2))
        networks[document["name"]] = document
    if not is_ours(plugin_dir):
        say(f"The plugins of {plugin_dir} are not ours: without tuning, which is nothing there by itself.")
    return networks


def write_visitor(path: Path, network: str, address: str) -> Path:
    """A second task, which asks the first one and finishes."""
    program = (
        f"import urllib.request as u; print(u.urlopen('http://{address}:2000/').read().decode().strip())"
    )
    path.write_text(
        json.dumps(
            {
                "name": "visitor",
                "command": {"cmd": f"exec python3 -c {shlex.quote(program)}"},
                "container": {"network": [{"name": network}]},
            }
        )
    )
    return path


def remove_bridges_of_others(bridges: list[str], plugin_dir: Path) -> None:
    """Our bridge plugin takes a bridge away with its last port; the reference's leaves it for ever."""
    if is_ours(plugin_dir):
        return
    for bridge in bridges:
        if Path("/sys/class/net", bridge).exists():
            say(f"  {bridge}: left behind by {plugin_dir}/bridge, which never removes one; removed here")
            subprocess.run(["ip", "link", "delete", bridge], check=True)


def bridge_of(network: dict[str, Any]) -> dict[str, Any]:
    """The bridge's own configuration in that of a network."""
    inner: dict[str, Any] = network.get("delegate", network)
    return inner


def is_ours(plugin_dir: Path) -> bool:
    """Whether these are our plugins: nobody else has a `chain`."""
    return (plugin_dir / "chain").exists()


def agent_options(scratch: Path, plugin_dir: Path) -> list[str]:
    """Where the agent finds networks and plugins, and keeps its things."""
    return [
        *("--network-config-dir", str(scratch / "net.d"), "--plugin-dir", str(plugin_dir)),
        *("--work-dir", str(scratch / "work"), "--runtime-dir", str(scratch / "agent")),
    ]


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


def here(plugin_dir: Path | None, *, framework: bool = False) -> int:
    """Tell the story on the network that we are on."""
    check = Checks()
    with tempfile.TemporaryDirectory(prefix="mesokit-demo-", dir="/run") as directory:
        scratch = Path(directory)
        plugins = plugin_dir or our_plugins(scratch / "plugins")
        with node_service(plugins):
            (framework_story if framework else story)(plugins, scratch, check)
    failed = [what for what, seen in check.results.items() if not seen]
    for what in failed:
        say(f"not seen: {what}", "31")
    if check.all_held:
        say(f"\nAll {len(check.results)} things were seen. Now try it yourself; README.md has the tour.", "1")
    return 0 if check.all_held else 1


def framework_story(plugins: Path, scratch: Path, check: Checks) -> None:
    """The other story: demo_framework.py's."""
    import demo_framework  # noqa: PLC0415  (beside this file; the ordinary demo does without)

    write_networks(scratch / "net.d", plugins)
    executor = str(TOP / ".venv" / "bin" / "mesokit-executor")
    tools = demo_framework.Tools(check, title, say, MESOKIT, lambda: traces(scratch))
    demo_framework.story(tools, scratch / "net.d", plugins, executor, scratch)


def our_plugins(directory: Path) -> Path:
    """A plugin directory of this checkout."""
    subprocess.run(
        [sys.executable, str(TOP / "packaging/bundle/launchers.py"), str(directory)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return directory


@contextmanager
def node_service(plugin_dir: Path) -> Iterator[None]:
    """The process behind our plugins, unless this node has one. They work without it; it is faster."""
    socket = Path("/run/mesokit/node.sock")
    if socket.exists() or not is_ours(plugin_dir):
        yield
        return
    say(f"$ {MESOKIT} node &", "36")
    service = subprocess.Popen([MESOKIT, "node"], start_new_session=True)
    try:
        deadline = time.monotonic() + PATIENCE
        while not socket.exists() and service.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        yield
    finally:
        service.terminate()
        service.wait()


def in_a_node(arguments: list[str]) -> int:
    """The same in a private node: namespaces of its own, that end with us, whatever happens."""
    from netns_tests.node import Node, NodeError  # noqa: PLC0415  (on the host there is no need of it)

    try:
        with Node() as node:
            say("In a private network and mount namespace that stands for the node.")
            command = [sys.executable, __file__, "--on-host", *arguments]
            kept = {name: os.environ[name] for name in ("NO_COLOR", "TERM", "COLUMNS") if name in os.environ}
            return node.popen(command, stdout=1, stderr=2, env=kept).wait(10 * 60).status
    except NodeError as error:
        sys.stderr.write(f"demo: {error}\n")
        return 1


def output_is_lost(number: int, _frame: FrameType | None) -> None:
    sys.exit(141 if number == signal.SIGPIPE else 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--on-host", action="store_true", help="use this host's own network")
    parser.add_argument(
        "--framework", action="store_true", help="the framework's story: deploy, update, scale"
    )
    parser.add_argument("--plugin-dir", type=Path, help="CNI plugins to use instead of ours")
    options = parser.parse_args()
    # However somebody asks us to end, the blocks above are left in order; a shell that starts us in the
    # background has SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, output_is_lost)
    signal.signal(signal.SIGUSR1, output_is_lost)
    if os.geteuid() != 0:
        sys.stderr.write("demo: run me as root: containers and network namespaces need it\n")
        return 2
    try:
        if options.on_host:
            return here(options.plugin_dir, framework=options.framework)
        return in_a_node(sys.argv[1:])
    except KeyboardInterrupt:
        say("\ninterrupted; everything was cleaned up")
        return 130
    except (OSError, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"demo: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
