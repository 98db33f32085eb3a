"""Replaying dead letters as a Dagster job, killed and launched again."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pyarrow as pa
from dagster_project import QUIET, Project
from toys import registry

from nvisy_dagster.engine.dead_letter_box import ALL, DeadLetterBox
from nvisy_dagster.engine.lease import Lease
from nvisy_dagster.engine.replay_selection import replays_folder, select_letters
from nvisy_dagster.translator.definitions import build_definitions
from nvisy_dagster.translator.replay import REPLAY_TAG


def write(project: Project, *, refuse: list[int]) -> Path:
    """The graph; some numbers are refused by the sink of what was paid for."""
    graph = project.graph
    graph["nodes"][3]["params"]["refuse"] = refuse
    graph["nodes"][3]["on_error"] = "dead_letter"
    return project.write(graph)


def definitions(project: Project, *, refuse: list[int]) -> dg.Definitions:
    path = write(project, refuse=refuse)
    return build_definitions(path, storage=project.path("state"), registry=registry())


def execute(project: Project, definitions: dg.Definitions, job: str, **tags: str):
    return definitions.resolve_job_def(job).execute_in_process(
        instance=project.instance, raise_on_error=False, run_config=QUIET, tags=tags
    )


def box(project: Project) -> DeadLetterBox:
    return DeadLetterBox(project.path("state"), "bill")


def test_a_graph_has_a_job_that_replays(project: Project) -> None:
    failing = definitions(project, refuse=[7, 8])
    assert execute(project, failing, "bill").success
    assert box(project).letters().num_rows == 2
    # Without a tag: all that are open, and there is nothing to configure.
    run = execute(project, definitions(project, refuse=[8]), "bill__replay")
    assert run.success
    assert project.written() == [n for n in range(100) if n != 8]
    [left] = box(project).letters().to_pylist()
    assert (left["position"], left["attempt"], left["run_id"]) == (8, 2, run.run_id)
    statuses = {x["position"]: x["marked_by"] for x in box(project).letters(ALL).to_pylist()}
    assert statuses == {7: run.run_id, 8: None}
    # What was paid for stays paid for.
    assert project.paid_for() == list(range(100))
    [observation] = run.asset_observations_for_node("bill__replay__letters")
    assert observation.asset_key == dg.AssetKey(["bill", "paid"])
    assert observation.metadata["through"].value == 1
    # A plain run after it is a full one.
    assert execute(project, definitions(project, refuse=[]), "bill").success
    assert project.written() == list(range(100))


def test_assets_show_the_letters_that_are_open(project: Project) -> None:
    def paid(run: dg.ExecuteInProcessResult) -> dict[str, int | None]:
        [event] = [
            event
            for event in run.all_events
            if event.is_step_materialization and event.asset_key == dg.AssetKey(["bill", "paid"])
        ]
        metadata = event.materialization.metadata
        names = ("open_dead_letters", "superseded")
        return {name: metadata[name].value if name in metadata else None for name in names}

    run = execute(project, definitions(project, refuse=[7, 8]), "bill")
    assert paid(run) == {"open_dead_letters": 2, "superseded": None}
    # The second run closes what it gets past the node.
    run = execute(project, definitions(project, refuse=[8]), "bill")
    assert paid(run) == {"open_dead_letters": 1, "superseded": 1}
    replay = execute(project, definitions(project, refuse=[]), "bill__replay")
    [observation] = replay.asset_observations_for_node("bill__replay__letters")
    assert observation.metadata["letters"].value == 1
    run = execute(project, definitions(project, refuse=[]), "bill")
    assert paid(run) == {"open_dead_letters": None, "superseded": None}


def test_the_tag_names_the_letters(project: Project) -> None:
    execute(project, definitions(project, refuse=[7, 8]), "bill")
    mended = definitions(project, refuse=[])
    letters = box(project).letters()
    chosen = letters.filter(pa.compute.field("position") == 8)
    selection = select_letters(project.path("state"), "bill", chosen)
    run = execute(project, mended, "bill__replay", **{REPLAY_TAG: selection.id})
    assert run.success
    assert [x["position"] for x in box(project).letters().to_pylist()] == [7]
    # Dagster's retry of a run that came to its end finds nothing to do.
    assert execute(project, mended, "bill__replay", **{REPLAY_TAG: selection.id}).success
    assert [x["position"] for x in box(project).letters().to_pylist()] == [7]
    wrong = execute(project, mended, "bill__replay", **{REPLAY_TAG: "../../etc/passwd"})
    assert not wrong.success


def test_a_failed_replay_is_retried_and_tells_why(project: Project) -> None:
    execute(project, definitions(project, refuse=[7]), "bill")
    project.path("fail").touch()
    mended = definitions(project, refuse=[])
    failed = execute(project, mended, "bill__replay")
    [event] = [e for e in failed.all_events if e.is_step_failure]
    failure = event.step_failure_data.user_failure_data
    assert failure.metadata["node"].value == "paid"
    assert failure.metadata["tag"].value == "config"
    assert box(project).letters().num_rows == 1
    project.path("fail").unlink()
    project.path("busy").touch()
    busy = execute(project, mended, "bill__replay")
    assert any(event.event_type_value == "STEP_UP_FOR_RETRY" for event in busy.all_events)
    project.path("busy").unlink()
    assert execute(project, mended, "bill__replay").success
    assert box(project).letters().num_rows == 0
    assert project.written() == list(range(100))


def test_a_replay_that_is_killed_goes_on(project: Project) -> None:
    execute(project, definitions(project, refuse=list(range(0, 100, 2))), "bill")
    write(project, refuse=[])

    def replay(failpoint: str) -> int:
        command = [sys.executable, "-m", "dagster", "job", "execute", "-f"]
        command += [str(Path(__file__).parent / "deployed.py"), "-j", "bill__replay"]
        environment = {
            **os.environ,
            "DAGSTER_HOME": str(project.home),
            "NVISY_TEST_PROJECT": str(project.folder),
            "NVISY_FAILPOINT": failpoint,
        }
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=180, check=False
        )
        assert done.returncode in {0, -signal.SIGKILL}, done.stdout + done.stderr
        return done.returncode

    for failpoint in ("sink.after_write:1", "replay.before_mark:1"):
        assert replay(failpoint) == -signal.SIGKILL
        assert box(project).letters().num_rows == 50
    assert replay("") == 0
    assert box(project).letters().num_rows == 0
    assert project.written() == list(range(100))
    assert json.loads(project.path("bill.json").read_text())["name"] == "bill"


def test_a_run_does_not_start_beside_a_replay(project: Project) -> None:
    built = definitions(project, refuse=[])
    with Lease(replays_folder(project.path("state"), "bill"), "the replay"):
        refused = execute(project, built, "bill")
    assert not refused.success
    assert not project.paid_for()
    assert execute(project, built, "bill").success
