"""`nvisy dev`: Dagster's pages on a folder of graphs."""

import errno
import os
import signal
import socket
import sys
from importlib.util import find_spec
from pathlib import Path

import click

from nvisy_dagster.cli.app import NvisyCommand
from nvisy_dagster.cli.options import storage_option

GRAPHS_VARIABLE = "NVISY_GRAPHS"
"""Read by `nvisy_dagster.translator.workspace`, whose import would load the graphs."""
NOT_FOR_OUR_USERS = "Function `dev_command` is superseded"
"""How the warning begins with which `dagster dev` recommends `dg dev`, which needs a project."""


@click.command("dev", cls=NvisyCommand, short_help="Open Dagster on a folder of graphs.")
@click.argument(
    "folder", default=".", type=click.Path(path_type=Path, exists=True, file_okay=False)
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=3000,
    show_default=True,
    type=click.IntRange(1, 65535),
    help="Port to listen on.",
)
@storage_option
def command(folder: Path, host: str, port: int, storage: Path | None) -> None:
    """Open Dagster on a folder of graphs: launch, schedule, watch and trace runs in a browser.

    Every .json file in FOLDER but connections.json is a graph. Runs of `nvisy run` are listed too,
    if they were made with the same storage. History is kept in $DAGSTER_HOME, else in dagster/ in
    the storage folder.
    """
    from nvisy_dagster.engine.storage_place import STORAGE_VARIABLE, storage_root
    from nvisy_dagster.sdk import ConfigError

    if find_spec("dagster_webserver") is None:
        raise ConfigError(
            "dagster-webserver is not installed", remedy="pip install 'nvisy-dagster[ui]'"
        )
    _check_address(host, port)
    _tell_mistakes(folder)
    from nvisy_dagster.translator.instance import default_instance_home, prepare_instance_home
    from nvisy_dagster.translator.storage_folder import writable_storage

    storage = storage_root(storage)
    with writable_storage(storage):
        home = prepare_instance_home(default_instance_home(storage))
    environment = {
        **os.environ,
        GRAPHS_VARIABLE: str(folder.resolve()),
        STORAGE_VARIABLE: str(storage),
        "DAGSTER_HOME": str(home),
        **_module_path(home),
    }
    target = ["-m", "nvisy_dagster.translator.workspace", "-h", host, "-p", str(port)]
    # Where Dagster looks for modules first: by default that is the working folder, too.
    target += ["-d", str(home)]
    click.echo(f"graphs of {folder.resolve()} on http://{host}:{port} (stop with Ctrl-C)")
    sys.stdout.flush()
    silence = ["-W", f"ignore:{NOT_FOR_OUR_USERS}"]
    arguments = [sys.executable, "-P", *silence, "-m", "dagster", "dev", *target]
    # A shell that puts us in the background has SIGINT ignored, which is inherited; Dagster treats
    # SIGTERM as it finds SIGINT, and would hear neither.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.execve(sys.executable, arguments, environment)  # noqa: S606 - the point of this command


def _module_path(home: Path) -> dict[str, str]:
    """Variables that keep Dagster's processes from importing what lies in the working folder.

    It starts them with `python -m`: a `json.py` there would be taken for the one that they mean.
    """
    path = os.environ.get("PYTHONPATH")
    if not path:
        return {"PYTHONSAFEPATH": "1"}
    # Dagster takes the first entry for the folder of a script and leaves it out: one is put there
    # that has no modules.
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join([str(home), path])}


def _check_address(host: str, port: int) -> None:
    """See that the pages can be served there: Dagster would say so even if they cannot.

    Raises:
        ConfigError: Another program listens there, or this machine does not.
    """
    from nvisy_dagster.sdk import ConfigError

    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # With SO_REUSEADDR, as the server itself: an address that was just let go is free.
        with socket.create_server(address[:2], family=family):
            pass
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        reason = "another program listens there" if taken else error.strerror or str(error)
        raise ConfigError(
            f"cannot listen on {host}, port {port}: {reason}",
            remedy="choose another port with --port, or another address with --host",
            tag="conflict",
        ) from error


def _tell_mistakes(folder: Path) -> None:
    """Tell what is wrong with the graphs now; they can be corrected while Dagster runs.

    Raises:
        ConfigError: There is no graph in the folder.
    """
    from nvisy_dagster.cli.failures import error_lines
    from nvisy_dagster.cli.loading import load
    from nvisy_dagster.graph.connections import FILE_NAME
    from nvisy_dagster.graph.errors import GraphErrors
    from nvisy_dagster.sdk import ConfigError

    graphs = sorted(path for path in folder.glob("*.json") if path.name != FILE_NAME)
    if not graphs:
        raise ConfigError(
            f"there is no graph in {folder.resolve()}",
            remedy="put a graph there, as a .json file, or name another folder",
        )
    wrong = False
    for path in graphs:
        try:
            load(path)
        except GraphErrors as errors:
            wrong = True
            for line in error_lines(errors):
                click.echo(line, err=True)
    if wrong:
        message = (
            "Dagster loads the other graphs; of these it shows what is wrong. Correct them, then "
            "press Reload on its page Deployment."
        )
        click.echo(message, err=True)
