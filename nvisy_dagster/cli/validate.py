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
    from nvisy_dagster.cli.loading import check_connections, load
    from nvisy_dagster.graph.connections import FILE_NAME
    from nvisy_dagster.graph.errors import GraphErrors

    if path.name == FILE_NAME:
        return _check_connections_file(path, tell)
    wrong: list[GraphErrors] = []
    loaded: LoadedGraph | None = None
    try:
        loaded = load(path, connections_file)
    except GraphErrors as errors:
        wrong.append(errors)
    connections = check_connections(path, connections_file)
    if connections.wrong is not None:
        wrong.append(connections.wrong)
    if wrong or loaded is None:
        for errors in wrong:
            for line in error_lines(errors):
                tell(line)
        found = [one for errors in wrong for one in mistakes(errors)]
        return {"file": str(path), "valid": False, "mistakes": found}
    plan = loaded.plan
    counts = f"{_count(len(plan.nodes), 'node')}, {_count(len(plan.stages), 'stage')}"
    tell(f"{path}: {click.style('ok', fg='green')} ({plan.name}: {counts})")
    for message in connections.unset:
        tell(f"  a run needs more: {message}")
    return {
        "file": str(path),
        "valid": True,
        "mistakes": [],
        "name": plan.name,
        "nodes": len(plan.nodes),
        "stages": len(plan.stages),
        "unset": connections.unset,
    }


def _check_connections_file(path: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """Validate the file that stands beside graphs, as in `nvisy validate *.json`."""
    from nvisy_dagster.cli.failures import error_lines, mistakes
    from nvisy_dagster.cli.loading import FileErrors
    from nvisy_dagster.graph.connections import load_connections
    from nvisy_dagster.graph.errors import GraphErrors

    try:
        connections = load_connections(path)
    except GraphErrors as errors:
        wrong = FileErrors(errors, path)
        for line in error_lines(wrong):
            tell(line)
        return {"file": str(path), "valid": False, "mistakes": mistakes(wrong)}
    tell(f"{path}: {click.style('ok', fg='green')} ({_count(len(connections), 'connection')})")
    return {"file": str(path), "valid": True, "mistakes": []}


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"
