"""`mesokit run TASK.json`: the one-machine agent from the command line.

The first interrupt kills the tasks by their kill policies, the second shuts the executors down, the third
destroys the containers and gives plugins five seconds more; it always ends the command. However it ends,
every container is gone and every network detached when the command returns, or it says what is not and the
next `mesokit run` goes on with that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click

from cni_plugins.cli.run_output import Shown, follow_teller
from cni_plugins.cli.run_report import json_teller, text_teller
from executor.config.units import parse_duration
from executor.local_agent.agent import Agent, AgentOptions
from executor.local_agent.cni import NetworkError, scan
from executor.local_agent.environment import Clocks
from executor.local_agent.events import (
    ContainerGone,
    ContainerStarted,
    Note,
    Observation,
    Observer,
    StatusUpdate,
)
from executor.local_agent.sandbox import STREAMS, Follower, tail
from executor.local_agent.task_file import ContainerRequest, read_description
from executor.local_agent.validation import DescriptionError

PLUGIN_DIRS = ("/opt/cni/bin", "/usr/lib/mesokit/plugins", "/usr/lib/cni", "/usr/libexec/cni")
"""Where plugins are installed: by hand or by us, by our package, by distributions."""

LAST_SECONDS = 30.0
"""From the third interrupt to the end of the process, whatever does not end."""

_FAILED = frozenset(("TASK_FAILED", "TASK_ERROR", "TASK_LOST"))

FOLLOW_INTERVAL = 0.1
"""Seconds between two looks at the sandbox files that --follow streams."""


class RefusalError(click.ClickException):
    """TASK.json or an option cannot be used; the usage line would not help."""

    exit_code = 2


class Duration(click.ParamType[int]):
    """A duration as Mesos writes it (5secs, 1500ms, 2mins); nanoseconds to the program."""

    name = "duration"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What `mesokit run` does beyond being an agent; durations are nanoseconds."""

    follow: bool
    as_json: bool
    kill_after: int | None
    kill_grace: int | None
    restart_after: int | None
    restart_for: int
    keep_sandbox: bool


@dataclass(slots=True)
class Progress:
    """What has been seen of a run: states by task; sandboxes, executors and tasks by container; the signals
    that interrupted it.
    """

    states: dict[str, str] = field(default_factory=dict)
    followers: dict[str, Follower] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    tasks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    kill_was_asked: bool = False
    interrupts: list[int] = field(default_factory=list)


