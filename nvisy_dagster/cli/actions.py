"""`nvisy actions`: what can be done to records."""

import click

from nvisy_dagster.cli.app import NvisyCommand
from nvisy_dagster.cli.options import json_option


@click.command("actions", cls=NvisyCommand, short_help="Show what can be done to records.")
@click.argument("name", required=False)
@json_option
def command(name: str | None, *, as_json: bool) -> None:
    """Show what can be done to records, or everything about one action."""
    from nvisy_dagster.cli.component_description import ComponentDescription, describe_component
    from nvisy_dagster.cli.component_text import show_all, show_one, unknown
    from nvisy_dagster.graph.planned import PLANNED_ACTIONS
    from nvisy_dagster.registry import installed

    registry = installed()

    def describe(one: str) -> list[ComponentDescription]:
        return [describe_component(registry.action(one))]

    if name is None:
        show_all("actions", registry.actions, describe, as_json=as_json)
    elif name in registry.actions:
        show_one(describe(name), as_json=as_json)
    else:
        raise unknown("action", name, registry.actions, PLANNED_ACTIONS)
