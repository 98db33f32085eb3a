"""The ways in: a workspace, an existing deployment, a component; and what is kept between ops."""

import json
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster_project import QUIET, Project
from toys import registry

import nvisy_dagster
from nvisy_dagster.translator import component
from nvisy_dagster.translator.definitions import build_definitions, load_one
from nvisy_dagster.translator.instance import open_instance

ROOT = Path(nvisy_dagster.__file__).parent.parent


def test_importing_the_package_does_not_import_dagster():
    code = "import sys, nvisy_dagster.compiler; assert 'dagster' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert nvisy_dagster.build_definitions is build_definitions
    with pytest.raises(AttributeError, match="build_definition"):
        _ = nvisy_dagster.build_definition


class Unpickler(dg.IOManager):
    """The IO manager of a deployment; ours must never be asked of it."""

    def handle_output(self, context, obj):
        raise AssertionError("asked to keep something of a graph")

    def load_input(self, context):
        raise AssertionError("asked for something of a graph")


def test_a_graph_merges_into_a_deployment_and_keeps_its_own_io_manager(project: Project):
    @dg.asset(deps=[dg.AssetKey(["bill", "paid"])], io_manager_key="other")
    def report() -> int:
        return 1

    theirs = dg.Definitions(
        assets=[report],
        resources={"io_manager": Unpickler(), "other": dg.mem_io_manager},
        jobs=[dg.define_asset_job("all_of_it")],
    )
    merged = dg.Definitions.merge(project.definitions(), theirs)

    result = merged.resolve_job_def("all_of_it").execute_in_process(
        instance=project.instance, run_config=QUIET
    )

    assert result.success
    manifests = list(project.path("state").joinpath("manifests").rglob("*"))
    files = [path for path in manifests if path.is_file()]
    assert [path.name for path in files] == ["pay.json"]
    assert files[0].parent.name == "bill__graph.count__pay__same__free"
    assert files[0].parent.parent.name == result.run_id
    assert json.loads(files[0].read_text())["output"] == "pay"


def test_an_asset_that_loads_a_nodes_records_is_told_how(project: Project):
    @dg.asset(ins={"pay": dg.AssetIn(key=dg.AssetKey(["bill", "pay"]))})
    def report(pay) -> None: ...

    project.run()
    alone = dg.define_asset_job("alone", selection=[report])
    merged = dg.Definitions.merge(
        project.definitions(), dg.Definitions(assets=[report], jobs=[alone])
    )

    result = merged.resolve_job_def("alone").execute_in_process(
        instance=project.instance, run_config=QUIET, raise_on_error=False
    )

    (event,) = [event for event in result.all_events if event.is_step_failure]
    assert 'with "deps"' in event.step_failure_data.user_failure_data.description


def test_definitions_that_are_built_apart_merge(project: Project):
    other = project.graph
    other["name"] = "other"
    other["nodes"][0]["params"]["uri"] = "toy://host/elsewhere"
    for node in (3, 4):
        other["nodes"][node]["params"]["uri"] = f"toy://host/other{node}"
    options = {"registry": registry(), "storage": project.path("state")}

    merged = dg.Definitions.merge(
        project.definitions(), build_definitions(project.write(other, "other"), **options)
    )

    assert {job.name for job in merged.resolve_all_job_defs()} >= {"bill", "other"}


def test_the_job_says_how_it_runs(project: Project):
    project.settings = {
        "schedule": {"cron": "0 3 * * *", "timezone": "Europe/Berlin"},
        "timeout": {"graph_seconds": 100},
    }
    definitions = project.definitions()

    job = definitions.resolve_job_def("bill")
    schedule = definitions.resolve_schedule_def("bill_schedule")
    assert job.executor_def.name == "in_process"
    # Dagster's pages and schedules take the run tags, a launch through the API the others.
    assert job.run_tags == {"nvisy/graph": "bill", "dagster/max_runtime": "160"}
    assert job.run_tags.items() <= job.tags.items()
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("0 3 * * *", "Europe/Berlin")
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    project.settings = {"execution": {"executor": "multiprocess"}}
    assert project.job().executor_def.name == "multiprocess"


def test_a_connection_is_a_pool(project: Project):
    nodes = project.graph["nodes"]
    nodes[3]["connection"] = "store"
    project.settings = {"nodes": nodes}
    project.path("connections.json").write_text('{"store": {"type": "toy"}}')

    pools = {op.name: op.pool for op in project.job().all_node_defs if hasattr(op, "pool")}

    assert pools["bill__stage__paid"] == "store"
    assert pools["bill__stage__count__pay__same__free"] is None


