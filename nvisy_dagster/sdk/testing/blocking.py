"""What every action that needs all records promises: each at most once, the same ones each time."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from anyio import to_thread

from nvisy_dagster.sdk.params import Connection, Params
from nvisy_dagster.sdk.testing.component import Work
from nvisy_dagster.sdk.testing.consumer import ConsumerConformance
from nvisy_dagster.sdk.testing.records import check_batch, check_same, check_unique, cuts, ids
from nvisy_dagster.sdk.testing.records import to_rows as rows_of


class BlockingActionConformance(ConsumerConformance):
    """Subclass with `component` and fixtures `params` and `rows`."""

    @pytest.fixture
    def work(self, rows: pa.RecordBatch, tmp_path: Path) -> Work:
        """Gather `rows`."""

        async def gather(action: Any) -> None:  # noqa: ANN401 - an action of any params
            await to_thread.run_sync(partial(_gather, action, [rows], tmp_path))

        return gather

    def gathered(
        self,
        batches: Sequence[pa.RecordBatch],
        params: Params,
        connection: Connection | None,
        scratch: Path,
    ) -> list[pa.RecordBatch]:
        """What an action of its own makes of some batches."""
        action: Any = self.build(params, connection)
        made = _gather(action, batches, scratch)
        traced, came = action.traced(), len(rows_of(batches))
        assert (traced is not None) == self.component.makes, "`traced` is for records it makes"
        assert traced is None or 0 <= traced <= came, f"{traced} of {came} records left a trace"
        return made

    def test_one_schema(
        self, params: Params, connection: Connection | None, rows: pa.RecordBatch, tmp_path: Path
    ) -> None:
        """Every batch has the schema that `output` promised; of no records none is made."""
        action: Any = self.build(params, connection)
        schema = action.output(self.incoming(rows)).schema
        for batch in self.gathered([rows], params, connection, tmp_path):
            check_batch(batch)
            assert batch.schema.equals(schema), f"the schema is\n{batch.schema}\nnot\n{schema}"
        for nothing in ([], [rows.slice(0, 0)]):
            made = self.gathered(nothing, params, connection, tmp_path)
            assert not rows_of(made), "no records became some"

    def test_each_record_is_one_that_came_in(
        self, params: Params, connection: Connection | None, rows: pa.RecordBatch, tmp_path: Path
    ) -> None:
        """No record is made, changed or doubled, unless the action declares that it makes them."""
        made = self.gathered([rows], params, connection, tmp_path)
        assert ids(made), "the fixtures must lead to some output"
        check_unique(ids(made))
        came = {row["_id"]: row for row in rows.to_pylist()}
        if self.component.makes:
            assert not came.keys() & ids(made), "what it makes has ids of what came in"
            return
        unknown = [row for row in rows_of(made) if row["_id"] not in came]
        assert not unknown, f"{len(unknown)} records did not come in"
        check_same(rows_of(made), [came[row["_id"]] for row in rows_of(made)], "a record")
        if not self.component.drops:
            lost = set(came) - set(ids(made))
            assert not lost, f"{len(lost)} records are lost, and it does not declare `drops`"

    def test_cuts_do_not_matter(
        self, params: Params, connection: Connection | None, rows: pa.RecordBatch, tmp_path: Path
    ) -> None:
        """The same records come out in the same order however the batches are cut."""
        whole = rows_of(self.gathered([rows], params, connection, tmp_path))
        check_same(rows_of(self.gathered([rows], params, connection, tmp_path)), whole, "again")
        for batches in cuts(rows):
            what = f"cut into {[batch.num_rows for batch in batches]} rows"
            check_same(rows_of(self.gathered(batches, params, connection, tmp_path)), whole, what)

    def test_may_be_interrupted_at_any_time(
        self, params: Params, connection: Connection | None, rows: pa.RecordBatch, tmp_path: Path
    ) -> None:
        """Before, between and after its batches; and it may be left in the middle.

        The engine removes the folder for what does not fit in memory.
        """
        action: Any = self.build(params, connection)
        action.interrupt()
        made = action.gather([rows], tmp_path)
        assert next(iter(made)).num_rows, "the fixtures must lead to some output"
        made.close()
        action.interrupt()


def _gather(
    action: Any,  # noqa: ANN401 - an action of any params
    batches: Sequence[pa.RecordBatch],
    scratch: Path,
) -> list[pa.RecordBatch]:
    return list(action.gather(batches, scratch))
