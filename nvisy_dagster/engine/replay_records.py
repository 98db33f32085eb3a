"""The records of dead letters, as the nodes that failed them will read them again.

They are written like the output of a stage: Arrow parts below the replay's own folder, of one
schema per node. A source that reads them stands in for all that comes before the node.
"""

import json
import os
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute
from anyio import to_thread
from pydantic import BaseModel, ConfigDict, Field

from nvisy_dagster.compiler import Node, Plan
from nvisy_dagster.engine.dead_letter import letter_ids
from nvisy_dagster.engine.dead_letter_box import DeadLetterBox
from nvisy_dagster.engine.dead_letter_marks import KEY
from nvisy_dagster.engine.dead_letter_origins import identity_of
from nvisy_dagster.engine.failure import StorageError
from nvisy_dagster.engine.replay_columns import lacks
from nvisy_dagster.engine.storage import fetch, publish, read_model, safe_name, told, write_json
from nvisy_dagster.sdk import Batch, Cursor, EdgeType, Params, RejectedRecord, Source

pc = cast("Any", pyarrow.compute)

BATCH_ROWS = 1024
ANEW = "begin another replay: `nvisy dead-letters replay --fresh`"


class Refused(BaseModel):
    """Letters that cannot be replayed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    node: str
    chain: str
    part: str
    letters: int
    reason: str
    ids: list[str] | None = None
    """Which letters of the file, as hexadecimal digits; `None` for all that were chosen."""
    read_again: bool = False
    """Whether a run does what a replay cannot: it reads what they are about again."""


class ReplayRecords(BaseModel):
    """What can be replayed, and what cannot."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: dict[str, str]
    """Node -> its file."""
    rows: dict[str, int]
    refused: list[Refused]

    def and_refused(self, more: Sequence[Refused]) -> "ReplayRecords":
        """The same, with more that cannot be replayed."""
        return self.model_copy(update={"refused": [*self.refused, *more]})


def refuse_others(
    plan: Plan, box: DeadLetterBox, letters: pa.Table
) -> tuple[pa.Table, list[Refused]]:
    """Letters without those that another graph of the same name left, and those.

    Raises:
        StorageError: Something of the storage is gone or damaged.
    """
    listed = box.letters()
    others = box.of_other_graphs(listed, identity_of(plan))
    if not others:
        return letters, []
    foreign = listed.filter(pc.is_in(listed["run_id"], pa.array(sorted(others), pa.string())))
    theirs = letters.join(foreign.select([*KEY, "run_id"]), KEY, join_type="inner")
    refused: list[Refused] = []
    for run, folder in sorted(others.items()):
        reason = (
            f"another graph of the name {plan.name!r}, in {folder}, left them; it reads and writes "
            "nothing that this one does. Replay them with the file of that one, or discard them"
        )
        some = theirs.filter(pc.field("run_id") == run)
        for node in sorted(set(some["node"].to_pylist())):
            refused += _whole_files(some.filter(pc.field("node") == node), node, reason)
    return letters.join(foreign.select(KEY), KEY, join_type="left anti"), refused


def write_records(
    plan: Plan,
    box: DeadLetterBox,
    letters: pa.Table,
    folder: Path,
    refused: Sequence[Refused] = (),
) -> ReplayRecords:
    """Write the records of letters, once: asked again, it tells what was written.

    Args:
        plan: The compiled graph, as it is now.
        box: The graph's letters.
        letters: Those to be replayed.
        folder: Where the records go.
        refused: What is refused besides.

    Raises:
        StorageError: A file of letters is gone, or the disk is full or refuses.
    """
    manifest = folder / "records.json"
    done = read_model(manifest, ReplayRecords, ANEW)
    if done is not None:
        return done
    files: dict[str, str] = {}
    rows: dict[str, int] = {}
    refused = list(refused)
    for node in sorted(set(letters["node"].to_pylist())):
        some = letters.filter(pc.field("node") == node)
        found = plan.nodes.get(node)
        if found is None:
            reason = f"the graph has no node {node!r} any more"
            refused += _whole_files(some, node, reason)
            continue
        comparing = next((n for n in plan.reached_from(node) if plan.nodes[n].compares), None)
        if comparing is not None:
            refused += _whole_files(some, node, _compared(plan.nodes[comparing]), read_again=True)
            continue
        if found.kind == "source":
            some, left = decodable(found, box, some)
            refused += left
            if not some.num_rows:
                continue
        path = folder / f"{safe_name(node)}.arrow"
        written = _NodeFile(path, _schema_into(plan, node, box, some), partial(lacks, plan, node))
        refused += written.fill(box, some, node)
        if written.rows:
            files[node], rows[node] = path.name, written.rows
    result = ReplayRecords(files=files, rows=rows, refused=refused)
    write_json(manifest, result.model_dump(mode="json"))
    return result


