"""Runs whose worker died, and everything that could have told Dagster so with it."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import dagster as dg
from dagster_project import Project
from living_files import living_json
from test_processes import slowly, wait_for
from toys import registry

from nvisy_dagster.engine.storage import names
from nvisy_dagster.translator.dead_runs import SENSOR, dead_runs_sensor, report_dead_runs
from nvisy_dagster.translator.definitions import load_graphs, make_runtime, translate


def tick(project: Project) -> str:
    """What the sensor says."""
    sensor = dead_runs_sensor(project.path("state"))
    with dg.build_sensor_context(instance=project.instance) as context:
        told = sensor(context)
    assert isinstance(told, dg.SkipReason)
    return told.skip_message or ""


def status(project: Project, run: dg.DagsterRun) -> dg.DagsterRunStatus:
    found = project.instance.get_run_by_id(run.run_id)
    assert found is not None
    return found.status


def last_message(project: Project, run: dg.DagsterRun) -> str:
    return project.instance.all_logs(run.run_id)[-1].message


def killed(project: Project) -> dg.DagsterRun:
    project.rows = 300
    slowly(project)
    process = project.launch(NVISY_FAILPOINT="checkpoint.after_write:3")
    process.communicate(timeout=180)
    run = project.latest_run()
    assert run.status is dg.DagsterRunStatus.STARTED
    return run


def test_the_sensor_finds_a_run_whose_process_was_killed(project: Project) -> None:
    run = killed(project)

    assert run.run_id in tick(project)

    assert status(project, run) is dg.DagsterRunStatus.FAILURE
    assert "which ran it, is gone; the next launch of the graph goes on" in last_message(
        project, run
    )
    assert tick(project) == "every run is alive"
    assert names(project.path("state") / "runs") == []
    result = project.run()
    assert result.success, [
        str(e.step_failure_data)[-2500:] for e in result.all_events if e.is_step_failure
    ]
    assert project.written("paid") == list(range(300))


def test_a_launch_that_goes_on_for_a_dead_run_reports_it(project: Project) -> None:
    run = killed(project)

    result = project.run()

    assert result.success
    assert status(project, run) is dg.DagsterRunStatus.FAILURE
    assert project.written("paid") == list(range(300))
    assert len(project.paid_for()) < 300 + 100


def test_a_run_that_lives_is_left_alone(project: Project) -> None:
    slowly(project, 1)
    process = project.launch(NVISY_LEASE_SECONDS="2")
    try:
        wait_for(project.paid_for)
        run = project.latest_run()
        for _ in range(5):
            assert tick(project) == "every run is alive"
            time.sleep(0.5)
        assert status(project, run) is dg.DagsterRunStatus.STARTED
    finally:
        process.kill()
        process.communicate()


def test_a_stopped_run_is_reported_once_it_is_silent_and_then_writes_no_more(
    project: Project,
) -> None:
    project.rows = 300
    slowly(project)
    process = project.launch(NVISY_LEASE_SECONDS="2")
    try:
        wait_for(project.paid_for)
        run = project.latest_run()
        process.send_signal(signal.SIGSTOP)
        assert tick(project) == "every run is alive"
        time.sleep(2.2)
        assert run.run_id in tick(project)
        assert status(project, run) is dg.DagsterRunStatus.FAILURE
        assert "has been silent for more than 2 s" in last_message(project, run)
        process.send_signal(signal.SIGCONT)
        output, _ = process.communicate(timeout=180)
        assert "took over from run" in output
    finally:
        process.kill()
        process.communicate()
    assert project.run().success
    assert project.written("paid") == list(range(300))
    assert project.written("free") == list(range(300))


def test_the_step_of_a_live_run_is_left_to_it(project: Project) -> None:
    """A step's process is gone, and its run is about to start it again."""
    project.rows = 100
    slowly(project)
    count, _, _, _, free = project.settings["nodes"]
    project.settings |= {
        "nodes": [count, free],
        "edges": [{"from": "count", "to": "free"}],
        "execution": {"executor": "multiprocess"},
        "retry": {"max_retries": 3, "initial_delay_seconds": 3},
    }
    before = project.instance.get_runs_count()
    process = project.launch(NVISY_FAILPOINT="checkpoint.after_write:2")
    try:
        wait_for(lambda: project.instance.get_runs_count() > before)
        run = project.latest_run()
        wait_for(lambda: "STEP_UP_FOR_RETRY" in kinds(project, run))
        assert tick(project) == "every run is alive"
        process.kill()
        process.wait()
        # Its processes may outlive it for a moment, and then nothing does.
        wait_for(lambda: run.run_id in tick(project))
        assert status(project, run) is dg.DagsterRunStatus.FAILURE
    finally:
        process.kill()
        process.communicate()


