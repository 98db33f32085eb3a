"""Actions that join inputs, with one bug each; `test_planted_bugs.py` demands that the suite finds
it.

Named so that the ordinary run of the tests does not collect it.
"""

import numpy as np
import pyarrow as pa
import pytest

from nvisy_dagster.sdk import Capabilities, JoiningAction, Params
from nvisy_dagster.sdk.envelope import derive_joined, payload, with_envelope
from nvisy_dagster.sdk.identity import ids_to_array, root_ids, ulids
from nvisy_dagster.sdk.testing import JoiningActionConformance


class NoParams(Params):
    """None."""


class SideBySide(JoiningAction[NoParams]):
    """Join the n-th records of both inputs."""

    name = "side_by_side"
    capabilities = Capabilities()
    inputs = ("left", "right")
    makes = True

    def output_of(self, inputs):
        return inputs["left"]

    def gather(self, inputs, scratch):
        left, right = (list(inputs[name]) for name in self.inputs)
        self.count = 0
        if not left or not right:
            return
        left, right = (pa.Table.from_batches(one).combine_chunks() for one in (left, right))
        self.count = min(left.num_rows, right.num_rows)
        if self.count:
            one, other = (table.slice(0, self.count).to_batches()[0] for table in (left, right))
            yield self.made(one, other)

    def made(self, left, right):
        return derive_joined(left, right.column("_id"), payload(left), node_id=self.node_id)

    def traced(self):
        return 2 * self.count


class Suite(JoiningActionConformance):
    component = SideBySide

    @pytest.fixture
    def params(self):
        return NoParams()

    @pytest.fixture
    def rows(self):
        return numbers("left:")

    @pytest.fixture
    def others(self):
        return {"right": numbers("right:")}


def numbers(uri):
    places = np.arange(7)
    columns = pa.record_batch({"n": places})
    return with_envelope(columns, ids=root_ids(uri, places), uri=uri, positions=places)


class FirstBatches(SideBySide):
    """Join only the first batch of each."""

    def gather(self, inputs, scratch):
        yield from super().gather({n: list(some)[:1] for n, some in inputs.items()}, scratch)


class TestJoiningDependsOnCuts(Suite):
    component = FirstBatches


class RandomIds(SideBySide):
    """Make other ids each time."""

    def made(self, left, right):
        ids = ids_to_array(ulids(left.num_rows))
        made = super().made(left, right)
        return made.set_column(0, made.schema.field(0), ids)


class TestJoiningRandomIds(Suite):
    component = RandomIds


class OwnRoots(SideBySide):
    """Make each record a root."""

    def made(self, left, right):
        made = super().made(left, right)
        return made.set_column(2, made.schema.field(2), made.column(0))


class TestJoiningWrongRoots(Suite):
    component = OwnRoots


class Miscounting(SideBySide):
    """Count only one of the inputs."""

    def traced(self):
        return self.count


class TestJoiningMiscounts(Suite):
    component = Miscounting