def decodable(node: Node, box: DeadLetterBox, letters: pa.Table) -> tuple[pa.Table, list[Refused]]:
    """Those of a source's letters that it can try again, and the others."""
    source = cast("Source[Any, Any]", node.build())
    kept: list[bytes] = []
    refused: list[Refused] = []
    for part in _parts(letters):
        left: list[str] = []
        for _, batch in box.read(part):
            able = [source.decodes and source.can_decode(one) for one in rejected_in(batch)]
            ids = batch.column("letter_id").to_pylist()
            kept += [one for one, can in zip(ids, able, strict=True) if can]
            left += [one.hex() for one, can in zip(ids, able, strict=True) if not can]
        if left:
            refused.append(_left_to_a_run(node, part, left, decodes=source.decodes))
    return letters.filter(pc.is_in(letters["letter_id"], pa.array(kept, pa.binary(16)))), refused


def _left_to_a_run(node: Node, part: pa.Table, ids: list[str], *, decodes: bool) -> Refused:
    first = part.slice(0, 1).to_pylist()[0]
    why = (
        "it cannot be read again by itself"
        if decodes
        else f"source {node.component_name!r} cannot read it again by itself"
    )
    return Refused(
        node=node.id,
        chain=first["chain"],
        part=first["part"],
        letters=len(ids),
        reason=f"{why}: correct what node {node.id!r} reads and run the graph, which closes them",
        ids=ids,
        read_again=True,
    )


def rejected_in(letters: pa.RecordBatch) -> Iterator[RejectedRecord]:
    """What a source had rejected, of letters that have it in their column `record`."""
    yield from rejected_of(pa.RecordBatch.from_struct_array(letters.column("record")))


def rejected_of(records: pa.RecordBatch) -> Iterator[RejectedRecord]:
    """The same of the records themselves."""
    bytes_ = records.column("data").to_pylist()
    places = records.column("_source").to_pylist()
    metadata = records.column("_metadata").to_pylist()
    for data, place, more in zip(bytes_, places, metadata, strict=True):
        about = json.loads(more) if more else {}
        yield RejectedRecord(place["uri"], place["position"], data, "", metadata=about)


def _compared(node: Node) -> str:
    return (
        f"{node.component_name} {node.id!r} behind it chooses among all records, and would see "
        "these alone: correct what failed and run the graph, which closes them"
    )


def _whole_files(
    letters: pa.Table, node: str, reason: str, *, read_again: bool = False
) -> Iterator[Refused]:
    counted = letters.group_by(["chain", "part"]).aggregate([([], "count_all")])
    for one in counted.to_pylist():
        yield Refused(
            node=node,
            chain=one["chain"],
            part=one["part"],
            letters=one["count_all"],
            reason=reason,
            read_again=read_again,
        )


def _schema_into(plan: Plan, node: str, box: DeadLetterBox, letters: pa.Table) -> pa.Schema:
    """The schema of what reaches the node: that of the plan, else that of the newest letter."""
    for edge in plan.edges_into[node]:
        output = plan.nodes[edge.output.node].output
        if output is not None and output.schema is not None:
            return output.schema
    return _schema_of(box, letters)


def _schema_of(box: DeadLetterBox, letters: pa.Table) -> pa.Schema:
    """The columns of the newest letter."""
    newest = letters.sort_by([("chain", "descending"), ("part", "descending")]).slice(0, 1)
    [(_, batch)] = box.read(newest)
    return pa.schema(list(batch.schema.field("record").type))


