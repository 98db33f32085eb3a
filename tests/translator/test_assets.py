"""Plan -> assets: every node on the lineage page, graphs that meet where their data lies."""

from pathlib import Path

import dagster as dg
import pytest
from dagster_project import Project
from toys import registry

from nvisy_dagster.sdk import ConfigError
from nvisy_dagster.translator.definitions import build_definitions


def parents(definitions: dg.Definitions) -> dict[str, set[str]]:
    graph = definitions.resolve_asset_graph()
    return {
        key.to_user_string(): {parent.to_user_string() for parent in graph.get(key).parent_keys}
        for key in graph.get_all_asset_keys()
    }


def test_every_node_is_an_asset_in_the_chain_of_its_edges(project: Project):
    definitions = project.definitions()

    assert parents(definitions) == {
        "toy:host/numbers": set(),
        "bill/count": {"toy:host/numbers"},
        "bill/pay": {"bill/count"},
        "bill/same": {"bill/count"},
        "bill/paid": {"bill/pay"},
        "bill/free": {"bill/same"},
        "toy:host/table": {"bill/paid"},
        "toy:host/free": {"bill/free"},
    }
    graph = definitions.resolve_asset_graph()
    made = {key.to_user_string() for key in graph.materializable_asset_keys}
    assert made == {"bill/pay", "bill/paid", "bill/free"}


def test_two_graphs_meet_where_the_data_lies(project: Project):
    reader = project.graph
    reader["name"] = "reader"
    reader["nodes"][0]["params"]["uri"] = "toy://host/table/"
    reader["nodes"][3]["params"]["uri"] = "toy://host/other"
    files = [project.write(), project.write(reader, "reader")]

    found = parents(build_definitions(files, registry=registry()))

    assert found["toy:host/table"] == {"bill/paid"}
    assert found["reader/count"] == {"toy:host/table"}


def test_graphs_that_write_where_they_read_close_no_circle(project: Project):
    there = project.graph
    there["nodes"][3]["params"]["uri"] = "toy://host/b"
    there["nodes"][4]["params"]["uri"] = "toy://host/numbers"
    back = project.graph
    back["name"] = "back"
    back["nodes"][0]["params"]["uri"] = "toy://host/b"
    back["nodes"][3]["params"]["uri"] = "toy://host/numbers"
    files = [project.write(there), project.write(back, "back")]

    definitions = build_definitions(files, registry=registry())
    definitions.get_repository_def()

    found = parents(definitions)
    assert len(found["toy:host/b"]) + len(found["toy:host/numbers"]) == 1


def test_a_location_keeps_its_references_and_shows_no_secret(project: Project):
    graph = project.graph
    graph["nodes"][3]["connection"] = "store"
    (project.folder / "connections.json").write_text(
        '{"store": {"type": "toy", "url": "toy://me:hunter22@${env:STORE_HOST}", '
        '"port": "${env:PORT}", "api_key": "${env:KEY}"}}'
    )
    definitions = build_definitions(project.write(graph), registry=registry())

    keys = {key.to_user_string() for key in definitions.resolve_all_asset_keys()}
    assert "toy:${env:STORE_HOST}/paid.db" in keys
    assert "hunter22" not in str(definitions.resolve_all_asset_specs())


def test_what_the_author_wrote_is_shown(project: Project):
    graph = project.graph
    graph["owners"] = ["team:data"]
    graph["tags"] = {"tier": "1", "all": "yes"}
    graph["nodes"][3] |= {
        "description": "The bills.",
        "owners": ["a@b.org"],
        "tags": {"tier": "2"},
        "metadata": {"ticket": 7},
    }
    definitions = build_definitions(project.write(graph), registry=registry())

    specs = {spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs()}
    paid, count = specs["bill/paid"], specs["bill/count"]
    assert paid.description == "The bills."
    assert paid.owners == ["a@b.org"]
    assert (paid.tags["tier"], paid.tags["all"]) == ("2", "yes")
    assert paid.kinds == {"toy", "sink"}
    assert paid.group_name == "bill"
    assert paid.metadata["metadata"].value == {"ticket": 7}
    assert count.description == "Counts from nothing."
    assert count.owners == ["team:data"]
    schema = count.metadata["dagster/column_schema"]
    assert schema.columns[-1].name == "n"


