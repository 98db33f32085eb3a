"""Secrets reach neither the event log, nor the pages, nor what is printed."""

import json
from pathlib import Path

import dagster as dg
import pytest
from dagster_project import Project
from toys import registry

from nvisy_dagster import NvisyConnection
from nvisy_dagster.sdk import ConfigError
from nvisy_dagster.translator.definitions import build_definitions

SECRET = "s3cr3t-%41-value/with+signs"


def files_with(folder: Path, needles: list[bytes]) -> list[Path]:
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and any(needle in path.read_bytes() for needle in needles)
    ]


def connected(project: Project):
    nodes = project.graph["nodes"]
    nodes[3]["connection"] = nodes[1]["connection"] = "store"
    nodes[1]["params"]["crash_if"] = str(project.path("crash"))
    project.settings = {"nodes": nodes}
    project.path("connections.json").write_text(
        json.dumps({"store": {"type": "toy", "api_key": "${env:TOY_KEY}"}})
    )


def leaks(project: Project, home: Path) -> list[Path]:
    needles = [SECRET.encode(), json.dumps(SECRET)[1:-1].encode(), repr(SECRET)[1:-1].encode()]
    return files_with(home, needles) + files_with(project.path("state"), needles)


def test_a_server_that_echoes_the_key_leaks_nothing(project: Project, home: Path):
    connected(project)
    project.path("fail").touch()

    process = project.launch(TOY_KEY=SECRET)
    output, _ = process.communicate(timeout=180)

    assert process.returncode != 0
    assert "the server refuses 'Bearer ***'" in output
    assert SECRET not in output
    assert leaks(project, home) == []


def test_a_bug_that_shows_the_key_leaks_nothing(
    project: Project,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    monkeypatch.setenv("TOY_KEY", SECRET)
    connected(project)
    project.path("crash").touch()

    result = project.job().execute_in_process(instance=project.instance, raise_on_error=False)

    (event,) = [event for event in result.all_events if event.is_step_failure]
    told = event.step_failure_data.user_failure_data
    assert "unexpected KeyError: '***'" in told.description
    assert "raise KeyError(key)" in told.metadata["traceback"].value
    output = "".join(capfd.readouterr())
    assert "KeyError" in output
    assert SECRET not in output
    assert leaks(project, home) == []


def test_a_missing_variable_is_named(project: Project, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TOY_KEY", raising=False)
    nodes = project.graph["nodes"]
    nodes[3]["connection"] = "store"
    project.settings = {"nodes": nodes}
    project.path("connections.json").write_text(
        json.dumps({"store": {"type": "toy", "api_key": "${env:TOY_KEY}"}})
    )

    result = project.run()

    (event,) = [event for event in result.all_events if event.is_step_failure]
    description = event.step_failure_data.user_failure_data.description
    assert "TOY_KEY is not set" in description
    assert project.paid_for() == []


def test_a_connection_may_be_a_dagster_resource(project: Project, monkeypatch: pytest.MonkeyPatch):
    nodes = project.graph["nodes"]
    nodes[3]["connection"] = "store"
    project.settings = {"nodes": nodes}
    fields = {"url": "toy://resource", "api_key": dg.EnvVar("TOY_KEY")}
    store = NvisyConnection(type="toy", fields=fields)
    definitions = project.definitions(connections={"store": store})
    monkeypatch.setenv("TOY_KEY", SECRET)
    project.path("fail").touch()

    result = project.run(job=definitions.resolve_job_def("bill"))

    (event,) = [event for event in result.all_events if event.is_step_failure]
    assert "Bearer ***" in event.step_failure_data.user_failure_data.description
    shown = definitions.resources["store"].fields
    assert shown == {"url": "toy://resource", "api_key": "${env:TOY_KEY}"}
    assert dg.AssetKey(["toy:resource", "paid.db"]) in definitions.resolve_all_asset_keys()


def test_a_resource_with_a_literal_secret_is_refused(project: Project):
    store = NvisyConnection(type="toy", fields={"api_key": SECRET})

    with pytest.raises(ConfigError, match=r"store\.api_key: .*use dg\.EnvVar") as caught:
        build_definitions(project.write(), connections={"store": store}, registry=registry())

    assert SECRET not in str(caught.value)


def test_run_config_can_put_nothing_into_an_op(project: Project):
    job = project.job()
    inputs = {"pay": {"pickle": {"path": "/tmp/evil"}}}
    for config in ({"inputs": inputs}, {"config": {"x": {"env": "TOY_KEY"}}}):
        with pytest.raises(dg.DagsterInvalidConfigError):
            dg.validate_run_config(job, {"ops": {"bill__graph": {"ops": {"paid": config}}}})
