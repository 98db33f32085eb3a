"""The dead letters of one graph, to be listed, read and marked.

A record that fails at the same node again, in a later run, has the same letter: the attempt chain
in which it failed last counts. A mark says what became of a letter in one file; a later failure of
the same record is not marked by it, even in the same chain, which a stage may begin anew.
"""

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import pyarrow as pa
import pyarrow.compute

from nvisy_dagster.engine.dead_letter_index import ENTRY, chains_of, read_letters
from nvisy_dagster.engine.dead_letter_listing import FOLDER, MARKS
from nvisy_dagster.engine.dead_letter_marks import (
    KEY,
    Mark,
    earliest,
    marks_of,
    read_marks,
    write_marks,
)
from nvisy_dagster.engine.dead_letter_merged import all_indexes
from nvisy_dagster.engine.dead_letter_origins import GraphIdentity, graphs_of_runs, of_others
from nvisy_dagster.engine.storage import names, safe_name
from nvisy_dagster.engine.superseded import closed_by

pc = cast("Any", pyarrow.compute)

Status = Literal["open", "replayed", "discarded", "superseded"]

LISTED = pa.schema([
    *ENTRY,
    pa.field("chain", pa.string()),
    pa.field("status", pa.string()),
    pa.field("marked_by", pa.string()),
    pa.field("marked_at", pa.timestamp("us", "UTC")),
    pa.field("graph_folder", pa.string()),
])
"""What is listed of a letter. `marked_by` is the run that replayed or superseded it, `graph_folder`
where the file of its graph lay, if that is known: another graph may have the same name."""


@dataclass(frozen=True)
class LetterFilter:
    """Which letters are meant; what is not said does not matter."""

    node: str | None = None
    tag: str | None = None
    run: str | None = None
    """Begin of a run's id."""
    since: dt.datetime | None = None
    status: Status | None = "open"

    def of(self, letters: pa.Table) -> pa.Table:
        """Those of the letters."""
        if self.node is not None:
            letters = letters.filter(pc.field("node") == self.node)
        if self.tag is not None:
            letters = letters.filter(pc.field("tag") == self.tag)
        if self.run is not None:
            letters = letters.filter(pc.starts_with(letters["run_id"], self.run))
        if self.since is not None:
            since = pa.scalar(self.since.astimezone(dt.UTC), pa.timestamp("us", "UTC"))
            letters = letters.filter(pc.greater_equal(letters["failed_at"], since))
        if self.status is not None:
            letters = letters.filter(pc.field("status") == self.status)
        return letters


ALL = LetterFilter(status=None)
OPEN = LetterFilter()


class DeadLetterBox:
    """The dead letters of one graph.

    Args:
        storage: Root folder of run state.
        graph: Name of the graph.
    """

    def __init__(self, storage: Path, graph: str) -> None:
        self.folder = storage / "graphs" / safe_name(graph)

    @classmethod
    def of_graph(cls, folder: Path) -> "DeadLetterBox":
        """Those of the graph that keeps its state in this folder."""
        return cls(folder.parents[1], folder.name)

    @property
    def _marks(self) -> Path:
        return self.folder / FOLDER / MARKS

    def letters(self, wanted: LetterFilter = OPEN) -> pa.Table:
        """What is known of the letters without opening their files, oldest first.

        Raises:
            StorageError: Something of the storage is gone or damaged.
        """
        letters = all_indexes(self.folder)
        if not letters.num_rows:
            return LISTED.empty_table()
        letters = _latest(letters)
        listed = self._marked(self._with_folders(letters), chains_of(self.folder))
        return wanted.of(listed).sort_by([("failed_at", "ascending"), ("letter_id", "ascending")])

    def read(self, letters: pa.Table) -> Iterator[tuple[str, pa.RecordBatch]]:
        """The letters themselves, a batch at a time, each with the chain that left it.

        Args:
            letters: Some of those that are listed.

        Raises:
            StorageError: A file is gone or damaged.
        """
        wanted = letters.select(["chain", "part", "row"]).group_by(["chain", "part"])
        files = wanted.aggregate([("row", "list")]).sort_by([
            ("chain", "ascending"),
            ("part", "ascending"),
        ])
        for file in files.to_pylist():
            rows = pa.array(sorted(file["row_list"]), pa.int64())
            first = 0
            for batch in read_letters(self.folder / FOLDER / file["chain"], file["part"]):
                places = pa.array(range(first, first + batch.num_rows), pa.int64())
                chosen = batch.filter(pc.is_in(places, rows))
                first += batch.num_rows
                if chosen.num_rows:
                    yield file["chain"], chosen

    def mark(self, letters: pa.Table, mark: Mark, by: str | None = None) -> None:
        """Say what became of letters; durable on return. Marking again changes nothing.

        Args:
            letters: Some of those that are listed: columns `letter_id`, `chain` and `part`.
            mark: What became of them.
            by: The run that did it.

        Raises:
            StorageError: The disk is full or refuses.
        """
        write_marks(self._marks, marks_of(letters, mark, by))

    def of_other_graphs(self, letters: pa.Table, own: GraphIdentity | None) -> dict[str, str]:
        """Letters that another graph of the same name left: of each such run, the folder of that.

        Args:
            letters: Some of those that are listed.
            own: The graph that asks.

        Raises:
            StorageError: What is known of runs is damaged.
        """
        runs = set(letters["run_id"].to_pylist())
        found = of_others(graphs_of_runs(self.folder), own, runs)
        return {run: graph.folder or "" for run, graph in found.items()}

    def _with_folders(self, letters: pa.Table) -> pa.Table:
        folders = {run: graph.folder for run, graph in graphs_of_runs(self.folder).items()}
        found = pa.array(map(folders.get, letters["run_id"].to_pylist()), pa.string())
        return letters.append_column("graph_folder", found)

    def _marked(self, letters: pa.Table, chains: Sequence[str]) -> pa.Table:
        here = set(names(self.folder))
        closed = [
            closed_by(self.folder / FOLDER / chain, self.folder / chain)
            for chain in chains
            if chain in here
        ]
        marks = pa.concat_tables([read_marks(self._marks), *closed])
        letters = letters.join(earliest(marks), KEY, join_type="left outer")
        status = pc.fill_null(letters["mark"], "open")
        return letters.append_column("status", status).select(LISTED.names).cast(LISTED)


def _latest(letters: pa.Table) -> pa.Table:
    """The letters of each id that the chain left in which it failed last.

    By time, not by the names of chains: a run that was cut off may go on after a replay.
    """
    failures = letters.group_by(["letter_id", "chain"]).aggregate([("failed_at", "max")])
    # Of two that failed at the same moment the chain that began later counts.
    failures = failures.sort_by([("failed_at_max", "ascending"), ("chain", "ascending")])
    latest = failures.group_by("letter_id", use_threads=False).aggregate([("chain", "last")])
    latest = latest.rename_columns({"chain_last": "chain"})
    return letters.join(latest, ["letter_id", "chain"], join_type="left semi")
