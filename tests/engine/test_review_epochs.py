"""All that comes of one source record reaches a sink in one epoch, on every way it can take."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from counting import numbers_in
from review_graphs import action, graph, run, sink, source

from nvisy_dagster.engine.stage_context import StageContext

pytestmark = pytest.mark.anyio

BY3: dict[str, Any] = {
    "id": "by3",
    "type": "branch",
    "routes": [{"name": "yes", "when": "n % 3 = 0"}],
    "default": "no",
}


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels that hold a batch or two, so that the ways drift apart."""
    monkeypatch.setattr(
        "nvisy_dagster.engine.run.StageContext", partial(StageContext, channel_bytes=999)
    )


async def test_materialized_outputs_of_one_stage_meet_again(tmp_path: Path) -> None:
    """Twins go down different routes, are paid for, and meet in a sink that renews whole roots."""
    ledger = str(tmp_path / "ledger")
    out = tmp_path / "out.db"
    plan = graph(
        [
            source(rows=2000, batch_rows=20, pause_seconds=0.002),
            action("twice"),
            BY3,
            action("pay", "pay1", ledger=ledger),
            action("pay", "pay2", ledger=ledger),
            # One way is longer, so that the two are read at different speeds.
            action("spread", slow_every=2),
            sink("renewing", path=str(out)),
        ],
        "count twice",
        "twice by3",
        "by3 pay1 yes",
        "by3 pay2 no",
        "pay1 spread",
        "spread out",
        "pay2 out",
        checkpoint={"interval_rows": 100},
    )
    assert [len(stage.inputs) for stage in plan.stages] == [0, 2]
    await run(plan, tmp_path)
    assert numbers_in(out) == list(range(4000))


async def test_outputs_of_stages_of_different_depth_meet_again(tmp_path: Path) -> None:
    ledger = str(tmp_path / "ledger")
    out = tmp_path / "out.db"
    plan = graph(
        [
            source(rows=1000, batch_rows=20, pause_seconds=0.002),
            action("twice"),
            BY3,
            action("pay", "pay1", ledger=ledger),
            action("pay", "again", ledger=ledger),
            action("pay", "pay2", ledger=ledger),
            sink("renewing", path=str(out)),
        ],
        "count twice",
        "twice by3",
        "by3 pay1 yes",
        "by3 pay2 no",
        "pay1 again",
        "again out",
        "pay2 out",
        checkpoint={"interval_rows": 100},
    )
    assert [stage.id for stage in plan.stages][-1] == "out"
    assert len({plan.stage_of[o.node].id for o in plan.stages[-1].inputs}) == 2
    await run(plan, tmp_path)
    assert numbers_in(out) == list(range(2000))


async def test_stages_with_nothing_in_common_still_cut(tmp_path: Path) -> None:
    """Only what shares an origin must be one epoch; the rest keeps its checkpoints."""
    log = tmp_path / "log"
    plan = graph(
        [
            source(rows=600, batch_rows=20, pause_seconds=0.002),
            source("other", rows=600, batch_rows=20, pause_seconds=0.002),
            {**action("even", "even1"), "materialize": True},
            {**action("even", "even2"), "materialize": True},
            sink("awkward", log=str(log)),
        ],
        "count even1",
        "other even2",
        "even1 out",
        "even2 out",
        checkpoint={"interval_rows": 50},
    )
    await run(plan, tmp_path)
    assert log.read_text().count("out commit") > 1
