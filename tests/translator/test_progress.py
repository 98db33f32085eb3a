"""What a run goes on with, and what it does again, whichever way Dagster starts it."""

import dagster as dg
import pytest
from dagster_project import QUIET, Project
from deployed import reconstructable_job

from nvisy_dagster.translator.execute import execute_plan

ROOT, BEHIND = "bill__graph.count__pay__same__free", "bill__graph.paid"


def reexecute(project: Project, run_id: str, *steps: str) -> dg.JobExecutionResult:
    """As Dagster's pages do: from failure, or the chosen steps."""
    if steps:
        options = dg.ReexecutionOptions(parent_run_id=run_id, step_selection=list(steps))
    else:
        options = dg.ReexecutionOptions.from_failure(run_id, project.instance)
    return dg.execute_job(
        reconstructable_job(project.folder),
        instance=project.instance,
        reexecution_options=options,
        run_config=QUIET,
    )


def failing(project: Project) -> dg.ExecuteInProcessResult:
    """A run whose second stage fails for good."""
    project.path("fail").touch()
    result = project.run()
    project.path("fail").unlink()
    assert not result.success
    assert len(project.paid_for()) == 100
    return result


def executed(result: dg.JobExecutionResult) -> set[str]:
    return {event.step_key for event in result.all_events if event.is_step_start}


def test_dagster_starts_a_busy_stage_again_from_its_checkpoint(project: Project):
    project.path("busy").touch()
    retried = []

    def observe(metrics):
        # The stage fails with its own retries spent; once Dagster has it again, it is let through.
        events = project.instance.all_logs(run_id) if (run_id := latest_run(project)) else []
        if any(e.is_dagster_event and e.dagster_event.is_step_up_for_retry for e in events):
            retried.append(True)
            project.path("busy").unlink(missing_ok=True)

    result = project.run(job=project.job(observe=observe))

    assert result.success
    assert retried
    assert project.paid_for() == list(range(100))
    assert project.written() == list(range(100))


def latest_run(project: Project) -> str | None:
    runs = project.instance.get_runs(limit=1)
    return runs[0].run_id if runs else None


def test_a_failure_for_good_is_not_retried(project: Project):
    result = failing(project)

    assert not [event for event in result.all_events if event.is_step_up_for_retry]
    (failed,) = [event for event in result.all_events if event.is_step_failure]
    told = failed.step_failure_data.user_failure_data
    assert told.description == ("node 'paid': the server refuses 'Bearer no key' (ask it nicely)")
    assert told.metadata["node"].value == "paid"
    assert told.metadata["remedy"].value == "ask it nicely"
    assert told.metadata["tag"].value == "config"


def test_a_second_launch_goes_on_with_what_failed(project: Project):
    failing(project)

    result = project.run()

    assert result.success
    assert project.paid_for() == list(range(100))
    assert project.written() == list(range(100))
    assert project.run().success
    assert project.paid_for() == [*range(100), *range(100)]


def test_a_fresh_launch_begins_anew(project: Project):
    failing(project)

    result = project.run(tags={"nvisy/fresh": "true"})

    assert result.success
    assert len(project.paid_for()) == 200


def test_reexecution_from_failure_resumes(project: Project):
    failed = failing(project)

    again = reexecute(project, failed.run_id)

    assert again.success
    assert executed(again) == {BEHIND}
    assert project.paid_for() == list(range(100))
    assert project.written() == list(range(100))
    # The chain is complete now: the next launch reads everything again.
    assert project.run().success
    assert len(project.paid_for()) == 200


def test_reexecuting_a_step_of_a_successful_run_does_that_step_again(project: Project):
    first = project.run()
    before = project.written_at("paid"), project.written_at("free")

    again = reexecute(project, first.run_id, BEHIND)

    assert again.success
    assert project.paid_for() == list(range(100))
    assert project.written_at("paid") > before[0]
    assert project.written_at("free") == before[1]

    # And the first step alone: it pays again, and what is behind it stays as it is.
    after = project.written_at("paid")
    assert reexecute(project, again.run_id, ROOT).success
    assert len(project.paid_for()) == 200
    assert project.written_at("paid") == after
    assert project.run().success
    assert len(project.paid_for()) == 300


def test_a_stage_behind_one_that_was_done_again_is_done_again(project: Project):
    first = project.run()
    project.path("fail").touch()
    failed = reexecute(project, first.run_id, ROOT, BEHIND)
    assert not failed.success
    before = project.written_at("paid")
    project.path("fail").unlink()

    assert project.run().success

    assert len(project.paid_for()) == 200
    assert project.written_at("paid") > before


def test_a_part_of_a_run_whose_data_are_gone_is_refused(project: Project):
    failed = failing(project)
    assert project.run(tags={"nvisy/fresh": "true"}).success

    again = reexecute(project, failed.run_id)

    assert not again.success
    (event,) = [event for event in again.all_events if event.is_step_failure]
    assert "launch the whole graph" in event.step_failure_data.user_failure_data.description


def manifests(project: Project) -> set[str]:
    """Runs that have some."""
    return {path.name for path in project.path("state").joinpath("manifests").iterdir()}


