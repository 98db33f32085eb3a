"""Which dead letters are replayed, and what a replay keeps until it is over.

<storage>/replays/<graph>/<selection>/selection.parquet   the letters, named when it is asked for
<storage>/replays/<graph>/<selection>/records/<node>/     their records, as the node will read them
<storage>/replays/<graph>/<selection>/graphs/             its attempt chain, beside those of runs
<storage>/replays/<graph>/lease/                          held while one goes on

All of it is removed when every letter is marked. So a selection that is there has not been replayed
to its end, and the next replay goes on with it.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nvisy_dagster.engine.failure import RunConflictError, StorageError
from nvisy_dagster.engine.lease import read_lease
from nvisy_dagster.engine.storage import (
    fetch,
    is_kept,
    names,
    publish,
    remove_file,
    remove_folder,
    safe_name,
    sync_folder,
    told,
)
from nvisy_dagster.sdk import ConfigError
from nvisy_dagster.sdk.identity import format_ulid, ids_to_array, ulids

FOLDER = "replays"
FILE = "selection.parquet"
COLUMNS = ["letter_id", "node", "attempt", "chain", "part", "row"]
_ID = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")


def is_ulid(name: str) -> bool:
    """Whether it is a name of ours: that of a selection, or of an attempt chain."""
    return _ID.fullmatch(name) is not None


def replays_folder(storage: Path, graph: str) -> Path:
    """Where the replays of a graph keep what they need."""
    return storage / FOLDER / safe_name(graph)


@dataclass(frozen=True)
class Selection:
    """Letters that are to be replayed together."""

    id: str
    folder: Path

    def letters(self) -> pa.Table:
        """The letters: columns `letter_id`, `node`, `attempt`, `chain`, `part`, `row`.

        Raises:
            StorageError: The file is gone or damaged.
        """
        path = self.folder / FILE
        try:
            return pq.read_table(fetch(path))
        except (OSError, pa.ArrowException) as error:
            raise StorageError(
                f"{path}, the letters of a replay, is gone or damaged: {error}",
                remedy="begin another replay: `nvisy dead-letters replay --fresh`",
            ) from error

    def remove(self) -> None:
        """Forget it, and everything that its replay kept."""
        # The file first: without it there is no selection, whatever is left of the rest.
        remove_file(self.folder / FILE)
        remove_folder(self.folder)


def select_letters(storage: Path, graph: str, letters: pa.Table) -> Selection:
    """Name letters to be replayed; durable on return.

    Args:
        storage: Root folder of run state.
        graph: Name of the graph.
        letters: Some of those that are listed.

    Raises:
        StorageError: The disk is full or refuses.
    """
    name = format_ulid(ids_to_array(ulids(1))[0].as_py())
    folder = replays_folder(storage, graph) / name
    path, temporary = folder / FILE, folder / f"{FILE}.tmp"
    with told(path):
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(letters.select(COLUMNS), temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(folder)
    publish(path)
    return Selection(name, folder)


def refuse_replay(folder: Path | None) -> None:
    """Refuse to run while dead letters of the graph are replayed.

    Args:
        folder: Where the replays of the graph keep their lease.

    Raises:
        RunConflictError: They are.
    """
    lease = None if folder is None else read_lease(folder)
    if lease is not None and lease.is_live:
        raise RunConflictError(
            f"run {lease.run_id} is replaying dead letters of this graph now",
            remedy="wait until it ends, or terminate it; then launch again",
        )


def unfinished(storage: Path, graph: str) -> list[Selection]:
    """The selections whose replay is not over, oldest first."""
    folder = replays_folder(storage, graph)
    found = [Selection(name, folder / name) for name in sorted(names(folder)) if is_ulid(name)]
    return [one for one in found if is_kept(one.folder / FILE)]


def selection_of(storage: Path, graph: str, name: str) -> Selection | None:
    """The selection of this name; `None` if its replay is over.

    Raises:
        ConfigError: It is no such name.
    """
    if not is_ulid(name):
        raise ConfigError(
            f"{name!r} names no selection of dead letters",
            remedy="launch the replay with `nvisy dead-letters replay`, or without the tag",
        )
    selection = Selection(name, replays_folder(storage, graph) / name)
    return selection if is_kept(selection.folder / FILE) else None