def test_names_that_dagster_refuses_are_changed(project: Project):
    graph = project.graph
    graph["name"] = "class"
    for node in graph["nodes"]:
        node["id"] = {"count": "a-b", "pay": "a.b", "paid": "int", "free": "a_b"}.get(
            node["id"], "in"
        )
    graph["edges"] = [
        {"from": "a-b", "to": "a.b"},
        {"from": "a.b", "to": "int"},
        {"from": "a-b", "to": "in"},
        {"from": "in", "to": "a_b"},
    ]
    definitions = build_definitions(
        project.write(graph), registry=registry(), storage=project.path("state")
    )

    result = project.run(job=definitions.resolve_job_def("class_"))

    assert result.success
    assert project.written("paid") == list(range(100))
    made = {m.asset_key.to_user_string() for m in materializations(result)}
    assert made == {"class/a-b", "class/a.b", "class/in", "class/int", "class/a_b"}


def test_the_routes_of_a_branch_are_assets_where_they_are_kept(project: Project):
    graph = project.graph
    graph["nodes"][2] = {
        "id": "split",
        "type": "branch",
        "routes": [{"name": "even", "when": "true"}, {"name": "odd", "when": "true"}],
        "materialize": True,
    }
    graph["edges"] = [
        {"from": "count", "to": "split"},
        {"from": "split", "to": "pay", "route": "even"},
        {"from": "split", "to": "free", "route": "odd"},
        {"from": "pay", "to": "paid"},
    ]
    definitions = build_definitions(
        project.write(graph), registry=registry(), storage=project.path("state")
    )
    result = project.run(job=definitions.resolve_job_def("bill"))

    assert result.success
    assert project.written("paid") == list(range(0, 100, 2))
    assert project.written("free") == list(range(1, 100, 2))
    found = parents(definitions)
    assert found["bill/split/even"] == {"bill/split"}
    assert found["bill/pay"] == {"bill/split/even"}
    assert found["bill/free"] == {"bill/split/odd"}
    made = {m.asset_key.to_user_string(): m for m in materializations(result)}
    assert {"bill/split", "bill/split/even", "bill/split/odd"} <= made.keys()
    assert made["bill/split/odd"].metadata["dagster/row_count"].value == 50


def materializations(result: dg.ExecuteInProcessResult) -> list[dg.AssetMaterialization]:
    return [
        event.step_materialization_data.materialization
        for event in result.all_events
        if event.event_type_value == "ASSET_MATERIALIZATION"
    ]


def test_every_node_is_materialized_once_and_shows_aggregates(project: Project):
    result = project.run()

    made = {m.asset_key.to_user_string(): m.metadata for m in materializations(result)}
    assert len(materializations(result)) == 5
    paid, count, pay = made["bill/paid"], made["bill/count"], made["bill/pay"]
    assert paid["records_in"].value == 100
    assert paid["dagster/row_count"].value == 100
    assert paid["bytes_in"].value > 0
    assert paid["location"].value == "toy://host/table"
    assert paid["resumed"].value is False
    assert count["records_out"].value == 100
    assert pay["calls"].value == 10
    assert Path(pay["location"].value).is_dir()
    assert [c.name for c in paid["dagster/column_schema"].value.columns][-1] == "n"
    preview = paid["preview"].records
    assert [record.data["n"] for record in preview] == ["0", "1", "2", "3", "4"]
    assert [record.data["node"] for record in paid["stage"].records] == ["paid"]


@pytest.mark.parametrize("switch", ["argument", "environment"])
def test_records_are_not_shown_when_that_is_switched_off(
    project: Project, switch: str, monkeypatch: pytest.MonkeyPatch
):
    if switch == "environment":
        monkeypatch.setenv("NVISY_PREVIEW", "off")
    result = project.run(job=project.job(preview=switch == "environment"))

    assert result.success
    assert not any("preview" in m.metadata for m in materializations(result))


def test_all_mistakes_of_all_files_are_told_at_once(project: Project):
    project.write()
    for name in ("one", "two"):
        graph = project.graph
        graph["name"] = name
        graph["nodes"][1]["action"] = "payy"
        project.write(graph, name)

    with pytest.raises(ConfigError) as caught:
        build_definitions(project.folder, registry=registry())

    text = str(caught.value)
    for name in ("one", "two"):
        assert f"{name}.json" in text
    assert text.count('$.nodes[1].action: unknown action "payy" (did you mean "pay"?)') == 2


def test_two_graphs_of_one_name_are_refused(project: Project):
    project.write()
    project.write(project.graph, "copy")

    with pytest.raises(ConfigError, match=r"give one of them another \"name\""):
        build_definitions(project.folder, registry=registry())


def test_a_folder_without_graphs_is_told(tmp_path: Path):
    (tmp_path / "connections.json").write_text("{}")
    with pytest.raises(ConfigError, match="there is no graph in the folder"):
        build_definitions(tmp_path)