def kinds(project: Project, run: dg.DagsterRun) -> list[str]:
    events = project.instance.all_logs(run.run_id)
    return [e.dagster_event.event_type_value for e in events if e.dagster_event is not None]


def test_a_run_of_another_graph_is_not_asked_for(project: Project) -> None:
    run = killed(project)
    assert report_dead_runs(project.instance, project.path("state"), "other") == []
    assert status(project, run) is dg.DagsterRunStatus.STARTED


def test_every_deployment_has_the_sensor_once(project: Project) -> None:
    project.write({**project.graph, "name": "other"}, "other")
    files = [project.write(), project.path("other.json")]
    runtimes = [
        make_runtime(loaded, project.path("state"))
        for loaded in load_graphs(files, registry=registry())
    ]
    apart = [translate([runtime], runtimes) for runtime in runtimes]
    sensors = dg.Definitions.merge(*apart).get_repository_def().sensor_defs
    assert [sensor.name for sensor in sensors] == [SENSOR]
    sensor = dead_runs_sensor(project.path("state"))
    both = [apart[0], dg.Definitions(sensors=[sensor])]
    sensors = dg.Definitions.merge(*both).get_repository_def().sensor_defs
    assert [sensor.name for sensor in sensors] == [SENSOR]


COORDINATOR = """\
telemetry:
  enabled: false
run_coordinator:
  module: dagster._core.run_coordinator
  class: DefaultRunCoordinator
"""


def dagster(project: Project, *words: str) -> "subprocess.Popen[bytes]":
    """A process of Dagster's own, in a process group of its own."""
    with project.path("deployment.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", *words],
            env={
                **os.environ,
                "DAGSTER_HOME": str(project.home),
                "NVISY_TEST_PROJECT": str(project.folder),
            },
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def holder(project: Project) -> int:
    """Process number of who holds a lease."""
    for record in living_json(project.path("state"), "lease/*.json"):
        if not record["released"]:
            return record["pid"]
    return 0


def test_worker_and_code_server_are_killed(project: Project) -> None:
    """Nobody is left who would tell Dagster; the daemon finds out when it is started again."""
    (project.home / "dagster.yaml").write_text(COORDINATOR)
    project.rows = 300
    slowly(project)
    project.write()
    file = str(Path(__file__).parent / "deployed.py")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    workspace = project.path("workspace.yaml")
    workspace.write_text(
        f"load_from:\n  - grpc_server: {{host: 127.0.0.1, port: {port}, location_name: code}}\n"
    )
    server = dagster(
        project, *("dagster", "api", "grpc", "-f", file, "-h", "127.0.0.1", "-p", str(port))
    )
    try:
        wait_for(lambda: is_listening(port))
        launch = dagster(project, "dagster", "job", "launch", "-w", str(workspace), "-j", "bill")
        assert launch.wait(40) == 0, project.path("deployment.log").read_text()[-3000:]
        wait_for(project.paid_for)
        worker = holder(project)
        assert worker not in {0, server.pid}
        os.kill(worker, signal.SIGKILL)
    finally:
        kill_group(server)
    run = project.latest_run()
    assert run.status is dg.DagsterRunStatus.STARTED

    daemon = dagster(project, "dagster._daemon", "run", "-f", file)
    try:
        wait_for(lambda: status(project, run) is dg.DagsterRunStatus.FAILURE)
    finally:
        kill_group(daemon)

    assert f"the process {worker} on" in last_message(project, run)
    project.settings = {}
    slowly(project, 0)
    assert project.run().success
    assert project.written("paid") == list(range(300))
    assert project.written("free") == list(range(300))


def is_listening(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