def test_a_pool_that_is_named_goes_before_that_of_a_connection(project: Project):
    nodes = project.graph["nodes"]
    nodes[3]["connection"] = "store"
    project.settings = {"nodes": nodes, "concurrency": {"pool": "nightly"}}
    connections = project.path("connections.json")

    connections.write_text('{"store": {"type": "toy", "concurrency": {"pool": "narrow"}}}')
    pools = {op.name: op.pool for op in project.job().all_node_defs if hasattr(op, "pool")}

    assert pools["bill__stage__paid"] == "narrow"
    assert pools["bill__stage__count__pay__same__free"] == "nightly"


def test_the_workspace_loads_the_graphs_of_a_folder(project: Project):
    document = yaml.safe_load((ROOT / "workspace.yaml").read_text())
    module = document["load_from"][0]["python_module"]["module_name"]
    broken = project.graph
    broken["nodes"][0]["connector"] = "locl"
    project.write(broken)

    done = subprocess.run(
        [sys.executable, "-c", f"import {module}"],
        env={**os.environ, "NVISY_GRAPHS": str(project.folder)},
        capture_output=True,
        text=True,
        check=False,
    )

    # Those that are sound are loaded, see test_wrong_graphs.py.
    assert done.returncode == 0, done.stderr
    assert 'unknown connector "locl" (did you mean "local"?)' in done.stderr
    assert "$.nodes[0].connector" in done.stderr
    assert "bill.json" in done.stderr


def test_the_instances_configuration_is_sound(tmp_path: Path):
    with open_instance(tmp_path / "home") as instance:
        assert (tmp_path / "home" / "dagster.yaml").read_text() == (
            ROOT / "dagster.yaml"
        ).read_text()
        assert instance.run_monitoring_enabled
        assert not instance.telemetry_enabled
        queue = instance.get_concurrency_config().run_queue_config
        assert queue.tag_concurrency_limits == [
            {"key": "nvisy/graph", "value": {"applyLimitPerUniqueValue": True}, "limit": 1}
        ]


@pytest.fixture
def components(project: Project, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of components, whose graphs are made of this test's components."""
    monkeypatch.setattr(
        component, "load_one", lambda *a, **k: load_one(*a, registry=registry(), **k)
    )
    compile_graph = component.compile_graph
    monkeypatch.setattr(
        component, "compile_graph", lambda *a, **k: compile_graph(*a, registry=registry(), **k)
    )
    monkeypatch.setenv("NVISY_STORAGE", str(project.path("state")))
    name = f"components_{project.folder.name}"
    package = project.folder / name
    for folder in ("", "defs"):
        (package / folder).mkdir()
        (package / folder / "__init__.py").touch()
    (project.folder / "pyproject.toml").write_text(
        f'[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "{name}"\n'
    )
    monkeypatch.syspath_prepend(str(project.folder))
    return package / "defs"


def write_component(folder: Path, attributes: dict) -> None:
    folder.mkdir(exist_ok=True)
    document = {"type": "nvisy_dagster.NvisyGraph", "attributes": attributes}
    (folder / "defs.yaml").write_text(yaml.safe_dump(document))


def test_graphs_are_components(project: Project, components: Path):
    write_component(components / "bill", {"graph": "bill.json"})
    (components / "bill" / "bill.json").write_text(json.dumps(project.graph))
    inline = project.graph
    inline["name"] = "inline"
    inline["nodes"][0]["params"]["uri"] = "toy://host/table"
    inline["nodes"][3]["params"]["uri"] = "toy://host/free"
    write_component(components / "inline", {"graph": inline, "preview": False})

    definitions = dg.load_from_defs_folder(path_within_project=project.folder)

    graph = definitions.resolve_asset_graph()
    free = graph.get(dg.AssetKey(["toy:host", "free"]))
    assert {key.to_user_string() for key in free.parent_keys} >= {"bill/free"}
    count = graph.get(dg.AssetKey(["inline", "count"]))
    assert {key.to_user_string() for key in count.parent_keys} == {"toy:host/table"}
    result = project.run(job=definitions.resolve_job_def("bill"))
    assert result.success


def test_a_component_tells_its_graphs_mistakes(project: Project, components: Path):
    broken = project.graph
    broken["nodes"][1]["action"] = "payy"
    write_component(components / "broken", {"graph": broken})

    with pytest.raises(Exception, match="broken") as caught:
        dg.load_from_defs_folder(path_within_project=project.folder).get_repository_def()

    texts = []
    error = caught.value
    while error is not None:
        texts.append(str(error))
        error = error.__cause__ or error.__context__
    assert any('unknown action "payy" (did you mean "pay"?)' in text for text in texts)


def test_a_component_may_be_built_alone(project: Project, components: Path):
    alone = component.NvisyGraph(graph=project.graph, folder=str(project.folder))

    definitions = dg.build_defs_for_component(alone)

    assert definitions.resolve_job_def("bill").name == "bill"