@click.command("run")
@click.argument("task", type=click.Path(dir_okay=False, allow_dash=True))
@click.option(
    "--network-config-dir",
    type=click.Path(path_type=Path),
    default=Path("/etc/cni/net.d"),
    show_default=True,
    help="Directory of network configurations.",
)
@click.option(
    "--plugin-dir",
    default="",
    help="Plugin directories, a colon between two.  [default: CNI_PATH, else those of "
    + ", ".join(PLUGIN_DIRS)
    + " that are there]",
)
@click.option(
    "--plugin-timeout",
    type=Duration(),
    default="1mins",
    show_default=True,
    help="How long a plugin may take before it is killed.",
)
@click.option("--keep-sandbox", is_flag=True, help="Leave the sandboxes; they are removed at the end else.")
@click.option("--executor", metavar="COMMAND", help="Executor to run instead of this installation's.")
@click.option("--follow", is_flag=True, help="Stream the sandbox's stdout and stderr.")
@click.option("--json", "as_json", is_flag=True, help="Tell what happens as JSON lines on standard output.")
@click.option("--kill-after", type=Duration(), help="Kill the tasks once all of them have run this long.")
@click.option(
    "--kill-grace", type=Duration(), help="Grace period of that kill, instead of the kill policy's."
)
@click.option("--tcp", is_flag=True, help="Serve executors by TCP only; the default is a Unix socket.")
@click.option("--ip", default="", help="Address to serve on; containers have to reach it.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="TCP port; 0 is any free one.")
@click.option(
    "--checkpoint", is_flag=True, help="Let tasks outlive a lost connection, as checkpointing does."
)
@click.option(
    "--restart-after", type=Duration(), help="Be down for a while once all tasks have run this long."
)
@click.option(
    "--restart-for",
    type=Duration(),
    default="1secs",
    show_default=True,
    help="How long that is; then recover.",
)
@click.option("--no-killing-state", is_flag=True, help="Be a framework that knows no TASK_KILLING.")
@click.option(
    "--chunk-size",
    type=click.IntRange(1),
    help="Cut event streams into chunks of so many bytes, to try a decoder.",
)
@click.option("--no-authentication", is_flag=True, help="Give executors no token and ask for none.")
@click.option(
    "--shutdown-grace",
    type=Duration(),
    default="5secs",
    show_default=True,
    help="From SHUTDOWN to destruction.",
)
@click.option(
    "--registration-timeout",
    type=Duration(),
    default="1mins",
    show_default=True,
    help="From an executor's start to its SUBSCRIBE.",
)
@click.option(
    "--work-dir", type=click.Path(path_type=Path), help="Sandboxes; default /var/lib/mesokit/agent."
)
@click.option("--runtime-dir", type=click.Path(path_type=Path), help="State; default /run/mesokit/agent.")
def command(
    task: str,
    network_config_dir: Path,
    plugin_dir: str,
    executor: str | None,
    *,
    plugin_timeout: int,
    keep_sandbox: bool,
    follow: bool,
    as_json: bool,
    kill_after: int | None,
    kill_grace: int | None,
    tcp: bool,
    ip: str,
    port: int,
    checkpoint: bool,
    restart_after: int | None,
    restart_for: int,
    no_killing_state: bool,
    chunk_size: int | None,
    no_authentication: bool,
    shutdown_grace: int,
    registration_timeout: int,
    work_dir: Path | None,
    runtime_dir: Path | None,
) -> None:
    """Run the tasks of TASK.json (- is standard input) in containers on this machine, on their networks.

    TASK.json holds a TaskInfo, a TaskGroupInfo, or the short form {"name", "command": {"cmd"}, "container":
    {"network": [{"name"}]}, …}, or a list of these. Exit status: 0 when every task finished, or was killed by
    --kill-after; 1 when one failed; 2 when TASK.json or an option is wrong; 128 + N after signal N.

    \b
    mesokit run task.json           run it; Ctrl-C kills it
    mesokit run task.json --follow  and show what it prints
    mesokit run task.json --json    every event, a line each
    mesokit run --kill-after 5secs - < task.json
    """
    requests = _read(task)
    if os.geteuid() != 0:
        raise RefusalError("run me as root: containers and network namespaces need it")
    plugins = plugin_path(plugin_dir)
    notes = list(_check_directories(requests, network_config_dir, plugins, plugin_dir))
    prefix = os.environ.get("MESOKIT_ROOT", "")
    options = AgentOptions(
        config_dir=network_config_dir,
        plugin_path=plugins,
        plugin_timeout=plugin_timeout / 1e9,
        keep_sandboxes=keep_sandbox,
        runtime_dir=(runtime_dir or Path(f"{prefix}/run/mesokit/agent")).resolve(),
        work_dir=(work_dir or Path(f"{prefix}/var/lib/mesokit/agent")).resolve(),
        executor=executor_command(executor),
        use_tcp=tcp,
        ip=ip,
        port=port,
        authenticate=not no_authentication,
        checkpoint=checkpoint,
        killing_state=not no_killing_state,
        chunk_size=chunk_size,
        clocks=Clocks(shutdown_grace=shutdown_grace, registration_timeout=registration_timeout),
    )
    for directory, option in ((options.runtime_dir, "--runtime-dir"), (options.work_dir, "--work-dir")):
        _make(directory, option)
    wanted = RunOptions(follow, as_json, kill_after, kill_grace, restart_after, restart_for, keep_sandbox)
    sys.exit(asyncio.run(_run(requests, options, wanted, notes)))


def plugin_path(given: str) -> str:
    """The directories to look for plugins in, as CNI_PATH has them."""
    if given:
        return given
    if set_ := os.environ.get("CNI_PATH", ""):
        return set_
    beside = Path(sys.executable).resolve().parents[1]  # an archive that was unpacked anywhere
    places = [*PLUGIN_DIRS, *([str(beside)] if (beside / "mesokit-cni.d").is_dir() else [])]
    return ":".join(place for place in places if Path(place).is_dir()) or PLUGIN_DIRS[0]


def _check_directories(
    requests: tuple[ContainerRequest, ...], config_dir: Path, plugin_path: str, given: str
) -> Iterator[str]:
    """What is wrong with files of the network directory, a note each. Raises RefusalError."""
    if not any(request.networks for request in requests):
        return
    try:
        networks = scan(config_dir, plugin_path)
    except NetworkError as error:
        raise RefusalError(f"--network-config-dir: {error}") from None
    if not any(place and Path(place).is_dir() for place in plugin_path.split(":")):
        what = "--plugin-dir" if given else "plugins"
        raise RefusalError(
            f"{what}: {plugin_path!r}: no such directory; give --plugin-dir, or install the plugins into "
            + " or ".join(PLUGIN_DIRS[:2])
        )
    for reason in networks.skipped:
        yield f"not a network: {reason}"


def _make(directory: Path, option: str) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RefusalError(f"{option}: {directory}: {error.strerror}") from None


def _read(task: str) -> tuple[ContainerRequest, ...]:
    source = "standard input" if task == "-" else task
    try:
        if task == "-" and sys.stdin is None:
            raise RefusalError("standard input is closed: give a TASK.json, or pipe one in")
        text = sys.stdin.buffer.read() if task == "-" else Path(task).read_bytes()
        return read_description(text, source)
    except OSError as error:
        raise RefusalError(f"{source}: {error.strerror}") from None
    except DescriptionError as error:
        raise RefusalError(str(error)) from None


def executor_command(given: str | None) -> list[str]:
    """The executor to run: the one that is named, else the one installed with us. Raises RefusalError."""
    if given is None:
        beside = Path(sys.executable).parent / "mesokit-executor"
        found = str(beside) if beside.exists() else shutil.which("mesokit-executor")
        if found is None:
            raise RefusalError("no mesokit-executor beside this program or in PATH: name one with --executor")
        return [found]
    try:
        program, *arguments = shlex.split(given) or [""]
    except ValueError as error:
        raise RefusalError(f"--executor: {given!r}: {error}: expected a command as in a shell") from None
    found = shutil.which(program)
    if found is None:
        raise RefusalError(f"--executor: {program!r}: expected a program that can be run")
    return [str(Path(found).absolute()), *arguments]


async def _run(
    requests: tuple[ContainerRequest, ...], options: AgentOptions, wanted: RunOptions, notes: list[str]
) -> int:
    progress = Progress()
    running = asyncio.Event()
    teller = json_teller() if wanted.as_json else text_teller()
    show = follow_teller([request.executor.executor_id.value for request in requests], as_json=wanted.as_json)

    def tell(observation: Observation) -> None:
        try:
            teller(observation)
        except OSError:
            _nobody_reads(agent, progress)

    def observe(observation: Observation) -> None:
        if isinstance(observation, StatusUpdate):
            progress.states[observation.task] = observation.state
            if all(progress.states.get(t.task_id.value) == "TASK_RUNNING" for r in requests for t in r.tasks):
                running.set()
        elif isinstance(observation, ContainerStarted):
            progress.tasks[observation.container] = observation.tasks
            if wanted.follow:
                progress.followers[observation.container] = Follower(Path(observation.sandbox))
                progress.names[observation.container] = observation.executor
        elif isinstance(observation, ContainerGone):
            _stream(agent, progress, observation.container, show, at_end=True)
            progress.followers.pop(observation.container, None)
            if not (wanted.follow or wanted.as_json or wanted.keep_sandbox):
                for note in _last_words(observation, progress):
                    tell(note)
        tell(observation)

    agent = Agent(options, observe)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, _interrupt, number, agent, progress, tell)
    background = [asyncio.create_task(_follow(agent, progress, show))]
    if wanted.kill_after is not None:
        background.append(asyncio.create_task(_kill_after(wanted, running, agent, progress)))
    if wanted.restart_after is not None:
        background.append(asyncio.create_task(_restart(wanted, running, agent, tell)))
    try:
        await agent.open()
        for note in notes:
            tell(Note(note, trouble=True))
        for request in requests if not progress.interrupts else ():
            for note in _notes(request):
                tell(Note(note))
            agent.launch(request)
        await agent.wait()
    except OSError as error:
        tell(Note(f"the agent cannot work: {error}", trouble=True))
        return 1
    finally:
        for task in background:
            task.cancel()
        await agent.close()
    for refusal in agent.api.refused:
        tell(Note(f"a call of the executor's was refused: {refusal}", trouble=True))
    if progress.interrupts:
        return 128 + progress.interrupts[0]
    good = {"TASK_FINISHED", "TASK_KILLED"} if progress.kill_was_asked else {"TASK_FINISHED"}
    succeeded = all(progress.states.get(t.task_id.value) in good for r in requests for t in r.tasks)
    return 0 if succeeded and not agent.failures else 1


