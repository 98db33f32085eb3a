"""The Dagster instance that runs from the command line are kept in."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import dagster as dg

from nvisy_dagster.engine.storage_place import storage_root
from nvisy_dagster.translator.storage_folder import make_folder

CONFIG_FILE = "dagster.yaml"


def default_instance_home(storage: Path | None = None) -> Path:
    """Folder of the Dagster instance: `$DAGSTER_HOME`, else `dagster` in the storage folder."""
    given = os.environ.get("DAGSTER_HOME")
    return (Path(given) if given else storage_root(storage) / "dagster").resolve()


def prepare_instance_home(home: Path) -> Path:
    """Make the folder of an instance, with our configuration if it has none.

    Returns:
        The folder, absolute, as Dagster wants it.

    Raises:
        ConfigError: Nothing can be written in it.
    """
    home = home.resolve()
    remedy = "give its user the permission, or name another with DAGSTER_HOME"
    make_folder(home, "the folder of Dagster's history", remedy)
    config = home / CONFIG_FILE
    if not config.exists():
        text = files("nvisy_dagster.translator").joinpath(CONFIG_FILE).read_text(encoding="utf-8")
        config.write_text(text, encoding="utf-8")
    return home


@contextmanager
def open_instance(home: Path) -> Generator[dg.DagsterInstance, None, None]:
    """The instance of this folder."""
    with dg.DagsterInstance.from_config(str(prepare_instance_home(home))) as instance:
        yield instance
