"""A schedule that fires: in a real deployment, by the minute."""

import os
import signal
from itertools import pairwise
from typing import Any

import pytest
from cli.served import Served, serving
from cli.test_run_retries import EPOCH_ROWS, ROWS, paid, slow_graph
from engine.counting import numbers_in

pytestmark = [pytest.mark.timeout(600), pytest.mark.soak]

TICKS = """query($selector: ScheduleSelector!) {scheduleOrError(scheduleSelector: $selector) {
  ... on Schedule {scheduleState {status ticks(limit: 20) {status skipReason runIds}}}
}}"""


def ticks(served: Served, name: str) -> list[dict[str, Any]]:
    selector = {
        "repositoryLocationName": "nvisy_dagster.translator.workspace",
        "repositoryName": "__repository__",
        "scheduleName": name,
    }
    state = served.ask(TICKS, selector=selector)["scheduleOrError"]["scheduleState"]
    assert state["status"] == "RUNNING"
    return state["ticks"]


def test_by_the_minute(start, here, environment):
    """The first run takes several minutes: a second one waits for it, and no third one does."""
    schedule = {"cron": "* * * * *", "timezone": "Europe/Berlin"}
    slow_graph(here, "often", schedule=schedule, tags={"team": "sales"}, pause_seconds=3.0)
    with serving(start, here, environment=environment) as served:
        first = served.wait(lambda: served.runs("often"), 120)[0]
        assert (
            first["tags"].items()
            >= {
                "team": "sales",
                "nvisy/graph": "often",
                "dagster/schedule_name": "often_schedule",
            }.items()
        )
        skipped = served.wait(
            lambda: [t for t in ticks(served, "often_schedule") if t["status"] == "SKIPPED"], 240
        )
        assert skipped[0]["skipReason"] == "a run of often waits already"
        second, started = served.runs("often")
        assert (second["status"], started["status"]) == ("QUEUED", "STARTED")
        # Its worker is killed: the one that waits goes on from there.
        os.kill(served.worker(first["runId"]), signal.SIGKILL)
        assert served.ended(second["runId"], 200) == "SUCCESS"
        assert numbers_in(here / "often" / "t.db") == list(range(ROWS))
        assert ROWS <= len(paid(here, "often")) <= ROWS + 3 * EPOCH_ROWS
        ended = [run for run in served.runs("often") if run["endTime"]]
        spans = sorted((run["startTime"], run["endTime"]) for run in ended)
        assert all(a[1] <= b[0] for a, b in pairwise(spans))
