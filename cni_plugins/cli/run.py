"""`mesokit run TASK.json`: the one-machine agent from the command line.

The first interrupt kills the tasks by their kill policies, the second shuts the executors down, the third
destroys the containers and gives plugins five seconds more; it always ends the command. However it ends,
every container is gone and every network detached when the command returns, or it says what is not and the
next `mesokit run` goes on with that.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import click

from cni_plugins.cli.run_inputs import (
    PLUGIN_DIRS,
    RefusalError,
    check_directories,
    executor_command,
    make,
    plugin_path,
    read,
)
from cni_plugins.cli.run_life import RunOptions, run
from cni_plugins.store import network_files
from executor.config.units import parse_duration
from executor.local_agent.agent import AgentOptions
from executor.local_agent.environment import Clocks


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


@click.command("run")
@click.argument("task", type=click.Path(dir_okay=False, allow_dash=True))
@click.option(
    "--network-config-dir",
    type=click.Path(path_type=Path),
    default=Path(network_files.DIRECTORY),
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
@click.option("--watch", is_flag=True, help="Show the tasks as a table that changes in place.")
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
    watch: bool,
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
    mesokit run task.json --watch   a table of the tasks, as they are now
    mesokit run task.json --json    every event, a line each
    mesokit run --kill-after 5secs - < task.json
    """
    if watch and (follow or as_json):
        raise RefusalError(
            f"--watch: not with {'--follow' if follow else '--json'}: each wants the output alone"
        )
    requests = read(task)
    if os.geteuid() != 0:
        raise RefusalError("run me as root: containers and network namespaces need it")
    plugins = plugin_path(plugin_dir)
    notes = list(check_directories(requests, network_config_dir, plugins, plugin_dir))
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
        make(directory, option)
    wanted = RunOptions(
        follow=follow,
        watch=watch,
        as_json=as_json,
        kill_after=kill_after,
        kill_grace=kill_grace,
        restart_after=restart_after,
        restart_for=restart_for,
        keep_sandbox=keep_sandbox,
    )
    sys.exit(asyncio.run(run(requests, options, wanted, notes)))
