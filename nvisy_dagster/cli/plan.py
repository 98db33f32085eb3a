"""`nvisy plan`: the stages of a graph, drawn as text."""

import json
from pathlib import Path

import click

from nvisy_dagster.cli.app import NvisyCommand
from nvisy_dagster.cli.options import GRAPH, connections_option, json_option


@click.command("plan", cls=NvisyCommand)
@click.argument("graph", type=GRAPH)
@connections_option
@json_option
def command(graph: Path, connections_file: Path | None, *, as_json: bool) -> None:
    """Draw the stages that a graph is compiled to.

    Nodes of one stage run together and stream records to each other (->). Between stages the
    records are written to storage (=>), so that a failure later does not repeat the work before.
    Every edge shows the primitive it carries, every sink what is guaranteed when a run crashes.
    """
    from nvisy_dagster.cli.loading import load
    from nvisy_dagster.cli.plan_drawing import describe_plan, draw_plan

    plan = load(graph, connections_file).plan
    if as_json:
        click.echo(json.dumps(describe_plan(plan), indent=2))
        return
    for line in draw_plan(plan):
        click.echo(line)
