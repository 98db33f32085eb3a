"""`nvisy validate`, `plan` and `schema`: what is told before a run."""

import json
import os

import jsonschema
import pytest
from cli.conftest import action, counter, table, write_graph

WRONG = """\
{
  "name": "wrong",
  "nodes": [
    {"id": "docs", "type": "source", "connector": "loca", "params": {"path": "text"}},
    {"id": "chunk", "type": "action", "action": "chunk",
     "params": {
       "size": 0,
       "strateg": "fixed"
     }},
    {"id": "out", "type": "sink", "connector": "local", "params": {"path": "out"}}
  ],
  "edges": [
    {"from": "docs", "to": "chunk"},
    {"from": "chunk", "to": "ou"}
  ]
}
"""


@pytest.fixture
def good(here):
    nodes = [
        {"id": "docs", "type": "source", "connector": "local", "params": {"path": "text"}},
        action("chunk", size=300, overlap=10),
        action("embed"),
        {"id": "out", "type": "sink", "connector": "local", "params": {"path": "out"}},
    ]
    return write_graph(here / "good.json", nodes)


def test_right_graph_is_one_line(nvisy, good):
    result = nvisy("validate", "good.json")
    assert (result.exit_code, result.stdout) == (0, "good.json: ok (good: 4 nodes, 2 stages)\n")


def test_every_mistake_has_file_line_path_and_remedy(nvisy, here):
    (here / "wrong.json").write_text(WRONG)
    result = nvisy("validate", "wrong.json")
    assert result.exit_code == 2
    assert 'wrong.json:4: $.nodes[0].connector: unknown connector "loca"\n' in result.stdout
    assert '    did you mean "local"?\n' in result.stdout
    assert "wrong.json:7: $.nodes[1].params.size: " in result.stdout
    assert 'wrong.json:8: $.nodes[1].params.strateg: unknown key "strateg"\n' in result.stdout
    assert 'wrong.json:14: $.edges[1].to: there is no node "ou"\n' in result.stdout
    assert "mistakes in graph wrong.json" in result.stdout


def test_mistakes_as_json(nvisy, here, good):
    (here / "wrong.json").write_text(WRONG)
    result = nvisy("validate", "good.json", "wrong.json", "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 2
    assert [one["valid"] for one in document["graphs"]] == [True, False]
    mistakes = {one["path"]: one for one in document["graphs"][1]["mistakes"]}
    assert mistakes["$.edges[1].to"]["line"] == 14
    assert mistakes["$.edges[1].to"]["file"] == "wrong.json"
    assert mistakes["$.edges[1].to"]["remedy"] == 'did you mean "out"?'


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"nodes": [1,\n 2,]}', "bad.json:2:"),
        (b"\xff\xfe{}", "byte order mark"),
        (b"", "empty"),
        (b"[" * 100_000, "nested deeper"),
        (b'{"a": NaN, "nodes": []}', "NaN"),
        (b"[]", "a graph should be an object"),
    ],
)
@pytest.mark.parametrize("command", [["validate"], ["run"], ["plan"]])
def test_unreadable_json_is_a_mistake_not_a_crash(nvisy, here, content, told, command):
    (here / "bad.json").write_bytes(content)
    result = nvisy(*command, "bad.json")
    assert result.exit_code == 2
    assert told in result.output


def test_missing_file(nvisy):
    result = nvisy("validate", "nope.json")
    assert result.exit_code == 2
    assert "nope.json: cannot read nope.json: No such file or directory" in result.stdout


def test_mistake_in_connections_names_their_file(nvisy, here, good):
    (here / "connections.json").write_text('{\n "a": {\n  "typ": "qdrant"}}')
    result = nvisy("validate", "good.json")
    assert result.exit_code == 2
    assert 'connections.json:2: $.a: "type" is missing' in result.stdout


@pytest.fixture
def leaky(counting, here):
    sink = {"id": "leaky", "type": "sink", "connector": "leaky", "connection": "it"}
    graph = write_graph(here / "g.json", [counter(), sink])
    connection = {"type": "leaky", "key": "${env:LEAKY_KEY}", "port": 1}
    (here / "connections.json").write_text(json.dumps({"it": connection}, indent=1))
    return graph


def test_variable_that_is_not_set_is_told_and_no_mistake(nvisy, leaky):
    result = nvisy("validate", leaky)
    assert result.exit_code == 0
    assert "LEAKY_KEY" in result.stdout


def test_wrong_field_of_a_connection(nvisy, leaky, here, monkeypatch):
    monkeypatch.setenv("LEAKY_KEY", "hush-hush")
    text = (here / "connections.json").read_text()
    (here / "connections.json").write_text(text.replace("1\n", '"x",\n "prt": 1\n'))
    result = nvisy("validate", leaky)
    assert result.exit_code == 2
    assert "prt" in result.stdout
    assert "hush-hush" not in result.output


def test_other_connections_file(nvisy, leaky, here):
    (here / "connections.json").unlink()
    (here / "other.json").write_text('{"it": {"type": "leaky", "key": "abcdef"}}')
    assert nvisy("validate", leaky).exit_code == 2
    assert nvisy("validate", leaky, "--connections", "other.json").exit_code == 0


def test_plan_shows_stages_edges_and_guarantee(nvisy, good):
    text = nvisy("plan", "good.json").stdout
    assert "stage 1 of 2  docs__chunk__embed" in text
    assert "└-> chunk  document" in text
    assert "└=> out  embedding" in text
    assert "(4 at once, expensive)" in text
    assert "sink local  (exactly once)" in text
    assert "\x1b" not in text


