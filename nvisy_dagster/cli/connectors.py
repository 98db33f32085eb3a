"""`nvisy connectors`: the systems that can be read and written."""

import click

from nvisy_dagster.cli.app import NvisyCommand
from nvisy_dagster.cli.options import json_option


@click.command("connectors", cls=NvisyCommand, short_help="Show what can be read and written.")
@click.argument("name", required=False)
@json_option
def command(name: str | None, *, as_json: bool) -> None:
    """Show what can be read and written, or everything about one connector."""
    from nvisy_dagster.cli.component_description import ComponentDescription, describe_connector
    from nvisy_dagster.cli.component_text import show_all, show_one, unknown
    from nvisy_dagster.graph.planned import PLANNED_CONNECTORS
    from nvisy_dagster.registry import installed

    registry = installed()

    def describe(one: str) -> list[ComponentDescription]:
        return describe_connector(registry.connector(one))

    if name is None:
        show_all("connectors", registry.connectors, describe, as_json=as_json)
    elif name in registry.connectors:
        show_one(describe(name), as_json=as_json)
    else:
        raise unknown("connector", name, registry.connectors, PLANNED_CONNECTORS)
