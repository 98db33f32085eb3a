"""Dagster's terminate, and signals: the run drains, ends CANCELED, and the next one goes on."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster_project import Project
from test_processes import wait_for

SELDOM = {"interval_seconds": 1000}
"""No barrier but the last one: what a drain does not commit is paid for again."""


def counting_slowly(project: Project, **settings: Any) -> None:
    """Counting takes its time; `pay` is kept between two stages, `free` streams."""
    project.rows = 200
    nodes = project.graph["nodes"]
    nodes[0]["params"]["pause_seconds"] = 0.05
    project.settings = {"nodes": nodes, "checkpoint": SELDOM, **settings}


def kinds_of(project: Project, run_id: str) -> list[str]:
    events = project.instance.all_logs(run_id)
    return [e.dagster_event.event_type_value for e in events if e.is_dagster_event]


def status(project: Project, run_id: str) -> dg.DagsterRunStatus:
    return project.instance.get_run_by_id(run_id).status


def terminate(project: Project, process: subprocess.Popen[str]) -> str:
    """What Dagster does when a person presses "Terminate"."""
    run = project.latest_run()
    project.instance.report_run_canceling(run)
    process.send_signal(signal.SIGTERM)
    return run.run_id


def check_next_run(project: Project) -> None:
    assert project.run().success
    assert project.written("paid") == list(range(200))
    assert project.written("free") == list(range(200))


@pytest.mark.parametrize("executor", ["in_process", "multiprocess"])
def test_a_terminated_run_drains(project: Project, executor: str):
    counting_slowly(project, execution={"executor": executor})
    process = project.launch()
    wait_for(project.paid_for)
    run_id = terminate(project, process)

    output, _ = process.communicate(timeout=180)

    assert status(project, run_id) is dg.DagsterRunStatus.CANCELED, output
    assert "what was under way is committed" in output
    kinds = kinds_of(project, run_id)
    assert kinds.count("STEP_START") == 1
    assert "STEP_UP_FOR_RETRY" not in kinds
    paid = project.paid_for()
    assert 0 < len(paid) < 200
    assert project.written("free") == paid
    project.settings["execution"] = {}
    check_next_run(project)
    # Nothing that had been paid for is paid again.
    assert project.paid_for() == list(range(200))


def test_past_the_limit_a_terminated_run_stops_at_once(project: Project):
    counting_slowly(project, timeout={"drain_seconds": 0.5})
    project.settings["nodes"][1]["params"]["pause_seconds"] = 30
    process = project.launch()
    wait_for(project.path("free.db").exists)
    wait_for(lambda: len(project.written("free")) > 20)
    run_id = terminate(project, process)

    output, _ = process.communicate(timeout=180)

    assert status(project, run_id) is dg.DagsterRunStatus.CANCELED, output
    assert "did not end within 0.5 s" in output
    assert "STEP_UP_FOR_RETRY" not in kinds_of(project, run_id)
    project.settings["nodes"][1]["params"]["pause_seconds"] = 0
    check_next_run(project)


def test_a_second_signal_stops_at_once(project: Project):
    counting_slowly(project, timeout={"drain_seconds": 50})
    project.settings["nodes"][1]["params"]["pause_seconds"] = 30
    process = project.launch()
    wait_for(project.path("free.db").exists)
    wait_for(lambda: len(project.written("free")) > 20)
    run_id = terminate(project, process)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.send_signal(signal.SIGTERM)

    output, _ = process.communicate(timeout=180)

    assert status(project, run_id) is dg.DagsterRunStatus.CANCELED, output
    assert "STEP_UP_FOR_RETRY" not in kinds_of(project, run_id)
    project.settings["nodes"][1]["params"]["pause_seconds"] = 0
    check_next_run(project)


class Webserver:
    """Dagster's own, with a code server: what a person's "Terminate" goes through."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/graphql"

    def ask(self, query: str, **variables: Any) -> Any:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            self._url, body, {"Content-Type": "application/json"}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=180) as answer:
                return json.loads(answer.read())["data"]
        except urllib.error.HTTPError as error:
            # Which its client would otherwise not read; what is wrong stands in the body.
            with error:
                raise AssertionError(error.read()) from error

    def answers(self) -> bool:
        try:
            return bool(self.ask("{version}"))
        except OSError:
            return False


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Project]:
    """A project whose instance starts a run at once, without the daemon and its queue."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text(AT_ONCE)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield Project(tmp_path, home, instance)


@pytest.fixture
def webserver(served: Project) -> Iterator[Webserver]:
    project = served
    counting_slowly(project)
    project.write()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    deployed = Path(__file__).parent / "deployed.py"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "dagster_webserver", "-f", str(deployed)),
            *("-h", "127.0.0.1", "-p", str(port)),
        ],
        env={
            **os.environ,
            "DAGSTER_HOME": str(project.home),
            "NVISY_TEST_PROJECT": str(project.folder),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    server = Webserver(port)
    try:
        wait_for(server.answers)
        yield server
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


AT_ONCE = """\
telemetry: {enabled: false}
run_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}
"""
LAUNCH = """
mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }
"""
TERMINATE = """
mutation($id: String!) { terminateRun(runId: $id, terminatePolicy: SAFE_TERMINATE) { __typename } }
"""


def test_terminate_on_dagsters_pages_drains(served: Project, webserver: Webserver):
    project = served
    selector = {
        "repositoryLocationName": "deployed.py",
        "repositoryName": "__repository__",
        "jobName": "bill",
    }
    launched = webserver.ask(LAUNCH, params={"selector": selector, "runConfigData": {}})
    assert launched["launchRun"]["__typename"] == "LaunchRunSuccess", launched
    run_id = launched["launchRun"]["run"]["runId"]
    wait_for(project.paid_for)

    assert webserver.ask(TERMINATE, id=run_id)["terminateRun"]["__typename"] == (
        "TerminateRunSuccess"
    )

    finished = {dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.FAILURE}
    wait_for(lambda: status(project, run_id) in finished)
    assert status(project, run_id) is dg.DagsterRunStatus.CANCELED
    time.sleep(0.2)
    paid = project.paid_for()
    assert 0 < len(paid) < 200
    assert project.written("free") == paid
    check_next_run(project)
    assert project.paid_for() == list(range(200))


def test_each_asset_shows_its_sum(project: Project):
    result = project.run()

    shown = {
        event.asset_key.path[-1]: event.materialization.metadata["sum"].value
        for event in result.all_events
        if event.is_step_materialization and "sum" in event.materialization.metadata
    }
    assert shown == {
        "count": "100 read = 100 sent + 0 dropped + 0 dead",
        "pay": "100 in = 100 passed on + 0 dropped + 0 dead",
        "same": "100 in = 100 passed on + 0 dropped + 0 dead",
        "paid": "100 in = 100 written + 0 dropped + 0 dead",
        "free": "100 in = 100 written + 0 dropped + 0 dead",
    }