def test_manifests_of_runs_whose_records_are_gone_are_removed(project: Project):
    failed = failing(project)
    other = project.path("state") / "manifests" / "unreadable" / "a.json"
    other.parent.mkdir()
    other.write_text("{}")
    assert manifests(project) == {failed.run_id, "unreadable"}

    resumed = project.run()
    # The failed run's records are those that the second one went on with.
    assert manifests(project) == {failed.run_id, resumed.run_id, "unreadable"}
    last = project.run()

    assert last.success
    assert manifests(project) == {last.run_id, "unreadable"}


def test_a_failure_says_each_thing_once(project: Project):
    project.path("fail").touch()
    loaded = project.loaded()

    result = execute_plan(
        loaded.plan, loaded.connections, ephemeral=True, storage=project.path("state")
    )

    assert result.failure.message == "node 'paid': the server refuses 'Bearer no key'"
    assert result.failure.remedy == "ask it nicely"
    assert (result.failure.node, result.failure.tag) == ("paid", "config")
    assert not result.failure.retryable


def test_a_failure_that_may_pass_says_so(project: Project):
    project.path("busy").touch()
    loaded = project.loaded()

    result = execute_plan(
        loaded.plan, loaded.connections, ephemeral=True, storage=project.path("state")
    )

    assert result.failure.retryable


def test_storage_that_cannot_be_written_is_told(project: Project):
    project.path("state").write_text("in the way")

    result = project.run()

    (event,) = [event for event in result.all_events if event.is_step_failure]
    told = event.step_failure_data.user_failure_data
    assert f"the storage folder {project.path('state')} cannot be written" in told.description
    assert told.metadata["tag"].value == "storage"
    assert "NVISY_STORAGE" in told.metadata["remedy"].value


def test_several_first_stages_go_on_with_one_chain(project: Project):
    graph = project.graph
    graph["nodes"].append({
        "id": "count2",
        "type": "source",
        "connector": "toy",
        "params": {"rows": 30, "uri": "toy://host/more"},
    })
    graph["nodes"].append({
        "id": "pay2",
        "type": "action",
        "action": "pay",
        "params": {"ledger": str(project.path("ledger2"))},
    })
    graph["edges"] += [{"from": "count2", "to": "pay2"}, {"from": "pay2", "to": "paid"}]
    project.settings = {"nodes": graph["nodes"], "edges": graph["edges"]}
    failed = failing(project)

    again = reexecute(project, failed.run_id)

    assert again.success
    assert len(project.written()) == 130
    assert len(project.paid_for()) == 100
    assert project.run().success
    assert len(project.paid_for()) == 200


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Dagster's own
@pytest.mark.filterwarnings("ignore:coroutine 'BaseEventLoop.shutdown_asyncgens'")
def test_two_runs_at_once_do_not_mix(project: Project):
    project.settings = {"retry": {"max_retries": 0}}
    job = project.job()
    inner = []

    def observe(metrics):
        if not inner:
            inner.append(None)
            inner[0] = project.run(job=job)

    assert project.run(job=project.job(observe=observe)).success

    assert not inner[0].success
    (event,) = [event for event in inner[0].all_events if event.is_step_failure]
    told = event.step_failure_data.user_failure_data
    assert "is running this graph now" in told.description
    assert told.metadata["tag"].value == "conflict"
    assert project.paid_for() == list(range(100))


def test_the_run_is_told_when_it_takes_too_long(project: Project):
    graph = project.graph
    graph["nodes"][0]["params"] |= {"pause_seconds": 0.05}
    project.settings = {"nodes": graph["nodes"], "timeout": {"graph_seconds": 0.4}}

    result = project.run()

    (event,) = [event for event in result.all_events if event.is_step_failure]
    assert "took longer than 0.4 s" in event.step_failure_data.user_failure_data.description
    assert project.path("free.closed").exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Dagster's own
@pytest.mark.filterwarnings("ignore:coroutine 'BaseEventLoop.shutdown_asyncgens'")
@pytest.mark.anyio
async def test_it_runs_inside_a_running_loop(project: Project):
    assert project.run().success
    assert project.written() == list(range(100))


def test_execute_plan_tells_what_happened(project: Project, capfd: pytest.CaptureFixture[str]):
    loaded = project.loaded()
    seen = []
    project.path("fail").touch()
    options = {
        "instance_home": project.home,
        "storage": project.path("state"),
        "observe": lambda metrics: seen.append([m.node for m in metrics]),
    }
    failed = execute_plan(loaded.plan, loaded.connections, **options)
    assert not failed.success
    assert failed.failure.node == "paid"
    assert "the server refuses" in failed.failure.message
    project.path("fail").unlink()

    result = execute_plan(loaded.plan, loaded.connections, **options)

    assert result.success
    assert result.resumed
    assert {m.node: m.counts.records_in for m in result.metrics}["paid"] == 100
    assert ["paid"] in seen
    assert project.instance.get_run_by_id(result.run_id).is_success
    assert capfd.readouterr() == ("", "")
    assert execute_plan(loaded.plan, loaded.connections, **options, ephemeral=True).success
