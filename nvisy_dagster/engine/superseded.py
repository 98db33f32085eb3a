"""Dead letters that a later run closes: it read the record again and got it past the node.

What was seen to get past is written per epoch, like the letters themselves, and the checkpoint of
the epoch lists it. So a letter is closed by the very write that makes the run's work count: never
before, and never by a worker that was taken for dead. It is closed under the name of one failure of
the record, so whatever failed later stays open. Before a checkpoint goes, `settle` makes marks of
what it lists.
"""

import os
import uuid
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from anyio import to_thread

from nvisy_dagster.engine.checkpoint import CheckpointStore, Part
from nvisy_dagster.engine.dead_letter_marks import KEY, MARK, marks_of, read_marks, write_marks
from nvisy_dagster.engine.failpoint import failpoint
from nvisy_dagster.engine.failure import StorageError
from nvisy_dagster.engine.lease import Lease
from nvisy_dagster.engine.rejection import Rejected
from nvisy_dagster.engine.storage import (
    fetch,
    is_file,
    names,
    publish,
    remove_file,
    remove_folder,
    safe_name,
    sync_folder,
    told,
)
from nvisy_dagster.sdk.identity import array_to_ids

pc = cast("Any", pyarrow.compute)

_LISTED = "superseded:"
_FOLDER = "superseded@"
"""Before a node's name; an `@` is in the id of no node."""

Rows = npt.NDArray[np.int64]


def superseded_as(node: str) -> str:
    """Name under which a checkpoint lists the letters of a node that a run closed."""
    return f"{_LISTED}{node}"


class OpenLetters:
    """The letters of one node that were open when the stage began.

    Args:
        letters: Columns `letter_id`, `chain`, `part`, `record_id`, `attempt`, `uri`, `position`.
        whole: Whether a letter without a position stands for all of what its URI names.
    """

    def __init__(self, letters: pa.Table, *, whole: bool = False) -> None:
        words = array_to_ids(pa.array(letters["record_id"].combine_chunks(), pa.binary(16)))
        order = np.lexsort((words[:, 1], words[:, 0]))
        self._words = words[order]
        letters = letters.take(pa.array(order))
        self.names = letters.select(["letter_id", "chain", "part"]).combine_chunks()
        self._attempts = letters["attempt"].to_numpy()
        objects = letters["uri"].filter(pc.is_null(letters["position"])) if whole else None
        self._uris = objects.combine_chunks() if objects is not None and len(objects) else None
        self._uri_rows = np.flatnonzero(pc.is_null(letters["position"]).to_numpy())

    def __len__(self) -> int:
        return self.names.num_rows

    def rows(self, ids: pa.Array) -> Rows:
        """For each record its letter's row, -1 where it has none.

        A search in sorted words: what it costs hardly depends on how many letters there are.
        """
        wanted = array_to_ids(ids)
        place = np.searchsorted(self._words[:, 0], wanted[:, 0])
        place[place == len(self._words)] = 0
        return np.where((self._words[place] == wanted).all(axis=1), place, -1)

    def objects(self, records: pa.RecordBatch) -> Rows:
        """The rows of letters that stand for all of an object of which records are here."""
        if self._uris is None:
            return np.zeros(0, np.int64)
        uris = pc.unique(pc.struct_field(records.column("_source"), "uri"))
        found = pc.is_in(self._uris, uris).to_numpy(zero_copy_only=False)
        return self._uri_rows[found]

    def attempts(self, ids: pa.Array) -> npt.NDArray[np.int32]:
        """How often each record has failed so far."""
        rows = self.rows(ids)
        return np.where(rows < 0, 0, self._attempts[rows]).astype(np.int32)


@dataclass(frozen=True)
class _Place:
    folder: Path
    run_id: str


