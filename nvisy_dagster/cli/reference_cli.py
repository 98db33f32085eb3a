"""The reference page of the command line, from the help of the commands themselves."""

import click

from nvisy_dagster.cli.app import cli
from nvisy_dagster.cli.exit_codes import ExitCode

_WIDTH = 90


def cli_page() -> str:
    """The page as Markdown."""
    top = _context(cli, "nvisy", None)
    lines = ["# The command line", "", "```text", cli.get_help(top).rstrip(), "```", ""]
    lines += ["## Exit codes", "", "| code | meaning |", "|---|---|"]
    lines += [f"| {code.value} | {code.meaning} |" for code in ExitCode]
    for name in cli.list_commands(top):
        command = cli.get_command(top, name)
        if command is not None and not command.hidden:
            lines += _command(command, name, top, "##")
    return "\n".join(lines) + "\n"


def _command(command: click.Command, name: str, parent: click.Context, mark: str) -> list[str]:
    """The section of a command, and those of the commands below it."""
    context = _context(command, name, parent)
    text = command.get_help(context).rstrip()
    lines = ["", f"{mark} {context.command_path}", "", "```text", text, "```"]
    below = command.commands.items() if isinstance(command, click.Group) else ()
    for sub, one in below:
        lines += _command(one, sub, context, f"{mark}#")
    return lines


def _context(command: click.Command, name: str, parent: click.Context | None) -> click.Context:
    return click.Context(
        command,
        info_name=name,
        parent=parent,
        # The same on every machine, however wide its terminal is.
        terminal_width=_WIDTH,
        help_option_names=["-h", "--help"],
        color=False,
    )
