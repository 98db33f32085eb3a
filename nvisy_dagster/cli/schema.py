"""`nvisy schema`: the JSON Schema of graphs."""

import json
from typing import TYPE_CHECKING, Any

import click

from nvisy_dagster.cli.app import NvisyCommand

if TYPE_CHECKING:
    from nvisy_dagster.registry import Registry


@click.command("schema", cls=NvisyCommand, short_help="Write the JSON Schema of a graph.")
def command() -> None:
    """Write the JSON Schema of a graph, with the params of everything that is installed.

    Editors complete and check a graph whose "$schema" names a file with this in it.
    """
    from nvisy_dagster.registry import installed

    click.echo(json.dumps(full_schema(installed()), indent=2))


def full_schema(registry: "Registry") -> dict[str, Any]:
    """The JSON Schema of a graph, the params of the registry's components included."""
    from nvisy_dagster.graph.json_schema import graph_schema
    from nvisy_dagster.sdk import Router

    connectors = [registry.connector(name) for name in registry.connectors]
    actions = {name: registry.action(name) for name in registry.actions}
    return graph_schema(
        sources={
            one.name: one.source.params_type.model_json_schema(by_alias=False)
            for one in connectors
            if one.source
        },
        sinks={
            one.name: one.sink.params_type.model_json_schema(by_alias=False)
            for one in connectors
            if one.sink
        },
        actions={
            name: action.params_type.model_json_schema(by_alias=False)
            for name, action in actions.items()
            if not issubclass(action, Router)
        },
    )
