"""`nvisy run`: run a graph, in Dagster or by itself."""

from pathlib import Path

import click

from nvisy_dagster.cli.app import NvisyCommand, debugging
from nvisy_dagster.cli.exit_codes import exit_codes_help
from nvisy_dagster.cli.options import GRAPH, connections_option, json_option, storage_option

_HELP = f"""Run a graph to its end.

A run that failed, or was stopped, left checkpoints: running the graph again goes on from there,
unless --fresh is given. Every record reaches an upsert sink exactly once either way.

The run is recorded in Dagster's storage ($DAGSTER_HOME, else dagster/ in the storage folder), where
`nvisy dev` shows it. Progress goes to stderr, the result to stdout. Ctrl-C finishes and commits
what is under way; pressed twice it stops at once. The next run goes on either way.

{exit_codes_help()}
"""


@click.command("run", cls=NvisyCommand, help=_HELP)
@click.argument("graph", type=GRAPH)
@connections_option
@storage_option
@click.option("--fresh", is_flag=True, help="Begin anew, and read everything again.")
@click.option("--engine-only", is_flag=True, help="Run without Dagster: faster, and not recorded.")
@click.option("--quiet", "-q", is_flag=True, help="Show neither progress nor the final table.")
@json_option
@click.pass_context
def command(  # noqa: PLR0913 - one argument per option
    ctx: click.Context,
    graph: Path,
    connections_file: Path | None,
    storage: Path | None,
    *,
    fresh: bool,
    engine_only: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Run a graph to its end; the help text is above."""
    from nvisy_dagster.cli.running import RunRequest, run_graph

    request = RunRequest(
        graph=graph,
        connections_file=connections_file,
        storage=storage,
        fresh=fresh,
        engine_only=engine_only,
        quiet=quiet,
        as_json=as_json,
        debug=debugging(ctx),
    )
    ctx.exit(run_graph(request))
