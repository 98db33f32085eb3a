"""Runs in processes of their own: killed, terminated, spread over processes."""

import signal
import time

import dagster as dg
from dagster_project import QUIET, Project
from deployed import reconstructable_job


def wait_for(condition, seconds: float = 120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def slowly(project: Project, pause_seconds: float = 0.03):
    """Counting takes its time, so that a crash finds the stage half way."""
    nodes = project.graph["nodes"]
    nodes[0]["params"]["pause_seconds"] = pause_seconds
    project.settings = {"nodes": nodes, "checkpoint": {"interval_rows": 20}}


def test_a_killed_run_is_reexecuted_from_its_checkpoint(project: Project):
    project.rows = 300
    slowly(project)
    process = project.launch(NVISY_FAILPOINT="checkpoint.after_write:3")
    process.communicate(timeout=180)
    assert process.returncode == -signal.SIGKILL
    paid = len(project.paid_for())
    assert 60 <= paid < 300
    run = project.latest_run()
    assert run.status is dg.DagsterRunStatus.STARTED
    # What run monitoring does once it finds the process gone.
    project.instance.report_run_failed(run)

    again = dg.execute_job(
        reconstructable_job(project.folder),
        instance=project.instance,
        reexecution_options=dg.ReexecutionOptions.from_failure(run.run_id, project.instance),
        run_config=QUIET,
    )

    assert again.success
    assert project.written("paid") == list(range(300))
    assert project.written("free") == list(range(300))
    assert sorted(set(project.paid_for())) == list(range(300))
    # Three epochs of 20 were durable: only what came after them may be paid again.
    assert len(project.paid_for()) <= 300 - 60 + paid


def test_a_terminated_run_closes_its_clients_and_is_not_started_again(project: Project):
    slowly(project, 0.2)
    process = project.launch()
    wait_for(project.paid_for)
    run = project.latest_run()
    # What Dagster does when a person presses "Terminate".
    project.instance.report_run_canceling(run)
    process.send_signal(signal.SIGTERM)

    process.communicate(timeout=180)

    assert project.path("free.closed").exists()
    assert project.instance.get_run_by_id(run.run_id).status is dg.DagsterRunStatus.CANCELED
    events = project.instance.all_logs(run.run_id)
    kinds = [e.dagster_event.event_type_value for e in events if e.is_dagster_event]
    assert kinds.count("STEP_START") == 1
    assert "STEP_UP_FOR_RETRY" not in kinds

    project.settings = {}
    assert project.run().success
    assert project.written("paid") == list(range(100))


def test_a_stage_whose_process_dies_is_started_again(project: Project):
    slowly(project)
    count, _, _, _, free = project.settings["nodes"]
    project.settings |= {
        "nodes": [count, free],
        "edges": [{"from": "count", "to": "free"}],
        "execution": {"executor": "multiprocess"},
        "retry": {"max_retries": 3, "initial_delay_seconds": 0.01},
    }
    process = project.launch(NVISY_FAILPOINT="checkpoint.after_write:4")

    output, _ = process.communicate(timeout=180)

    assert process.returncode == 0, output
    events = project.instance.all_logs(project.latest_run().run_id)
    kinds = [e.dagster_event.event_type_value for e in events if e.is_dagster_event]
    assert "STEP_UP_FOR_RETRY" in kinds
    assert project.written("free") == list(range(100))
