"""`mesokit`: the command group. A subcommand's module is imported only when that subcommand is called.

To add one: write `cni_plugins/cli/NAME.py` with a click command called `command`, and a line in COMMANDS.
"""

from __future__ import annotations

import gc
import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click
from click.shell_completion import CompletionItem, get_completion_class

from cni_plugins.cli.near import nearest
from cni_plugins.cli.root import told
from cni_plugins.cli.version import version
from cni_plugins.spec.errors import CniError


@dataclass(frozen=True, slots=True)
class Subcommand:
    """`module` holds a click command named `command`; `about` is its line in `mesokit --help`."""

    module: str
    about: str


COMMANDS: Mapping[str, Subcommand] = {
    "app": Subcommand("cni_plugins.cli.app", "Deploy apps on a mesokit framework, and look after them."),
    "cni": Subcommand(
        "cni_plugins.cli.cni", "Plugins and networks: their keys, checks of files, calls by hand."
    ),
    "completion": Subcommand("cni_plugins.cli.main", "Print the completion script of a shell."),
    "check": Subcommand("cni_plugins.cli.check", "Say whether attachments are as they were made."),
    "doctor": Subcommand("cni_plugins.cli.doctor", "Look for what is wrong with this node."),
    "events": Subcommand("cni_plugins.cli.events", "Show what happened here, and what happens."),
    "exec": Subcommand("cni_plugins.cli.exec", "Run a program in a container's network."),
    "dhcp": Subcommand(
        "cni_plugins.cli.dhcp", "Renew leases of addresses and prefixes, without the service."
    ),
    "framework": Subcommand(
        "cni_plugins.cli.framework", "Run apps on Mesos: the scheduler behind `mesokit app`."
    ),
    "graph": Subcommand("cni_plugins.cli.graph", "Draw this node: a tree, or an SVG."),
    "gc": Subcommand("cni_plugins.cli.gc", "Remove what containers that are no more left behind."),
    "inspect": Subcommand("cni_plugins.cli.inspect", "Show all about one container, by any of its names."),
    "ip": Subcommand("cni_plugins.cli.ip", "Show address pools: used, free, who, since when."),
    "ls": Subcommand("cni_plugins.cli.ls", "List what is attached: containers, tasks, addresses, ports."),
    "node": Subcommand("cni_plugins.cli.node", "Answer plugin calls from a resident process."),
    "policy": Subcommand("cni_plugins.cli.policy", "Say what containers may send to whom."),
    "ping": Subcommand("cni_plugins.cli.ping", "Send packets from inside a container; say where they end."),
    "ps": Subcommand("cni_plugins.cli.ps", "Show the tasks of the executors on this machine."),
    "reload": Subcommand("cni_plugins.cli.reload", "Make again the rules that somebody flushed."),
    "run": Subcommand("cni_plugins.cli.run", "Run the task of a TASK.json here, on its networks."),
    "trace": Subcommand("cni_plugins.cli.trace", "Follow a container's packets, rule by rule."),
    "update": Subcommand("cni_plugins.cli.update", "Change networks under running containers."),
    "web": Subcommand("cni_plugins.cli.web", "Show this node in a browser, as it changes."),
}


def refusal(error: Exception) -> str | None:
    """The sentence for what the kernel or the state refuses, None for any other error."""
    return told(error) if isinstance(error, CniError) else None


#: What people try first, and what it is called here.
_ASKED: Mapping[str, str] = {
    "help": "mesokit --help, mesokit COMMAND --help",
    "version": "mesokit --version",
    "list": "mesokit ls",
    "status": "mesokit ls, mesokit doctor, mesokit node status",
    "show": "mesokit inspect NAME",
    "logs": "mesokit events",
}


class NobodyReadsError(Exception):
    """Standard output is a pipe that nobody reads any more."""


@contextmanager
def _told_apart() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise NobodyReadsError from error


class LazyGroup(click.Group):
    """A group that knows its subcommands' names and one-line help without importing them.

    An output that nobody reads passes click, which would make it an ordinary failure, as NobodyReadsError.
    """

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        with _told_apart():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _told_apart():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        loaded: object = importlib.import_module(COMMANDS[cmd_name].module).command
        # What was imported stays: a collection need not look at it.
        gc.freeze()
        gc.enable()
        assert isinstance(loaded, click.Command), f"{COMMANDS[cmd_name].module}.command is no click command"
        return loaded

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if not (ctx.resilient_parsing or args[0] in COMMANDS or args[0].startswith("-")):
            if args[0] in _ASKED:
                ctx.fail(f"no command named {args[0]!r}: {_ASKED[args[0]]}")
            near = nearest(args[0], COMMANDS)
            hint = f"did you mean {near!r}?" if near else f"commands: {', '.join(sorted(COMMANDS))}"
            ctx.fail(f"no command named {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        if incomplete.startswith("-"):
            return click.Command.shell_complete(self, ctx, incomplete)
        names = [name for name in sorted(COMMANDS) if name.startswith(incomplete)]
        return [CompletionItem(name, help=COMMANDS[name].about) for name in names]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name].about) for name in sorted(COMMANDS)])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.custom_version_option(lambda _: f"mesokit, version {version()}")
def main() -> None:
    """Run Mesos tasks, and look after the networks of a Mesos agent."""


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script of SHELL; for bash: eval "$(mesokit completion bash)"."""
    completion = get_completion_class(shell)
    assert completion is not None
    click.echo(completion(main, {}, "mesokit", "_MESOKIT_COMPLETE").source())
