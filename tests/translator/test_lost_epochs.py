"""A sink that loses an epoch: the stage begins again in place, and Dagster sees one step."""

from collections import Counter

import dagster as dg
import losing
import pytest
from dagster_project import Project


@pytest.fixture
def lossy(project: Project) -> Project:
    project.settings = {
        "nodes": [
            {"id": "count", "type": "source", "connector": "toy", "params": {"rows": 100}},
            {
                "id": "paid",
                "type": "sink",
                "connector": "losing",
                "params": {"path": str(project.path("paid.db")), "lose_at": [15, 55, 99]},
            },
        ],
        "edges": [{"from": "count", "to": "paid"}],
        "checkpoint": {"interval_rows": 20},
    }
    return project


def kinds(project: Project, run_id: str) -> Counter[str]:
    events = [one for one in project.instance.all_logs(run_id) if one.is_dagster_event]
    return Counter(event.dagster_event.event_type_value for event in events)


def test_a_lost_epoch_is_done_again_within_the_step(lossy: Project):
    lossy.settings["retry"] = {"max_retries": 2, "initial_delay_seconds": 0.01}

    result = lossy.run(job=lossy.job(registry=losing.registry()))

    assert result.success
    # The table takes no row twice.
    assert lossy.written() == list(range(100))
    seen = kinds(lossy, result.run_id)
    assert seen["STEP_START"] == 1
    assert seen["STEP_UP_FOR_RETRY"] == 0
    made = {
        event.asset_key.to_user_string(): event.step_materialization_data.materialization.metadata
        for event in result.all_events
        if event.event_type is dg.DagsterEventType.ASSET_MATERIALIZATION
    }
    counts = {key.split("/")[-1]: metadata for key, metadata in made.items()}
    assert counts["count"]["records_out"].value == 100
    assert counts["paid"]["records_in"].value == 100
    assert counts["paid"]["records_out"].value == 100


def test_lost_more_often_than_the_retries_the_step_is_retried_from_its_checkpoint(lossy: Project):
    # Both are in the first write: the one restart that there may be loses it again.
    lossy.settings["nodes"][1]["params"]["lose_at"] = [5, 7]
    lossy.settings["retry"] = {"max_retries": 1, "initial_delay_seconds": 0.01}

    result = lossy.run(job=lossy.job(registry=losing.registry()))

    assert result.success
    assert lossy.written() == list(range(100))
    seen = kinds(lossy, result.run_id)
    assert seen["STEP_UP_FOR_RETRY"] == 1


def test_without_retries_the_run_fails_and_the_next_one_goes_on(lossy: Project):
    lossy.settings["retry"] = {"max_retries": 0}
    job = lossy.job(registry=losing.registry())

    failed = [lossy.run(job=job) for _ in range(3)]

    assert not any(result.success for result in failed)
    assert lossy.run(job=job).success
    assert lossy.written() == list(range(100))
