"""`nvisy docs`: the reference pages, generated from what the components declare."""

from pathlib import Path

import click

from nvisy_dagster.cli.app import NvisyCommand
from nvisy_dagster.cli.exit_codes import ExitCode


@click.command("docs", cls=NvisyCommand, hidden=True)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("docs/reference"),
    show_default=True,
    help="Folder of the pages.",
)
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 if a page is stale.")
@click.pass_context
def command(ctx: click.Context, output: Path, *, check: bool) -> None:
    """Write the reference: a page per connector and action, the primitives, this command line."""
    from nvisy_dagster.cli.reference import pages, stale_pages, write_pages
    from nvisy_dagster.registry import installed

    wanted = pages(installed())
    stale = stale_pages(wanted, output)
    if check and stale:
        click.echo("stale docs: run `nvisy docs`", err=True)
        for path in stale:
            click.echo(f"  {output / path}", err=True)
        ctx.exit(ExitCode.FAILED)
    if not check:
        write_pages(wanted, output)
        click.echo(f"{len(wanted)} files in {output}, {len(stale)} of them changed")
