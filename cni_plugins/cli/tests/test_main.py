"""The command group: its subcommands are there, and loaded only when they are called."""

from __future__ import annotations

import importlib
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from cni_plugins.cli.main import COMMANDS, main


def test_help_lists_every_subcommand() -> None:
    answer = CliRunner().invoke(main, ["--help"])
    assert answer.exit_code == 0
    assert all(name in answer.output for name in COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_subcommand_can_be_loaded(name: str) -> None:
    answer = CliRunner().invoke(main, [name, "--help"])
    assert answer.exit_code == 0, answer.output


def test_the_help_of_every_command_has_an_example() -> None:
    def without(found: click.Command, path: str) -> list[str]:
        lacking = [] if f"{path}" in f"{found.help}{found.epilog}" else [path]
        for name, inner in found.commands.items() if isinstance(found, click.Group) else ():
            lacking += without(inner, f"{path} {name}")
        return lacking

    lacking = [
        each
        for name, entry in COMMANDS.items()
        for each in without(importlib.import_module(entry.module).command, f"mesokit {name}")
    ]
    assert lacking == []


def test_help_and_completion_load_none_of_them() -> None:
    modules = sorted({command.module for command in COMMANDS.values()} - {"cni_plugins.cli.main"})
    program = f"""
import sys
from click.testing import CliRunner
from cni_plugins.cli.main import main
CliRunner().invoke(main, ["--help"])
env = {{"_MESOKIT_COMPLETE": "bash_complete", "COMP_WORDS": "mesokit ", "COMP_CWORD": "1"}}
assert "run" in CliRunner().invoke(main, env=env, prog_name="mesokit").output
print([name for name in {modules} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_near_miss_is_answered_with_the_command() -> None:
    answer = CliRunner().invoke(main, ["rnu"])
    assert answer.exit_code == 2
    assert "no command named 'rnu'; did you mean 'run'?" in answer.output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    answer = CliRunner().invoke(main, ["completion", shell])
    assert f"_MESOKIT_COMPLETE={shell}_complete" in answer.output


def test_no_line_of_help_is_cut() -> None:
    for name in COMMANDS:
        found = main.get_command(click.Context(main), name)
        if isinstance(found, click.Group):
            told = CliRunner().invoke(found, ["--help"], env={"COLUMNS": "80"}).output
            lines = told.partition("Commands:")[2].splitlines()
            assert lines and not [line for line in lines if line.endswith("...")], told


def test_what_people_try_first_has_a_hint() -> None:
    for word, hint in (("help", "mesokit --help"), ("version", "mesokit --version"), ("list", "mesokit ls")):
        told = CliRunner().invoke(main, [word])
        assert told.exit_code == 2 and hint in told.output
