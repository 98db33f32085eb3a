"""`nvisy version`: what is installed."""

import json
import platform
from importlib.metadata import PackageNotFoundError, version

import click

from nvisy_dagster.cli.app import NvisyCommand
from nvisy_dagster.cli.options import json_option

PACKAGES = ("nvisy-dagster", "dagster", "dagster-webserver", "pyarrow", "duckdb", "qdrant-client")


@click.command("version", cls=NvisyCommand, short_help="Show the installed versions.")
@json_option
def command(*, as_json: bool) -> None:
    """Show the versions of nvisy-dagster and of what it runs on."""
    versions = {name: _version(name) for name in PACKAGES} | {"python": platform.python_version()}
    if as_json:
        click.echo(json.dumps(versions, indent=2))
        return
    for name, number in versions.items():
        click.echo(f"{name:18} {number or 'not installed'}")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