def test_plan_as_json(nvisy, good):
    plan = json.loads(nvisy("plan", "good.json", "--json").stdout)
    assert [stage["id"] for stage in plan["stages"]] == ["docs__chunk__embed", "out"]
    assert plan["edges"][2] == {
        "from": "embed",
        "route": None,
        "to": "out",
        "input": None,
        "kind": "materialized",
        "primitive": "embedding",
    }


def test_plan_of_a_branch_names_routes(nvisy, here):
    nodes = [
        {"id": "docs", "type": "source", "connector": "local", "params": {"path": "text"}},
        {
            "id": "by_size",
            "type": "branch",
            "routes": [{"name": "long", "when": "length(text) > 9"}],
            "default": "short",
        },
        {"id": "a", "type": "sink", "connector": "local", "params": {"path": "a"}},
        {"id": "b", "type": "sink", "connector": "local", "params": {"path": "b"}},
    ]
    document = {
        "nodes": nodes,
        "edges": [
            {"from": "docs", "to": "by_size"},
            {"from": "by_size", "to": "a", "route": "long"},
            {"from": "by_size", "to": "b", "route": "short"},
        ],
    }
    (here / "b.json").write_text(json.dumps(document))
    text = nvisy("plan", "b.json").stdout
    assert "├[long]-> a  document" in text
    assert "└[short]-> b  document" in text


def test_schema_accepts_a_right_graph_and_refuses_a_wrong_param(nvisy, good):
    schema = json.loads(nvisy("schema").stdout)
    validator = jsonschema.Draft202012Validator(schema)
    graph = json.loads(good.read_text())
    assert not list(validator.iter_errors(graph))
    graph["nodes"][1]["params"]["size"] = 0
    assert list(validator.iter_errors(graph))


def test_json_path_with_odd_keys_still_finds_its_line(nvisy, here):
    (here / "odd.json").write_text('{"nodes": [],\n "edges": [],\n "a b]\\"": {\n "c": 1}}')
    document = json.loads(nvisy("validate", "odd.json", "--json").stdout)
    lines = {one["path"]: one["line"] for one in document["graphs"][0]["mistakes"]}
    assert next(line for path, line in lines.items() if "a b]" in path) == 3


@pytest.mark.usefixtures("counting")
def test_validate_opens_nothing(nvisy, here):
    graph = write_graph(here / "g.json", [counter(), action("even"), table(here)])
    assert nvisy("validate", graph).exit_code == 0
    assert sorted(path.name for path in here.iterdir()) == ["g.json"]


SECRET = {"type": "openai", "api_key": "${env:NVISY_TEST_KEY}"}


def with_connection(here, fields, connector="local"):
    nodes = [
        {"id": "docs", "type": "source", "connector": "local", "params": {"path": "text"}},
        {**action("embed"), "connection": "model"},
        {"id": "out", "type": "sink", "connector": connector, "params": {"path": "out"}},
    ]
    nodes[1]["params"] = {"model": "text-embedding-3-small"}
    (here / "connections.json").write_text(json.dumps({"model": fields, "other": {"type": "s3"}}))
    return write_graph(here / "g.json", nodes)


def test_connections_are_checked_though_their_secrets_are_not_set(nvisy, here):
    with_connection(here, {**SECRET, "modle": "x"})
    result = nvisy("validate", "g.json")
    assert result.exit_code == 2
    assert 'connections.json:1: $.model.modle: unknown key "modle"\n' in result.stdout
    assert "api_key" not in result.stdout
    with_connection(here, SECRET)
    result = nvisy("validate", "g.json")
    assert result.exit_code == 0
    assert "a run needs more: " in result.stdout
    assert "NVISY_TEST_KEY" in result.stdout


def test_mistakes_in_graph_and_connections_are_told_together(nvisy, here):
    with_connection(here, {**SECRET, "modle": "x"}, connector="loca")
    found = json.loads(nvisy("validate", "g.json", "--json").stdout)["graphs"][0]["mistakes"]
    assert [(one["file"], one["path"]) for one in found] == [
        ("g.json", "$.nodes[2].connector"),
        ("connections.json", "$.model.modle"),
    ]


def test_secrets_that_are_set_are_not_shown(nvisy, here, monkeypatch):
    monkeypatch.setenv("NVISY_TEST_KEY", "a very secret value")
    with_connection(here, {**SECRET, "base_url": "${env:NVISY_TEST_KEY}"})
    result = nvisy("validate", "g.json")
    assert result.exit_code == 2
    assert "$.model.base_url" in result.stdout
    assert "very secret" not in result.output


@pytest.mark.parametrize("kind", ["pipe", "circle"])
def test_files_that_cannot_be_read_are_told(nvisy, here, kind):
    if kind == "pipe":
        os.mkfifo(here / "g.json")
    else:
        (here / "g.json").symlink_to(here / "g.json")
    result = nvisy("validate", "g.json")
    assert result.exit_code == 2
    assert "cannot read g.json: it" in result.stdout


def test_connections_beside_graphs_are_validated_as_connections(here, nvisy):
    path = here / "connections.json"
    path.write_text('{"vectors": {"type": "qdrant", "path": "v"}}')
    result = nvisy("validate", path)
    assert result.exit_code == 0
    assert "connections.json: ok (1 connection)" in result.stdout
    path.write_text('{"vectors": {"path": "v"}}')
    result = nvisy("validate", path)
    assert result.exit_code == 2
    assert '"type" is missing' in result.output
