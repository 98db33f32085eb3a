"""What every action that goes by what came before promises, wherever it is cut off."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pytest

from nvisy_dagster.sdk.params import Connection, Params
from nvisy_dagster.sdk.testing.component import Work
from nvisy_dagster.sdk.testing.consumer import ConsumerConformance
from nvisy_dagster.sdk.testing.records import check_batch, check_same, check_unique, cuts, ids
from nvisy_dagster.sdk.testing.records import to_rows as rows_of


class SequentialActionConformance(ConsumerConformance):
    """Subclass with `component` and fixtures `params` and `rows`."""

    @pytest.fixture
    def work(self, rows: pa.RecordBatch) -> Work:
        """Send `rows` through it."""

        async def send(action: Any) -> None:  # noqa: ANN401 - an action of any params
            list(_sent(action, [rows]))

        return send

    def sent(
        self,
        batches: Iterable[pa.RecordBatch],
        params: Params,
        connection: Connection | None,
        taken: int = 0,
    ) -> list[pa.RecordBatch]:
        """What an action of its own sends on of some batches, after so many records."""
        return list(_sent(self.build(params, connection), batches, taken))

    def test_one_schema(
        self, params: Params, connection: Connection | None, rows: pa.RecordBatch
    ) -> None:
        """Every batch has the schema that `output` promised; of no records none is made."""
        action: Any = self.build(params, connection)
        schema = action.output(self.incoming(rows)).schema
        for batch in self.sent([rows], params, connection):
            check_batch(batch)
            assert batch.schema.equals(schema), f"the schema is\n{batch.schema}\nnot\n{schema}"
        for nothing in ([], [rows.slice(0, 0)]):
            assert not rows_of(self.sent(nothing, params, connection)), "no records became some"

    def test_each_record_is_one_that_came_in(
        self, params: Params, connection: Connection | None, rows: pa.RecordBatch
    ) -> None:
        """No record is made, changed, doubled or moved."""
        made = self.sent([rows], params, connection)
        assert ids(made), "the fixtures must lead to some output"
        check_unique(ids(made))
        came = {row["_id"]: row for row in rows.to_pylist()}
        unknown = [row for row in rows_of(made) if row["_id"] not in came]
        assert not unknown, f"{len(unknown)} records did not come in"
        check_same(rows_of(made), [came[row["_id"]] for row in rows_of(made)], "a record")
        places = {id_: place for place, id_ in enumerate(came)}
        order = [places[id_] for id_ in ids(made)]
        assert order == sorted(order), "the records come in another order"
        if not self.component.drops:
            lost = set(came) - set(ids(made))
            assert not lost, f"{len(lost)} records are lost, and it does not declare `drops`"

    def test_cuts_do_not_matter(
        self, params: Params, connection: Connection | None, rows: pa.RecordBatch
    ) -> None:
        """The same records go on however the batches are cut."""
        whole = rows_of(self.sent([rows], params, connection))
        for batches in cuts(rows):
            what = f"cut into {[batch.num_rows for batch in batches]} rows"
            check_same(rows_of(self.sent(batches, params, connection)), whole, what)

    def test_goes_on_behind_any_record(
        self, params: Params, connection: Connection | None, rows: pa.RecordBatch
    ) -> None:
        """After a checkpoint anywhere the same records go on as without."""
        whole = rows_of(self.sent([rows], params, connection))
        for place in range(rows.num_rows + 1):
            first = self.sent([rows.slice(0, place)], params, connection)
            rest = self.sent([rows.slice(place)], params, connection, place)
            check_same(rows_of([*first, *rest]), whole, f"after a checkpoint at record {place}")

    def test_flushed_it_holds_nothing_back(
        self, params: Params, connection: Connection | None, rows: pa.RecordBatch
    ) -> None:
        """A flush sends on all that it will ever send of what it took, and changes nothing else."""
        whole = rows_of(self.sent([rows], params, connection))
        action: Any = self.build(params, connection)
        action.begin(0)
        made: list[pa.RecordBatch] = []
        for row in range(rows.num_rows):
            made += [*action.take(rows.slice(row, 1)), *action.flush()]
            assert not rows_of(action.flush()), "flushed twice, it sends on something twice"
            assert action.due_seconds() is None, "it holds nothing back, and says that it does"
        check_same(rows_of(made), whole, "flushed after every record")

    def test_enough_is_enough(
        self, params: Params, connection: Connection | None, rows: pa.RecordBatch
    ) -> None:
        """Once it says that it has enough, it lets nothing through, and says so for ever."""
        action: Any = self.build(params, connection)
        action.begin(0)
        enough = action.has_enough()
        for row in range(rows.num_rows):
            made = rows_of([*action.take(rows.slice(row, 1)), *action.flush()])
            assert not (enough and made), "it had enough, and lets a record through"
            assert action.has_enough() or not enough, "it had enough, and has not any more"
            enough = action.has_enough()
            again: Any = self.build(params, connection)
            again.begin(row + 1)
            assert again.has_enough() == enough, "begun there, it says another thing"


def _sent(
    action: Any,  # noqa: ANN401 - an action of any params
    batches: Iterable[pa.RecordBatch],
    taken: int = 0,
) -> Iterator[pa.RecordBatch]:
    action.begin(taken)
    for batch in batches:
        made: Sequence[pa.RecordBatch] = list(action.take(batch))
        yield from made
    yield from action.flush()
