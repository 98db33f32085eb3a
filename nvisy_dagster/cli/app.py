"""The command group, and what all commands have in common."""

import importlib
import os
from collections.abc import Mapping
from typing import Any

import click

from nvisy_dagster.cli.exit_codes import ExitCode, exit_codes_help

COMMANDS: Mapping[str, str] = {
    "run": "nvisy_dagster.cli.run",
    "validate": "nvisy_dagster.cli.validate",
    "plan": "nvisy_dagster.cli.plan",
    "dead-letters": "nvisy_dagster.cli.dead_letters",
    "search": "nvisy_dagster.cli.search",
    "dev": "nvisy_dagster.cli.dev",
    "connectors": "nvisy_dagster.cli.connectors",
    "actions": "nvisy_dagster.cli.actions",
    "schema": "nvisy_dagster.cli.schema",
    "version": "nvisy_dagster.cli.version",
    "docs": "nvisy_dagster.cli.docs",
}
"""Command -> the module whose `command` it is, in the order of the help."""


class NvisyCommand(click.Command):
    """A command whose errors are told to people, or as JSON with `--json`, never as tracebacks."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - click's own signature
        super().__init__(*args, **kwargs)
        self.params.append(
            click.Option(
                ["--debug"],
                is_flag=True,
                expose_value=False,
                envvar="NVISY_DEBUG",
                callback=_remember_debug,
                help="Show tracebacks.",
            )
        )

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's own signature
        """Run the command; whatever it raises becomes a message and an exit code."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(ExitCode.INTERRUPTED)
        except Exception as error:  # noqa: BLE001 - the last place where an error can be told
            from nvisy_dagster.cli.failures import report

            ctx.exit(report(error, as_json=bool(ctx.params.get("as_json")), debug=debugging(ctx)))


class NvisyGroup(click.Group):
    """The commands, in reading order, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's own
        """Names of the commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command of this name."""
        module = COMMANDS.get(cmd_name)
        return importlib.import_module(module).command if module else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the arguments name; of an unknown one, the nearest is offered."""
        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in COMMANDS:
            from difflib import get_close_matches

            near = get_close_matches(name, COMMANDS, n=1)
            offer = f' Did you mean "{near[0]}"?' if near else f" Commands: {', '.join(COMMANDS)}."
            ctx.fail(f'There is no command "{name}".{offer}')
        return super().resolve_command(ctx, args)


def debugging(ctx: click.Context) -> bool:
    """Whether tracebacks are wanted."""
    return bool(ctx.find_root().meta.get("nvisy.debug"))


def _remember_debug(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:  # noqa: FBT001 - click's own signature
    if value:
        ctx.find_root().meta["nvisy.debug"] = True


_HELP = f"""Run AI-data pipelines that are written as plain JSON graphs.

A graph names sources, actions and sinks, and the edges between them. A pipeline in three steps:

\b
  nvisy validate graph.json     is it right? every mistake, with its place
  nvisy run graph.json          run it; run it again to go on after a failure
  nvisy search graph.json "..." ask the vector sink a question

What can be in a graph: `nvisy connectors`, `nvisy actions`, and `nvisy connectors NAME` for one.

{exit_codes_help()}
"""


@click.group(
    cls=NvisyGroup,
    help=_HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(
    None, "-V", "--version", package_name="nvisy-dagster", message="nvisy-dagster %(version)s"
)
@click.pass_context
def cli(ctx: click.Context) -> None:  # noqa: D103 - its help is above
    if os.environ.get("NO_COLOR"):
        ctx.color = False


def main() -> None:
    """Entry point of `nvisy`."""
    cli(prog_name="nvisy")
