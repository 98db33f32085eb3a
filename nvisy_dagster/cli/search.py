"""`nvisy search`: ask a vector sink a question."""

import json
from pathlib import Path

import click

from nvisy_dagster.cli.app import NvisyCommand
from nvisy_dagster.cli.options import GRAPH, connections_option, json_option


@click.command("search", cls=NvisyCommand)
@click.argument("graph", type=GRAPH)
@click.argument("question")
@click.option("--sink", metavar="ID", help="The sink to ask, if several can be searched.")
@click.option("--embed", metavar="ID", help="The node whose model embeds the question.")
@click.option("--limit", default=3, show_default=True, type=click.IntRange(1, 1000), help="Hits.")
@connections_option
@json_option
def command(  # noqa: PLR0913, PLR0917 - one argument per option
    graph: Path,
    question: str,
    sink: str | None,
    embed: str | None,
    limit: int,
    connections_file: Path | None,
    *,
    as_json: bool,
) -> None:
    """Ask the vector sink of a graph a question.

    The question is embedded by the model that the graph embeds its records with. Shows the nearest
    records and where each of them came from.
    """
    from nvisy_dagster.cli.loading import load
    from nvisy_dagster.cli.searching import describe_hit, draw_hit, reads_whole_objects, search

    loaded = load(graph, connections_file)
    hits = search(loaded, question, sink, embed, limit)
    if as_json:
        document = {"question": question, "hits": [describe_hit(hit) for hit in hits]}
        click.echo(json.dumps(document, indent=2, default=str))
        return
    if not hits:
        click.echo("nothing found: the sink is empty")
    whole = reads_whole_objects(loaded.plan)
    for number, hit in enumerate(hits, 1):
        for line in draw_hit(number, hit, whole=whole):
            click.echo(line)
