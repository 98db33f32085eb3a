"""What every action promises that joins inputs: of what came in, the same each time, by its id."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from anyio import to_thread

from nvisy_dagster.sdk.component import Component
from nvisy_dagster.sdk.edge_type import EdgeType
from nvisy_dagster.sdk.errors import ConfigError
from nvisy_dagster.sdk.params import Connection, Params
from nvisy_dagster.sdk.testing.component import Compile, Work
from nvisy_dagster.sdk.testing.consumer import ConsumerConformance
from nvisy_dagster.sdk.testing.records import check_batch, check_same, check_unique, cuts, ids
from nvisy_dagster.sdk.testing.records import to_rows as rows_of

Inputs = Mapping[str, Sequence[pa.RecordBatch]]


class JoiningActionConformance(ConsumerConformance):
    """Subclass with `component` and fixtures `params`, `rows` and `others`."""

    @pytest.fixture
    def others(self) -> Mapping[str, pa.RecordBatch]:
        """Override: the records of every input but the first, whose records are `rows`."""
        raise NotImplementedError

    @pytest.fixture
    def inputs(
        self, rows: pa.RecordBatch, others: Mapping[str, pa.RecordBatch]
    ) -> Mapping[str, pa.RecordBatch]:
        """The records of every input."""
        return {self.component.inputs[0]: rows, **others}

    def unfit(
        self,
        inputs: Mapping[str, pa.RecordBatch],  # noqa: ARG002 - for overriding
    ) -> list[Mapping[str, EdgeType]]:
        """Override: inputs that must be refused at compile time with a `ConfigError`."""
        return []

    @pytest.fixture
    def compiles(self, inputs: Mapping[str, pa.RecordBatch]) -> Compile:
        """Compile against the schemas of the inputs, and against some that are not known yet."""
        known = {name: self.incoming(rows) for name, rows in inputs.items()}

        def check(component: Component[Any]) -> None:
            joining: Any = component
            first = joining.output_of(known)
            assert joining.output_of(known) == first, "asked twice, it says two things"
            unknown = {name: EdgeType(one.primitive) for name, one in known.items()}
            joining.output_of(unknown)
            for name in known:
                joining.output_of({**known, name: unknown[name]})

        return check

    @pytest.fixture
    def work(self, inputs: Mapping[str, pa.RecordBatch], tmp_path: Path) -> Work:
        """Gather the inputs."""

        async def gather(action: Any) -> None:  # noqa: ANN401 - an action of any params
            await to_thread.run_sync(partial(_gather, action, _whole(inputs), tmp_path))

        return gather

    def gathered(
        self,
        inputs: Inputs,
        params: Params,
        connection: Connection | None,
        scratch: Path,
    ) -> list[pa.RecordBatch]:
        """What an action of its own makes of some inputs."""
        action: Any = self.build(params, connection)
        made = _gather(action, inputs, scratch)
        came = {_id for batches in inputs.values() for _id in ids(batches)}
        traces = {row["_id"] for row in rows_of(made)} & came
        traces |= {parent for row in rows_of(made) for parent in row["_parent_ids"]} & came
        traced = action.traced()
        assert len(traces) == (len(rows_of(made)) if traced is None else traced), (
            f"{len(traces)} records left a trace; it tells of {traced}"
        )
        return made

    def test_names_its_inputs(self, inputs: Mapping[str, pa.RecordBatch]) -> None:
        """The fixtures are records of every input."""
        assert len(set(self.component.inputs)) == len(self.component.inputs) > 1
        assert list(inputs) == list(self.component.inputs)
        for rows in inputs.values():
            check_batch(rows)

    def test_refuses_what_does_not_go_together(
        self,
        params: Params,
        connection: Connection | None,
        inputs: Mapping[str, pa.RecordBatch],
    ) -> None:
        """What `unfit` lists is a `ConfigError` at compile time."""
        for unfit in self.unfit(inputs):
            component: Any = self.build_to_compile(params, connection)
            with pytest.raises(ConfigError):
                component.output_of(unfit)

    def test_one_schema(
        self,
        params: Params,
        connection: Connection | None,
        inputs: Mapping[str, pa.RecordBatch],
        tmp_path: Path,
    ) -> None:
        """Every batch has the schema that was promised, whichever inputs are empty."""
        action: Any = self.build(params, connection)
        promised = action.output_of({name: self.incoming(one) for name, one in inputs.items()})
        whole = self.gathered(_whole(inputs), params, connection, tmp_path)
        assert rows_of(whole), "the fixtures must lead to some output"
        empty = {name: [rows.slice(0, 0)] for name, rows in inputs.items()}
        made = [
            *whole,
            *self.gathered(empty, params, connection, tmp_path),
            *(
                batch
                for name, none in empty.items()
                for batch in self.gathered(
                    {**_whole(inputs), name: none}, params, connection, tmp_path
                )
            ),
        ]
        for batch in made:
            check_batch(batch)
            assert batch.schema.equals(promised.schema), (
                f"the schema is\n{batch.schema}\nnot\n{promised.schema}"
            )
        for nothing in (empty, {name: [] for name in inputs}):
            made = self.gathered(nothing, params, connection, tmp_path)
            assert not rows_of(made), "no records became some"

    def test_records_are_made_of_those_that_came_in(
        self,
        params: Params,
        connection: Connection | None,
        inputs: Mapping[str, pa.RecordBatch],
        tmp_path: Path,
    ) -> None:
        """Each is one that came in, or a child of such with the root of one of them."""
        made = self.gathered(_whole(inputs), params, connection, tmp_path)
        check_unique(ids(made))
        came = {row["_id"]: row for rows in inputs.values() for row in rows.to_pylist()}
        for row in rows_of(made):
            if row["_id"] in came:
                check_same([row], [came[row["_id"]]], "a record")
                continue
            parents = [came[parent] for parent in row["_parent_ids"]]
            assert parents, "a record was made of none"
            assert row["_root_id"] in {parent["_root_id"] for parent in parents}

    def test_cuts_do_not_matter(
        self,
        params: Params,
        connection: Connection | None,
        inputs: Mapping[str, pa.RecordBatch],
        tmp_path: Path,
    ) -> None:
        """The same records come out in the same order however the batches are cut."""
        whole = rows_of(self.gathered(_whole(inputs), params, connection, tmp_path))
        again = rows_of(self.gathered(_whole(inputs), params, connection, tmp_path))
        check_same(again, whole, "again")
        for pieces in zip_longest(*(cuts(rows) for rows in inputs.values())):
            cut = {
                name: batches or [rows]
                for (name, rows), batches in zip(inputs.items(), pieces, strict=True)
            }
            check_same(rows_of(self.gathered(cut, params, connection, tmp_path)), whole, "cut")

    def test_may_be_interrupted_at_any_time(
        self,
        params: Params,
        connection: Connection | None,
        inputs: Mapping[str, pa.RecordBatch],
        tmp_path: Path,
    ) -> None:
        """Before, between and after its batches; and it may be left in the middle."""
        action: Any = self.build(params, connection)
        action.interrupt()
        made = action.gather(_whole(inputs), tmp_path)
        assert any(batch.num_rows for batch in made), "the fixtures must lead to some output"
        action.interrupt()
        made = action.gather(_whole(inputs), tmp_path)
        next(iter(made))
        made.close()
        action.interrupt()


def _whole(inputs: Mapping[str, pa.RecordBatch]) -> Inputs:
    return {name: [rows] for name, rows in inputs.items()}


def _gather(
    action: Any,  # noqa: ANN401 - an action of any params
    inputs: Inputs,
    scratch: Path,
) -> list[pa.RecordBatch]:
    return list(action.gather(inputs, scratch))
