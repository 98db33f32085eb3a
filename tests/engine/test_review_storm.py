"""Runs of a tangled graph, cancelled at random moments until one ends: exactly once, counts add up.

Two sources of different speed, a branch whose routes meet again at different speeds, a fan-out, a
materialized output beside a streamed one, records that are refused.
"""

import random
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pyarrow as pa
import pytest
from counting import numbers_in
from review_graphs import action, graph, run, sink, source

from nvisy_dagster.compiler import Plan
from nvisy_dagster.engine.stage_context import StageContext

pytestmark = pytest.mark.anyio

ROWS = 1200


def tangled(tmp_path: Path) -> Plan:
    branch: dict[str, Any] = {
        "id": "by3",
        "type": "branch",
        "routes": [{"name": "yes", "when": "n % 3 = 0"}],
        "default": "no",
    }
    return graph(
        [
            source(rows=ROWS, batch_rows=40, pause_seconds=0.002),
            source("late", rows=ROWS, batch_rows=300, pause_seconds=0.02),
            action("twice"),
            branch,
            action("spread", "quick"),
            action("spread", "slow", slow_every=2),
            action("negate"),
            {
                **action("pay", ledger=str(tmp_path / "ledger"), poison=[7, 1111]),
                "on_error": "drop",
            },
            {
                **sink("table", "all", path=str(tmp_path / "all.db"), refuse=[9, 10]),
                "on_error": "dead_letter",
            },
            sink("table", "late_out", path=str(tmp_path / "late.db")),
            sink("renewing", "renewed", path=str(tmp_path / "renewed.db")),
        ],
        "count twice",
        "twice by3",
        "by3 quick yes",
        "by3 slow no",
        "quick all",
        "slow all",
        "late negate",
        "negate all",
        "late late_out",
        "twice pay",
        "pay renewed",
        checkpoint={"interval_rows": 150},
    )


@pytest.mark.parametrize("seed", range(3))
async def test_cancelled_until_it_ends(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = partial(StageContext, channel_bytes=5000)
    monkeypatch.setattr("nvisy_dagster.engine.run.StageContext", narrow)
    moments = random.Random(seed)
    plan = tangled(tmp_path)
    result = None
    for attempt in range(40):
        with anyio.move_on_after(moments.uniform(0.02, 0.1) * (1 + attempt / 2)):
            result = await run(plan, tmp_path)
            break
    assert result is not None
    assert attempt > 0, "it was never cancelled"
    twins = range(2 * ROWS)
    assert Counter(numbers_in(tmp_path / "all.db", "t")) == Counter(
        [n for n in twins if n not in {9, 10}] + [-n for n in range(ROWS)]
    )
    assert numbers_in(tmp_path / "late.db") == list(range(ROWS))
    assert numbers_in(tmp_path / "renewed.db") == [n for n in twins if n not in {7, 1111}]
    letters = [
        letter["record"]["n"]
        for file in (tmp_path / "state").rglob("dead_letters/**/*.arrow")
        for letter in pa.ipc.open_file(file).read_all().to_pylist()
    ]
    assert sorted(letters) == [9, 10]
    counts = {node: m.counts for node, m in result.metrics.items()}
    assert counts["count"].records_out == counts["late"].records_out == ROWS
    assert (counts["all"].records_in, counts["all"].dead) == (3 * ROWS, 2)
    assert (counts["pay"].records_in, counts["pay"].dropped) == (2 * ROWS, 2)
    assert counts["twice"].records_out == 2 * ROWS
    for node, count in counts.items():
        if node not in {"count", "late", "twice"}:
            assert count.records_in == count.records_out + count.dropped + count.dead, node
