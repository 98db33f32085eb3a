"""A folder with sound graphs and wrong ones."""

import json
from typing import Any

import dagster as dg
import pytest
from dagster_project import QUIET, Project
from toys import registry

from nvisy_dagster.sdk import ConfigError
from nvisy_dagster.translator.definitions import build_definitions
from nvisy_dagster.translator.folder import folder_definitions


def loaded(project: Project) -> dg.Definitions:
    return folder_definitions(project.folder, storage=project.path("state"), registry=registry())


def wrong(project: Project, name: str, **more: Any) -> dict[str, Any]:
    graph = {**project.graph, "name": name, **more}
    graph["nodes"][1]["action"] = "payy"
    return graph


def failure(project: Project, definitions: dg.Definitions, job: str) -> str:
    result = definitions.resolve_job_def(job).execute_in_process(
        instance=project.instance, raise_on_error=False, run_config=QUIET
    )
    (event,) = [event for event in result.all_events if event.is_step_failure]
    return event.step_failure_data.user_failure_data.description


def test_the_sound_ones_stay_and_the_wrong_one_says_what_is_wrong(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    project.write()
    schedule = {"cron": "* * * * *"}
    project.write(wrong(project, "other", schedule=schedule), "any_file")

    definitions = loaded(project)

    definitions.get_repository_def()
    assert project.run(job=definitions.resolve_job_def("bill")).success
    job = definitions.resolve_job_def("other")
    for text in (job.description, failure(project, definitions, "other")):
        assert 'unknown action "payy" (did you mean "pay"?)' in text
        assert "any_file.json" in text
        assert "Reload" in text
    asset = definitions.resolve_asset_graph().get(dg.AssetKey(["wrong_graphs", "other"]))
    assert "payy" in asset.description
    assert not asset.is_materializable
    assert not list(definitions.schedules or [])
    assert 'unknown action "payy"' in caplog.text
    with pytest.raises(ConfigError, match="payy"):
        build_definitions(project.folder, storage=project.path("state"), registry=registry())


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": 7}', '{"name": "' + "x" * 500 + '"}'])
def test_whatever_is_in_the_file(project: Project, text: str) -> None:
    project.write()
    project.path("broken.json").write_text(text)
    definitions = loaded(project)
    definitions.get_repository_def()
    names = {job.name for job in definitions.resolve_all_job_defs()}
    assert {"bill", "bill__replay"} < names


def test_all_are_wrong(project: Project) -> None:
    project.write()
    project.path("connections.json").write_text('{"store": {"type": "nosuch"}, "x": 1}')
    definitions = loaded(project)
    definitions.get_repository_def()
    assert "connections" in failure(project, definitions, "bill")


def test_of_two_graphs_of_one_name_the_first_is_loaded(project: Project) -> None:
    project.write()
    project.write(name="twin")
    definitions = loaded(project)
    definitions.get_repository_def()
    assert project.run(job=definitions.resolve_job_def("bill")).success
    assert "would be named 'bill'" in failure(project, definitions, "bill_2")


def test_a_component_that_breaks_harms_no_other_graph(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write()
    graph = json.loads(json.dumps(project.graph))
    graph["name"] = "odd"
    graph["nodes"][1]["params"]["pause_seconds"] = 7.0
    project.write(graph, "odd")
    from toys import PayAction

    output = PayAction.output

    def breaks(self: Any, incoming: Any) -> Any:
        if self.params.pause_seconds:
            raise RuntimeError("nobody thought of this")
        return output(self, incoming)

    monkeypatch.setattr(PayAction, "output", breaks)
    definitions = loaded(project)
    definitions.get_repository_def()
    assert project.run(job=definitions.resolve_job_def("bill")).success
    assert "nobody thought of this" in failure(project, definitions, "odd")
