"""Actions and routers with one bug each; `test_planted_bugs.py` demands that the suites find it.

Named so that the ordinary run of the tests does not collect it.
"""

from collections.abc import Mapping

import anyio
import numpy as np
import pyarrow as pa
import pytest
import test_acme_sqlite as sound
from acme_sqlite.action import Lines, LinesParams
from acme_sqlite.router import ByLength

from nvisy_dagster.sdk import (
    Params,
)
from nvisy_dagster.sdk.identity import ids_to_array, ulids

rows = sound.rows


def replaced(batch: pa.RecordBatch, name: str, column: pa.Array) -> pa.RecordBatch:
    place = batch.schema.get_field_index(name)
    return batch.set_column(place, batch.schema.field(name), column)


class FirstOfBatch(Lines):
    """Treat the first row of a batch in a way of its own."""

    def transform(self, batch):
        out = super().transform(batch)
        texts = out.column("text").to_pylist()
        texts[:1] = [text.upper() for text in texts[:1]]
        return replaced(out, "text", pa.array(texts, pa.string()))


class TestActionDependsOnCuts(sound.TestLines):
    component = FirstOfBatch


class RandomLines(Lines):
    """Give ids that change from run to run."""

    def transform(self, batch):
        out = super().transform(batch)
        return replaced(out, "_id", ids_to_array(ulids(out.num_rows)))


class TestActionRandomIds(sound.TestLines):
    component = RandomLines


class SameIds(Lines):
    """Give all lines of a document one id."""

    def transform(self, batch):
        out = super().transform(batch)
        return replaced(out, "_id", out.column("_root_id"))


class TestActionDoublesIds(sound.TestLines):
    component = SameIds


class Orphans(Lines):
    """Name parents that nobody knows."""

    def transform(self, batch):
        out = super().transform(batch)
        strangers = ids_to_array(np.ones((out.num_rows, 2), np.uint64))
        offsets = pa.array(range(out.num_rows + 1), pa.int32())
        kind = out.schema.field("_parent_ids").type
        lists = pa.ListArray.from_arrays(offsets, strangers, type=kind)
        return replaced(out, "_parent_ids", lists)


class TestActionWrongParents(sound.TestLines):
    component = Orphans


class Uprooted(Lines):
    """Make every record a root of its own."""

    def transform(self, batch):
        out = super().transform(batch)
        return replaced(out, "_root_id", out.column("_id"))


class TestActionWrongRoots(sound.TestLines):
    component = Uprooted


class Shared(Lines):
    """Keep the batch of a call where another call finds it."""

    async def apply(self, batch):
        self.batch = batch
        await anyio.sleep(0.001)
        return self.transform(self.batch)


class TestActionMixesCalls(sound.TestLines):
    component = Shared


class Undocumented(Lines):
    pass


class TestNoDocstring(sound.TestLines):
    component = Undocumented


class MuteParams(LinesParams):
    """Params, one without a word."""

    mute: int = 0


class Mute(Lines):
    """Have a param that nobody explains."""

    params_type = MuteParams


class TestNoParamDocs(sound.TestLines):
    component = Mute

    @pytest.fixture
    def params(self):
        return MuteParams()


class HiddenParams(Params):
    """Params that JSON cannot carry."""

    kind: type = str
    """A Python class."""


class Hidden(Lines):
    """Have params that cannot be written as JSON."""

    params_type = HiddenParams


class TestParamsNotJson(sound.TestLines):
    component = Hidden

    @pytest.fixture
    def params(self):
        return HiddenParams()


class Doubling(ByLength):
    """Send long records down both routes."""

    async def route(self, batch) -> Mapping[str, pa.RecordBatch]:
        routes = await super().route(batch)
        return {"long": routes["long"], "short": batch}


class TestRouterDoubles(sound.TestByLength):
    component = Doubling


class Misnamed(ByLength):
    """Use a route that it does not name."""

    async def route(self, batch) -> Mapping[str, pa.RecordBatch]:
        routes = await super().route(batch)
        return {"long": routes["long"], "brief": routes["short"]}


class TestRouterUnknownRoute(sound.TestByLength):
    component = Misnamed


class Positional(ByLength):
    """Route by the place in the batch."""

    async def route(self, batch) -> Mapping[str, pa.RecordBatch]:
        return {"long": batch.slice(0, 1), "short": batch.slice(1)}


class TestRouterDependsOnCuts(sound.TestByLength):
    component = Positional
