"""The demo: a task on two networks, from its start to the proof that nothing of it is left.

Read it from `story` on: that is what happens, in order. The files it uses are those in packaging/example
(in packaging/example/ipv6 with --ipv6-only): a task in the short form, and two networks. The task is run by
`mesokit run`, as you would run it.
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
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import demo_ipv6
from demo_run import PATIENCE, Checks, fetch, lines, running, say, show, title, until_empty

TOP = Path(__file__).resolve().parents[1]
EXAMPLE = TOP / "packaging" / "example"
MESOKIT = str(TOP / ".venv" / "bin" / "mesokit")
GREETING = "Framework task running!"


@dataclass(frozen=True, slots=True)
class Family:
    """An address family and its example."""

    files: Path
    default_route: str
    redirects: str
    """The sysctl that dev-net sets."""


IPV4 = Family(EXAMPLE, "default via 11.50.11.1 dev eth1", "net.ipv4.conf.eth1.accept_redirects")
IPV6 = Family(
    EXAMPLE / "ipv6", "default via fd00:11:50:11::1 dev eth1", "net.ipv6.conf.eth1.accept_redirects"
)


def story(plugin_dir: Path, scratch: Path, check: Checks, family: Family = IPV4) -> None:
    """What happens. Every `check` is a line of the summary; the demo succeeds if all of them held."""
    networks = write_networks(scratch / "net.d", plugin_dir, family)
    ipv4_before = demo_ipv6.ipv4_addresses()
    bridges = [bridge_of(document)["bridge"] for document in networks.values()]
    before = traces(scratch)

    title("A task starts on two networks")
    command = [
        MESOKIT,
        "run",
        str(task_file(scratch, plugin_dir, family)),
        *agent_options(scratch, plugin_dir),
        "--json",
    ]
    with running(command) as task:
        check("the task is starting", task.wait_for("StatusUpdate", state="TASK_STARTING"))
        update = task.wait_for("StatusUpdate", state="TASK_RUNNING")
        check("the task is running", update)
        addresses = [address.partition("/")[0] for address in (update or {}).get("addresses", [])]
        check("it has an address on each network", len(addresses) == len(networks))
        if not check.all_held:
            return
        if family is IPV6:
            demo_ipv6.health(task, check)

        title("What the plugins made on this node")
        show("ip", "-brief", "addr")
        for line in sorted(traces(scratch) - before):
            say(f"  {line}")

        title("It answers, to this node on each network and to a second container on one")
        for name, address in zip(networks, addresses, strict=False):
            check(f"HTTP over {name}", fetch(url(address)) == GREETING)
        visitor = [MESOKIT, "run", str(scratch / "visitor.json"), *agent_options(scratch, plugin_dir)]
        write_visitor(scratch / "visitor.json", next(iter(networks)), url(addresses[0]))
        with running([*visitor, "--json", "--follow"]) as v:
            check("a second container got the answer too", v.wait_for("Output", data=f"{GREETING}\n"))
            check("the second container is gone", v.wait_for("ContainerGone"))

        started = task.wait_for("ContainerStarted") or {"nsenter": ["false"]}
        look_inside(started["nsenter"], addresses, plugin_dir, check, family)
        if family is IPV6:
            demo_ipv6.no_ipv4(started["nsenter"], ipv4_before, check)
            if is_ours(plugin_dir):
                demo_ipv6.published(GREETING, check)
                port = url(demo_ipv6.GATEWAY, demo_ipv6.PORT)
                write_visitor(scratch / "visitor.json", next(iter(networks)), port)
                demo_ipv6.agent_by_tcp(visitor, GREETING, check)

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


def look_inside(
    nsenter: list[str], addresses: list[str], plugin_dir: Path, check: Checks, family: Family
) -> None:
    """Interfaces, routes and sysctls as the task has them."""
    title("What the task sees of the network")
    inside = show(*nsenter, "ip", "addr")
    check(
        "eth0 and eth1 are inside",
        all(f"eth{n}@" in inside and a in inside for n, a in enumerate(addresses)),
    )
    routes = show(*nsenter, "ip", *(["-6"] if family is IPV6 else []), "route")
    check("the default route is dev-net's", family.default_route in routes)
    if is_ours(plugin_dir):
        sysctls = ("net.core.somaxconn", family.redirects)
        files = [f"/proc/sys/{name.replace('.', '/')}" for name in sysctls]
        tuned = show(*nsenter, "cat", *files)
        check("tuning has set a sysctl for each network", tuned.split() == ["512", "0"])


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
    return any(
        name in line
        for name in ("10.50.11.", "11.50.11.", "fd00:10:50:11:", "fd00:11:50:11:", "data-net", "dev-net")
    )


def url(address: str, port: int = 2000) -> str:
    """Where a web server is."""
    return f"http://[{address}]:{port}/" if ":" in address else f"http://{address}:{port}/"


def task_file(scratch: Path, plugin_dir: Path, family: Family) -> Path:
    """The example's task; where no plugin of its networks can publish a port, it wants none."""
    path = family.files / "task.json"
    if not is_ours(plugin_dir):
        task = json.loads(path.read_text())
        for network in task["container"]["network"]:
            network.pop("port_mapping", None)
        path = scratch / "task.json"
        path.write_text(json.dumps(task, indent=2))
    return path


