"""`nvisy dead-letters`: list, show, export, replay and discard records that failed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from nvisy_dagster.cli.app import NvisyCommand, debugging
from nvisy_dagster.cli.options import GRAPH, connections_option, json_option, storage_option

F = TypeVar("F", bound=Callable[..., Any])

_HELP = """Look at the records of a graph that failed, and run them again.

With "on_error": "dead_letter" a record that fails is kept: why, where, and the record itself. GRAPH
is a graph file, or the name of a graph whose file is not at hand.

\b
  nvisy dead-letters list GRAPH       which there are
  nvisy dead-letters show GRAPH ID    one of them, with its record and where that came from
  nvisy dead-letters export GRAPH F   to a .jsonl or .parquet file
  nvisy dead-letters replay GRAPH     run them again from the node that failed them
  nvisy dead-letters discard GRAPH    no longer list them
"""


@click.group("dead-letters", help=_HELP)
def command() -> None:  # noqa: D103 - its help is above
    pass


def _chosen(function: F) -> F:
    """The options that choose letters."""
    for option in reversed([
        click.option("--node", metavar="ID", help="Of this node."),
        click.option("--tag", help='Of this kind of error, such as "validation".'),
        click.option("--run", metavar="ID", help="Of this run; the begin of its id is enough."),
        click.option(
            "--since", metavar="WHEN", help='Failed since then: "2h", "3d", or a date and time.'
        ),
    ]):
        function = option(function)
    return function


def _became(function: F) -> F:
    """The options that choose letters by what became of them."""
    for option in (
        click.option("--all", "status", flag_value="all", help="The same as --status all."),
        click.option(
            "--status",
            type=click.Choice(["open", "replayed", "superseded", "discarded", "all"]),
            default="open",
            show_default=True,
            help="What became of them; superseded: a later run got the record past the node.",
        ),
    ):
        function = option(function)
    return function


@command.command("list", cls=NvisyCommand)
@click.argument("graph", type=GRAPH)
@_chosen
@_became
@click.option(
    "--limit", default=50, show_default=True, type=click.IntRange(0), help="Most to show; 0: all."
)
@storage_option
@json_option
def list_command(
    graph: Path,
    storage: Path | None,
    status: str,
    limit: int,
    *,
    as_json: bool,
    **chosen: str | None,
) -> None:
    """List the dead letters of a graph, the newest last."""
    from nvisy_dagster.cli.dead_letters_view import box_of, chosen_letters, print_list

    box, name = box_of(graph, storage)
    print_list(name, chosen_letters(box, status, chosen), limit, as_json=as_json)


@command.command("show", cls=NvisyCommand)
@click.argument("graph", type=GRAPH)
@click.argument("letter", metavar="ID")
@storage_option
@json_option
def show_command(graph: Path, letter: str, storage: Path | None, *, as_json: bool) -> None:
    """Show a dead letter, with its record and where that came from.

    The first 4 characters of an ID are enough, if no other begins so. With NVISY_PREVIEW=off what
    is in the record is not shown.
    """
    from nvisy_dagster.cli.dead_letters_view import box_of, find, print_letters

    box, name = box_of(graph, storage)
    print_letters(box, find(box, name, [letter]), as_json=as_json)


@command.command("export", cls=NvisyCommand)
@click.argument("graph", type=GRAPH)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@_chosen
@_became
@storage_option
def export_command(
    graph: Path, file: Path, storage: Path | None, status: str, **chosen: str | None
) -> None:
    """Write dead letters, whole, to FILE: .jsonl or .parquet.

    The records are written as they are, whatever NVISY_PREVIEW says.
    """
    from nvisy_dagster.cli.dead_letters_export import export
    from nvisy_dagster.cli.dead_letters_view import box_of, chosen_letters

    box, _ = box_of(graph, storage)
    count = export(box, chosen_letters(box, status, chosen), file)
    click.echo(f"{count:,} {'letter' if count == 1 else 'letters'} written to {file}")


@command.command("discard", cls=NvisyCommand)
@click.argument("graph", type=GRAPH)
@click.argument("letters", metavar="[ID]...", nargs=-1)
@_chosen
@click.option("--yes", is_flag=True, help="Do not ask.")
@storage_option
def discard_command(
    graph: Path, letters: tuple[str, ...], storage: Path | None, *, yes: bool, **chosen: str | None
) -> None:
    """No longer list dead letters.

    They are kept on storage, and listed with --status discarded. Without IDs and filters, all that
    are open.
    """
    from nvisy_dagster.cli.dead_letters_view import box_of, choose_open, summary

    box, name = box_of(graph, storage)
    found = choose_open(box, name, letters, chosen)
    if not found.num_rows:
        click.echo("no open dead letters")
        return
    if not yes:
        click.confirm(f"Discard {summary(found)}?", abort=True)
    box.mark(found, "discarded")
    click.echo(f"discarded {found.num_rows:,}; `--status discarded` lists them")


@command.command("replay", cls=NvisyCommand)
@click.argument("graph", type=GRAPH)
@click.argument("letters", metavar="[ID]...", nargs=-1)
@_chosen
@click.option(
    "--fresh", is_flag=True, help="Forget a replay that was cut off, instead of going on with it."
)
@connections_option
@storage_option
@click.option("--quiet", "-q", is_flag=True, help="Show neither progress nor the final table.")
@json_option
@click.pass_context
def replay_command(  # noqa: PLR0913 - one argument per option
    ctx: click.Context,
    graph: Path,
    letters: tuple[str, ...],
    connections_file: Path | None,
    storage: Path | None,
    *,
    fresh: bool,
    quiet: bool,
    as_json: bool,
    **chosen: str | None,
) -> None:
    """Run dead letters again, from the node that failed them through the rest of GRAPH.

    What gets through is marked as replayed; what fails again is a dead letter as before, with its
    attempts counted. A replay that failed or was stopped goes on when it is started again. Without
    IDs and filters, all that are open are replayed.

    A source reads what it could not read again: a line from its bytes, an object from where it is,
    with its params as they are now. What only a run can read again is named and left to it.

    The exit code is 1 if letters were run again and none got through; if one that was chosen by ID
    or filter failed again or could not be replayed; and, without them, if one could not that no run
    reads again.
    """
    from nvisy_dagster.cli.dead_letters_replay import ReplayRequest, replay

    request = ReplayRequest(
        graph=graph,
        letters=letters,
        chosen=chosen,
        connections_file=connections_file,
        storage=storage,
        fresh=fresh,
        quiet=quiet,
        as_json=as_json,
        debug=debugging(ctx),
    )
    ctx.exit(replay(request))
