"""`nvisy validate`: everything that is wrong with some graphs, without running them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nvisy_dagster.cli.app import NvisyCommand
from nvisy_dagster.cli.exit_codes import ExitCode
from nvisy_dagster.cli.options import GRAPH, connections_option, json_option

if TYPE_CHECKING:
    from nvisy_dagster.cli.loading import LoadedGraph


@click.command("validate", cls=NvisyCommand, short_help="Find every mistake in graph files.")
@click.argument("graphs", nargs=-1, required=True, metavar="GRAPH...", type=GRAPH)
@connections_option
@json_option
@click.pass_context
def command(
    ctx: click.Context, graphs: tuple[Path, ...], connections_file: Path | None, *, as_json: bool
) -> None:
    """Find every mistake in some graph files, without running anything.

    Each mistake has its file, line, JSON path and remedy. Connections are read from the
    connections.json beside each graph; secrets need not be set.
    """
    tell = _silent if as_json else click.echo
    checked = [_check(path, connections_file, tell) for path in graphs]
    valid = all(one["valid"] for one in checked)
    if as_json:
        click.echo(json.dumps({"valid": valid, "graphs": checked}, indent=2))
    if not valid:
        ctx.exit(ExitCode.WRONG)


def _silent(_line: str) -> None:
    """Tell people nothing: a program reads the output."""


def _check(
    path: Path, connections_file: Path | None, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Validate one file; returns what was found, as JSON."""
    from nvisy_dagster.cli.failures import error_lines, mistakes
    from nvisy_dagster.cli.loading import load
    from nvisy_dagster.graph.errors import GraphErrors

    try:
        loaded = load(path, connections_file)
        unset = _check_connections(loaded)
    except GraphErrors as errors:
        for line in error_lines(errors):
            tell(line)
        return {"file": str(path), "valid": False, "mistakes": mistakes(errors)}
    plan = loaded.plan
    counts = f"{_count(len(plan.nodes), 'node')}, {_count(len(plan.stages), 'stage')}"
    tell(f"{path}: {click.style('ok', fg='green')} ({plan.name}: {counts})")
    for message in unset:
        tell(f"  a run needs more: {message}")
    return {
        "file": str(path),
        "valid": True,
        "mistakes": [],
        "name": plan.name,
        "nodes": len(plan.nodes),
        "stages": len(plan.stages),
        "unset": unset,
    }


def _check_connections(loaded: "LoadedGraph") -> list[str]:
    """Check the fields of the connections that are used.

    Returns:
        What a run needs that is not there now, such as variables that are not set. That is no
        mistake in a file: the machine that runs the graph may well have them.

    Raises:
        GraphErrors: A field is wrong.
    """
    import os

    from nvisy_dagster.cli.loading import FileErrors
    from nvisy_dagster.engine.connections import open_connections
    from nvisy_dagster.graph.connections import resolve_secrets
    from nvisy_dagster.graph.errors import GraphErrors

    used = {node.connection for node in loaded.plan.nodes.values() if node.connection}
    try:
        resolve_secrets(loaded.connections, os.environ, used)
    except GraphErrors as errors:
        return [error.message for error in errors.errors]
    try:
        open_connections(loaded.plan, loaded.connections, os.environ)
    except GraphErrors as errors:
        raise FileErrors(errors, loaded.connections_path or loaded.path) from errors
    return []


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"
