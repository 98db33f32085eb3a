"""Actions that need all records, with one bug each; `test_planted_bugs.py` demands that the suite
finds it.

Named so that the ordinary run of the tests does not collect it.
"""

import numpy as np
import pyarrow as pa
import pytest

from nvisy_dagster.sdk import BlockingAction, Capabilities, Params
from nvisy_dagster.sdk.envelope import with_envelope
from nvisy_dagster.sdk.identity import ids_to_array, root_ids, ulids
from nvisy_dagster.sdk.testing import BlockingActionConformance


class NoParams(Params):
    """None."""


class Backwards(BlockingAction[NoParams]):
    """Turn the order of all records round."""

    name = "backwards"
    capabilities = Capabilities()
    drops = False

    def output(self, incoming):
        return incoming

    def gather(self, records, scratch):
        for batch in reversed(list(records)):
            yield batch.take(pa.array(np.arange(batch.num_rows)[::-1]))


class Suite(BlockingActionConformance):
    component = Backwards

    @pytest.fixture
    def params(self):
        return NoParams()

    @pytest.fixture
    def rows(self):
        places = np.arange(7)
        columns = pa.record_batch({"n": places})
        return with_envelope(columns, ids=root_ids("n:", places), uri="n:", positions=places)

    def refused(self, rows):
        return []


class EachBatch(Backwards):
    """Take batch by batch."""

    def gather(self, records, scratch):
        for batch in records:
            yield batch.take(pa.array(np.arange(batch.num_rows)[::-1]))


class TestBlockingDependsOnCuts(Suite):
    component = EachBatch


class OneTooFew(Backwards):
    """Lose a record without declaring that it may."""

    def gather(self, records, scratch):
        for batch in super().gather(records, scratch):
            yield batch.slice(1)


class TestBlockingLosesRecord(Suite):
    component = OneTooFew


class NewIds(Backwards):
    """Give the records other ids."""

    def gather(self, records, scratch):
        for batch in super().gather(records, scratch):
            place = batch.schema.get_field_index("_id")
            ids = ids_to_array(ulids(batch.num_rows))
            yield batch.set_column(place, batch.schema.field("_id"), ids)


class TestBlockingNewIds(Suite):
    component = NewIds


class TwiceOver(Backwards):
    """Send on everything twice."""

    def gather(self, records, scratch):
        yield from super().gather(records, scratch)
        yield from super().gather(records, scratch)


class TestBlockingDoubles(Suite):
    component = TwiceOver


class MadeUp(Backwards):
    """Make a record of none."""

    def gather(self, records, scratch):
        made = list(super().gather(records, scratch))
        places = np.arange(100, 101)
        columns = pa.record_batch({"n": places})
        empty = with_envelope(columns, ids=root_ids("n:", places), uri="n:", positions=places)
        yield from made if sum(batch.num_rows for batch in made) else [empty]


class TestBlockingMakesUp(Suite):
    component = MadeUp