def _interrupt(number: int, agent: Agent, progress: Progress, tell: Observer) -> None:
    progress.interrupts.append(number)
    times = len(progress.interrupts)
    name = signal.Signals(number).name
    if times == 1:
        tell(Note(f"{name}: killing the tasks; once more shuts the executors down"))
        agent.kill_all()
    elif times == 2:
        tell(Note(f"{name}: shutting the executors down; once more destroys the containers"))
        agent.shutdown_all()
    else:
        tell(Note(f"{name}: destroying the containers"))
        agent.destroy_all()
    if times == 3:
        last = threading.Timer(LAST_SECONDS, _leave, (128 + number,))
        last.daemon = True
        last.start()


def _leave(status: int) -> None:
    """End the process from outside its event loop, which something holds."""
    text = "mesokit run: something does not end; the next run cleans up what this one leaves\n"
    with contextlib.suppress(OSError):
        os.write(2, text.encode())
    os._exit(status)


async def _kill_after(wanted: RunOptions, running: asyncio.Event, agent: Agent, progress: Progress) -> None:
    await running.wait()
    await asyncio.sleep((wanted.kill_after or 0) / 1e9)
    progress.kill_was_asked = True
    agent.kill_all(wanted.kill_grace)


async def _restart(wanted: RunOptions, running: asyncio.Event, agent: Agent, tell: Observer) -> None:
    """Go down and come back as an agent does that is restarted: first unavailable, then recovered."""
    await running.wait()
    await asyncio.sleep((wanted.restart_after or 0) / 1e9)
    tell(Note("the agent goes down; executors that checkpoint wait for it"))
    await agent.stop_listening()
    await asyncio.sleep(wanted.restart_for / 1e9)
    agent.api.recovering = True
    await agent.listen()
    tell(Note("the agent is back, and recovering"))
    await asyncio.sleep(min(wanted.restart_for / 1e9, 1))
    agent.api.recovering = False