class Superseding:
    """What a running node closes of its open letters.

    Args:
        folder: Where the letters of the attempt chain are kept.
        node: Id of the node.
        run_id: The run that closes them.
        open_: Its open letters, if there are any.
        listed: What the checkpoint lists for the node; other files are removed.
        lease: Under which they are removed.
    """

    def __init__(  # noqa: PLR0913 - what it is, by keyword
        self,
        folder: Path,
        node: str,
        run_id: str,
        *,
        open_: OpenLetters | None,
        listed: Sequence[Part] = (),
        lease: Lease | None = None,
    ) -> None:
        self._place = _Place(folder / f"{_FOLDER}{safe_name(node)}", run_id)
        self._name = uuid.uuid4().hex[:12]
        self._open = open_
        self._seen = np.zeros(len(open_) if open_ else 0, np.bool_)
        self._epoch: list[Rows] = []
        _remove_all_but({part.file for part in listed}, self._place.folder, lease)

    def saw(self, records: pa.RecordBatch, rejected: Sequence[Rejected]) -> int:
        """Records came to the node, and got past it but for those that were rejected.

        Returns:
            How many letters that closes, once the epoch is committed.
        """
        if self._open is None or not records.num_rows:
            return 0
        rows = self._open.rows(records.column("_id"))
        past = np.unique(rows[rows >= 0])
        if len(objects := self._open.objects(records)):
            past = np.union1d(past, objects)
        for one in rejected if len(past) else ():
            past = np.setdiff1d(past, self._open.rows(one.records.column("_id")))
        new = past[~self._seen[past]]
        if len(new):
            self._seen[new] = True
            self._epoch.append(new)
        return len(new)

    async def commit(self, epoch: int) -> list[Part]:
        """Make durable what this epoch closes.

        Returns:
            Its file, for the checkpoint to list.

        Raises:
            StorageError: The disk is full or refuses.
        """
        if not self._epoch:
            return []
        parts = await to_thread.run_sync(self._commit, epoch)
        self._epoch.clear()
        return parts

    def _commit(self, epoch: int) -> list[Part]:
        assert self._open is not None  # noqa: S101 - of what else could some be seen
        rows = np.concatenate(self._epoch)
        marks = marks_of(self._open.names.take(pa.array(rows)), "superseded", self._place.run_id)
        folder = self._place.folder
        file = folder / f"{epoch:010d}-{self._name}.parquet"
        temporary = file.with_suffix(".tmp")
        failpoint("superseded.before_rename")
        with told(folder):
            folder.mkdir(parents=True, exist_ok=True)
            pq.write_table(marks, temporary)
            with temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
            temporary.replace(file)
            sync_folder(folder)
        publish(file)
        failpoint("superseded.after_rename")
        return [Part(file=file.name, epoch=epoch, rows=marks.num_rows, bytes=marks.nbytes)]


def _remove_all_but(listed: Container[str], folder: Path, lease: Lease | None) -> None:
    there = {*names(folder), *(os.listdir(folder) if folder.is_dir() else ())}  # noqa: PTH208 - names
    if there and lease is not None:
        # After the listing: a later holder's files, whose names are its own, are not in it.
        lease.check()
    for name in there:
        if name not in listed:
            remove_file(folder / name)


def closed_by(letters: Path, state: Path) -> pa.Table:
    """The marks of an attempt chain that are in none of the files of marks yet.

    Args:
        letters: Where its letters are kept.
        state: Its own state.

    Raises:
        StorageError: A checkpoint or one of the files is damaged.
    """
    if not any(name.startswith(_FOLDER) for name in names(letters)):
        return MARK.empty_table()
    return pa.concat_tables([MARK.empty_table(), *_listed(letters, state)])


def _listed(letters: Path, state: Path) -> Iterator[pa.Table]:
    for stage in sorted(names(state)):
        checkpoint = CheckpointStore(state / stage / "checkpoint.json").read()
        for name, parts in checkpoint.parts.items():
            if not name.startswith(_LISTED):
                continue
            folder = letters / f"{_FOLDER}{safe_name(name.removeprefix(_LISTED))}"
            for path in (folder / part.file for part in parts):
                # A stage that was begun anew has made marks of what it removed.
                if is_file(path):
                    yield _read(path)


def _read(path: Path) -> pa.Table:
    try:
        return pq.read_table(fetch(path)).cast(MARK)
    except (OSError, pa.ArrowException) as error:
        raise StorageError(
            f"{path}, which says what became of dead letters, is damaged: {error}",
            remedy="remove it: the letters that it closes are then open again",
        ) from error


def settle(letters: Path, state: Path, marks: Path, *, remove: bool = False) -> None:
    """Make marks of what an attempt chain closed, before its checkpoints go; again if need be.

    Args:
        letters: Where its letters are kept.
        state: Its own state.
        marks: Folder of marks.
        remove: Whether the chain is over.

    Raises:
        StorageError: The disk is full or refuses, or a file is damaged.
    """
    closed = closed_by(letters, state)
    if closed.num_rows:
        known = read_marks(marks).select(KEY)
        write_marks(marks, closed.join(known, KEY, join_type="left anti").combine_chunks())
    failpoint("superseded.after_settle")
    for name in names(letters) if remove else ():
        if name.startswith(_FOLDER):
            remove_folder(letters / name)