class _NodeFile:
    """The records that one node will read."""

    def __init__(
        self,
        path: Path,
        schema: pa.Schema,
        lacks: Callable[[pa.Schema, pa.Schema], str | None],
    ) -> None:
        self._path = path
        self._schema = schema
        self._lacks = lacks
        self.rows = 0

    def fill(self, box: DeadLetterBox, letters: pa.Table, node: str) -> list[Refused]:
        """Write the records whose columns fit; durable on return."""
        refused: list[Refused] = []
        with told(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with (
                pa.OSFile(str(self._path), "wb") as file,
                pa.ipc.new_file(file, self._schema) as writer,
            ):
                for part in _parts(letters):
                    # Twice over: what is said to stay must not go through in part.
                    reason = next((text for text in self._fit(box, part) if text is not None), None)
                    if reason is not None:
                        first = part.slice(0, 1).to_pylist()[0]
                        refused.append(
                            Refused(
                                node=node,
                                chain=first["chain"],
                                part=first["part"],
                                letters=part.num_rows,
                                reason=f"what reaches node {node!r} has changed: {reason}",
                            )
                        )
                        continue
                    for _, batch in box.read(part):
                        fitted = fit(batch.column("record"), self._schema)
                        assert not isinstance(fitted, str)  # noqa: S101 - just tried
                        for start in range(0, fitted.num_rows, BATCH_ROWS):
                            writer.write_batch(fitted.slice(start, BATCH_ROWS))
                        self.rows += fitted.num_rows
            with self._path.open("rb+") as file:
                os.fsync(file.fileno())
        publish(self._path)
        return refused

    def _fit(self, box: DeadLetterBox, part: pa.Table) -> Iterator[str | None]:
        """Why letters of one file do not fit, batch by batch."""
        for _, batch in box.read(part):
            record = batch.column("record")
            fitted = fit(record, self._schema)
            had = pa.schema(list(record.type))
            yield fitted if isinstance(fitted, str) else self._lacks(had, self._schema)


def _parts(letters: pa.Table) -> Iterator[pa.Table]:
    """The letters of one file after another."""
    for key in letters.group_by(["chain", "part"]).aggregate([]).sort_by("chain").to_pylist():
        here = pc.field("chain") == key["chain"]
        yield letters.filter(here & (pc.field("part") == key["part"]))


def fit(records: pa.StructArray, schema: pa.Schema) -> pa.RecordBatch | str:
    """Records with these columns, or why they cannot be had."""
    batch = pa.RecordBatch.from_struct_array(records)
    columns: list[pa.Array] = []
    for field in schema:
        place = batch.schema.get_field_index(field.name)
        if place < 0:
            if not field.nullable:
                return f"it needs a column {field.name!r}, which these letters do not have"
            columns.append(pa.nulls(batch.num_rows, field.type))
            continue
        column = batch.column(place)
        if column.type != field.type:
            try:
                column = column.cast(field.type)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                return f"column {field.name!r} is {field.type} now, and was {column.type}"
        if column.null_count and not field.nullable:
            return f"column {field.name!r} must not be null now"
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, schema=schema)


class ReplayParams(Params):
    """Params of `ReplaySource`."""

    path: Path = Field(exclude=True)
    """File of the records; on another machine it is elsewhere, and the same."""
    replay: str
    """The replay: another one has other progress."""
    node: str = Field(default="", exclude=True)
    """The node that failed them."""
    closed: frozenset[bytes] = Field(default=frozenset(), exclude=True)
    """Letters whose records are left out."""


class ReplayCursor(Cursor):
    """How many batches were read."""

    batches: int


class ReplaySource(Source[ReplayParams, ReplayCursor]):
    """Reads the records of dead letters, for the node that failed them."""

    name = "dead_letters"

    def output(self) -> EdgeType:
        """Not asked: a replay runs what has been compiled."""
        return EdgeType("row")

    async def read(self, cursor: ReplayCursor | None) -> AsyncGenerator[Batch[ReplayCursor], None]:
        """The records, in the order in which they failed.

        Raises:
            StorageError: The file is gone or damaged.
        """
        try:
            path = await to_thread.run_sync(fetch, self.params.path)
            with pa.OSFile(str(path), "rb") as file:
                reader = await to_thread.run_sync(pa.ipc.open_file, file)
                for number in range(cursor.batches if cursor else 0, reader.num_record_batches):
                    batch = await to_thread.run_sync(reader.get_batch, number)
                    yield Batch(self._still_open(batch), ReplayCursor(batches=number + 1))
        except (OSError, pa.ArrowInvalid) as error:
            raise StorageError(
                f"{self.params.path}, the records of a replay, is gone or damaged: {error}",
                remedy=ANEW,
            ) from error

    def _still_open(self, records: pa.RecordBatch) -> pa.RecordBatch:
        if not self.params.closed:
            return records
        letters = letter_ids(self.params.node, records)
        closed = pa.array(list(self.params.closed), letters.type)
        return records.filter(pc.invert(pc.is_in(letters, closed)))
