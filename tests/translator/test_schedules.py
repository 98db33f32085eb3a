"""When a scheduled run is due, and the tags of runs. That it fires: `cli/test_schedule.py`."""

import dagster as dg
import pytest
from dagster_project import Project

TAGS = {"team": "sales", "dagster/max_retries": "2", "dagster/retry_strategy": "ALL_STEPS"}


def scheduled(project: Project) -> dg.Definitions:
    project.settings = {"schedule": {"cron": "* * * * *"}, "tags": TAGS}
    return project.definitions()


def tick(project: Project, definitions: dg.Definitions) -> tuple[int, str | None]:
    """How many runs it asks for, and why not."""
    schedule = definitions.resolve_schedule_def("bill_schedule")
    context = dg.build_schedule_context(
        instance=project.instance, repository_def=definitions.get_repository_def()
    )
    data = schedule.evaluate_tick(context)
    return len(data.run_requests or []), data.skip_message


@pytest.mark.parametrize(
    ("status", "asked"),
    [("STARTING", 0), ("STARTED", 1), ("NOT_STARTED", 1), ("FAILURE", 1), ("SUCCESS", 1)],
)
def test_at_most_one_run_waits(project: Project, status: str, asked: int) -> None:
    definitions = scheduled(project)
    assert tick(project, definitions) == (1, None)
    run = project.instance.create_run_for_job(
        definitions.resolve_job_def("bill"), status=dg.DagsterRunStatus(status)
    )
    try:
        why = None if asked else "a run of bill waits already"
        assert tick(project, definitions) == (asked, why)
    finally:
        project.instance.delete_run(run.run_id)


def test_runs_have_the_tags_of_their_graph(project: Project) -> None:
    definitions = scheduled(project)

    job = definitions.resolve_job_def("bill")

    wanted = {**TAGS, "nvisy/graph": "bill"}
    # Of a launch through the API Dagster looks at the one, of any other at the other.
    assert job.tags == job.run_tags == wanted
    assert project.run(job=job).dagster_run.tags.items() >= wanted.items()
    (count,) = [a for a in definitions.resolve_all_asset_specs() if a.key.path[-1] == "count"]
    assert count.tags["team"] == "sales"
    assert not [tag for tag in count.tags if tag.startswith("dagster/max")]
    definitions.get_repository_def()


def test_a_limit_of_time_is_a_tag_that_the_author_may_set_himself(project: Project) -> None:
    project.settings = {"timeout": {"graph_seconds": 100}}
    assert project.job().run_tags["dagster/max_runtime"] == "160"
    project.settings["tags"] = {"dagster/max_runtime": "500"}
    assert project.job().run_tags["dagster/max_runtime"] == "500"
