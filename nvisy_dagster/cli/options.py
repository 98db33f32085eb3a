"""Arguments and options that several commands share."""

from pathlib import Path

import click

GRAPH = click.Path(path_type=Path)
"""A graph file. Whether it can be read is told like every other mistake, not by click."""

json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout.")

connections_option = click.option(
    "--connections",
    "connections_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Read connections from FILE instead of connections.json beside the graph.",
)

storage_option = click.option(
    "--storage",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER|URL",
    help="Where checkpoints and run history are kept: a folder, or an object store such as "
    "s3://bucket/prefix; by default $NVISY_STORAGE, else .nvisy here.",
)