def _nobody_reads(agent: Agent, progress: Progress) -> None:
    """Standard output or error is closed: an interrupt like any other, so that everything is cleaned up."""
    with Path(os.devnull).open("wb") as nothing:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nothing.fileno(), stream.fileno())
    progress.interrupts.append(signal.SIGPIPE)
    asyncio.get_running_loop().call_soon(agent.kill_all)


async def _follow(agent: Agent, progress: Progress, show: Shown) -> None:
    while True:
        for container in list(progress.followers):
            _stream(agent, progress, container, show)
        await asyncio.sleep(FOLLOW_INTERVAL)


def _stream(agent: Agent, progress: Progress, container: str, show: Shown, *, at_end: bool = False) -> None:
    follower = progress.followers.get(container)
    while follower is not None and (output := follower.read()):
        try:
            for name, data in output:
                show(container, progress.names[container], name, data)
        except OSError:
            _nobody_reads(agent, progress)
    if follower is not None and at_end:
        for name in STREAMS:
            show(container, progress.names[container], name, b"")


def _last_words(gone: ContainerGone, progress: Progress) -> Iterator[Note]:
    """The end of what a failed task printed, since its sandbox goes."""
    failed = any(progress.states.get(task) in _FAILED for task in progress.tasks.get(gone.container, ()))
    if failed and (text := tail(Path(gone.sandbox) / "stderr")):
        yield Note(f"the end of its stderr (--keep-sandbox keeps all):\n{text}")


def _notes(request: ContainerRequest) -> Iterator[str]:
    if request.executor.command.value:
        yield (
            f"executor.command.value {request.executor.command.value!r} is not run here: the executor is "
            "this installation's, or that of --executor"
        )
