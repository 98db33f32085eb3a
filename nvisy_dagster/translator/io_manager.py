"""Where the manifests of materialized outputs lie between ops: JSON files, nothing is pickled."""

from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import dagster as dg
from pydantic import ValidationError

from nvisy_dagster.engine.failure import StorageError
from nvisy_dagster.engine.materialized import Manifest
from nvisy_dagster.engine.storage import (
    files_below,
    is_kept,
    names,
    read_json,
    remove_folder,
    safe_name,
    write_json,
)

IO_MANAGER_KEY = "nvisy_io"
FOLDER = "manifests"
"""Below the storage folder; holds a folder per run."""

MANIFEST_TYPE = dg.DagsterType(
    name="NvisyManifest",
    description="The parts that a materialized output consists of; the records stay on storage.",
    type_check_fn=lambda _, value: isinstance(value, Manifest),
)
"""Has no loader, so that run config can never put a value in its place."""


class ManifestIOManager(dg.IOManager):
    """Keeps manifests as JSON files, one per run, step, output and mapping key.

    A re-execution reads those of the run it re-executes. Only the manifest travels: it lists part
    files that the engine wrote.

    Args:
        storage: Root folder of run state.
    """

    def __init__(self, storage: Path) -> None:
        self._folder = storage / FOLDER

    def handle_output(self, context: dg.OutputContext, obj: Manifest) -> None:
        """Write a manifest; it is durable on return."""
        path = self._path(context.get_identifier())
        write_json(path, obj.model_dump(mode="json"))

    def load_input(self, context: dg.InputContext) -> Manifest:
        """The manifest that an op wrote, if its parts are still there.

        Raises:
            dg.Failure: It or one of its parts is gone, or it is asked for by other assets.
        """
        upstream = context.upstream_output
        if upstream is None or upstream.step_key == "none":
            raise _failure(
                "the records of a graph's node cannot be loaded as an input",
                'depend on the asset with "deps" and read the records where its sink wrote them',
            )
        path = self._path(upstream.get_identifier())
        try:
            document = read_json(path)
            manifest = None if document is None else Manifest.model_validate(document)
        except (ValueError, ValidationError) as error:
            raise _failure(f"{path} is damaged", "launch the whole graph") from error
        if manifest is None:
            raise _failure(
                f"the manifest {path} of {upstream.step_key} is gone",
                "a later run completed the graph, or the storage was cleared: launch the whole "
                "graph instead of a part of an earlier run; if this run has just begun, let all "
                "processes of a run share NVISY_STORAGE",
            )
        kept = set(names(Path(manifest.folder))) if manifest.parts else set[str]()
        missing = [part.file for part in manifest.parts if part.file not in kept]
        if missing:
            raise _failure(
                f"{len(missing)} of the {len(manifest.parts)} files that {upstream.step_key} made "
                f"are gone from {manifest.folder}",
                "a later run completed the graph, or the storage was cleared: launch the whole "
                "graph instead of a part of an earlier run",
            )
        return manifest

    def _path(self, identifier: Sequence[str]) -> Path:
        *folders, name = (safe_name(part) for part in identifier)
        return self._folder.joinpath(*folders, f"{name}.json")


def remove_lost_manifests(storage: Path) -> None:
    """Remove the manifests of runs none of whose records are kept any more.

    Runs of other graphs may be going on: a manifest is written after the folder that it names, so
    those of a live run are never taken for lost ones.

    Args:
        storage: Root folder of run state.
    """
    runs = storage / FOLDER
    # What is in the way is no reason for a run to fail that is complete.
    with suppress(OSError, StorageError):
        for run in (runs / name for name in names(runs)):
            files = [file for file in files_below(run) if file.suffix == ".json"]
            if files and not any(map(_is_kept, files)):
                remove_folder(run)


def _is_kept(file: Path) -> bool:
    try:
        return is_kept(Path(Manifest.model_validate(read_json(file)).folder))
    except ValueError:
        # Not ours to judge: another version may have written it.
        return True


def _failure(message: str, remedy: str) -> dg.Failure:
    return dg.Failure(
        f"{message} ({remedy})",
        metadata={"tag": "progress_lost", "remedy": remedy},
        allow_retries=False,
    )


@cache
def manifest_io_manager(storage: Path) -> dg.IOManagerDefinition:
    """The IO manager of a storage: always the same object, so that definitions merge."""
    return dg.IOManagerDefinition(
        lambda _: ManifestIOManager(storage),
        config_schema={},
        description="Manifests of Nvisy graphs, as JSON files.",
    )
