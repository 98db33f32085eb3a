"""Actions that go by what came before, with one bug each; `test_planted_bugs.py` demands that the
suite finds it.

Named so that the ordinary run of the tests does not collect it.
"""

import numpy as np
import pyarrow as pa
import pytest

from nvisy_dagster.sdk import Capabilities, Params, SequentialAction
from nvisy_dagster.sdk.envelope import with_envelope
from nvisy_dagster.sdk.identity import root_ids
from nvisy_dagster.sdk.testing import SequentialActionConformance


class NoParams(Params):
    """None."""


class FirstFive(SequentialAction[NoParams]):
    """Let five records through, in pairs."""

    name = "first_five"
    capabilities = Capabilities()

    def begin(self, taken):
        self.taken = taken
        self.held = []

    def output(self, incoming):
        return incoming

    def take(self, batch):
        self.held.append(batch.slice(0, max(0, 5 - self.taken)))
        self.taken += batch.num_rows
        return self.flush() if len(self.held) > 1 else ()

    def flush(self):
        held, self.held = self.held, []
        return held

    def has_enough(self):
        return self.taken >= 5


class Suite(SequentialActionConformance):
    component = FirstFive

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


class Forgets(FirstFive):
    """Begin from nothing every time."""

    def begin(self, taken):
        super().begin(0)


class TestSequentialForgets(Suite):
    component = Forgets


class KeepsSome(FirstFive):
    """Hold something back when it is flushed."""

    def flush(self):
        held, self.held = self.held[:-1], self.held[-1:]
        return held


class TestSequentialKeepsSome(Suite):
    component = KeepsSome


class EachBatch(FirstFive):
    """Let five records of each batch through."""

    def take(self, batch):
        return [batch.slice(0, 5)]

    def has_enough(self):
        return False


class TestSequentialDependsOnCuts(Suite):
    component = EachBatch


class EarlyEnough(FirstFive):
    """Have enough one record early."""

    def has_enough(self):
        return self.taken >= 4


class TestSequentialEnoughTooEarly(Suite):
    component = EarlyEnough


class Loses(FirstFive):
    """Drop records without declaring it."""

    drops = False


class TestSequentialLosesRecord(Suite):
    component = Loses


class Backwards(FirstFive):
    """Turn the order round."""

    def flush(self):
        return super().flush()[::-1]


class TestSequentialMoves(Suite):
    component = Backwards