def write_networks(directory: Path, plugin_dir: Path, family: Family = IPV4) -> dict[str, Any]:
    """The example's networks by name, written where the agent will read them.

    Other people's `tuning` and `portmap` refuse to run alone, as Mesos would have to run them; there the
    bridge goes bare.
    """
    directory.mkdir()
    networks = {}
    for path in sorted((family.files / "net.d").iterdir()):
        document = json.loads(path.read_text())
        if not is_ours(plugin_dir):
            document = {"name": document["name"], **bridge_of(document)}
        (directory / path.name).write_text(json.dumps(document, indent=2))
        networks[document["name"]] = document
    if not is_ours(plugin_dir):
        others = "tuning and portmap, which are" if family is IPV6 else "tuning, which is"
        say(f"The plugins of {plugin_dir} are not ours: without {others} nothing there without a list.")
    return networks


def write_visitor(path: Path, network: str, where: str) -> None:
    """A second task, which asks the first one and finishes."""
    program = f"import urllib.request as u; print(u.urlopen('{where}').read().decode().strip())"
    path.write_text(
        json.dumps(
            {
                "name": "visitor",
                "command": {"cmd": f"exec python3 -c {shlex.quote(program)}"},
                "container": {"network": [{"name": network}]},
            }
        )
    )


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
    inner = network
    while "delegate" in inner:
        inner = inner["delegate"]
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


def here(plugin_dir: Path | None, *, framework: bool = False, family: Family = IPV4) -> int:
    """Tell the story on the network that we are on."""
    check = Checks()
    with tempfile.TemporaryDirectory(prefix="mesokit-demo-", dir="/run") as directory:
        scratch = Path(directory)
        plugins = plugin_dir or our_plugins(scratch / "plugins")
        with node_service(plugins):
            if framework:
                framework_story(plugins, scratch, check)
            else:
                story(plugins, scratch, check, family)
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
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--framework", action="store_true", help="the framework's story: deploy, update, scale"
    )
    which.add_argument("--ipv6-only", action="store_true", help="the same story without IPv4")
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
        if options.ipv6_only and demo_ipv6.is_off():
            sys.stderr.write(
                "demo: --ipv6-only: this kernel has no IPv6, or net.ipv6.conf.all.disable_ipv6\n"
            )
            return 2
        if options.on_host:
            family = IPV6 if options.ipv6_only else IPV4
            return here(options.plugin_dir, framework=options.framework, family=family)
        return in_a_node(sys.argv[1:])
    except KeyboardInterrupt:
        say("\ninterrupted; everything was cleaned up")
        return 130
    except (OSError, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"demo: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
