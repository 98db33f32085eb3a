"""`nvisy connectors`, `actions`, `search`, `docs`, `version`, `dev`, and the help."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress

import pytest
from cli.conftest import action, write_graph

from nvisy_dagster.cli import reference_component, searching
from nvisy_dagster.cli.app import COMMANDS
from nvisy_dagster.compiler import compile_file
from nvisy_dagster.registry import installed
from nvisy_dagster.sdk.search import Hit

TOPICS = {
    "bread.txt": "Knead the dough, let it rise, and bake the bread in a hot oven.",
    "stars.txt": "A telescope gathers light from distant stars and galaxies.",
    "money.txt": "The central bank raised interest rates to slow inflation.",
}


@pytest.fixture
def indexed(nvisy, here):
    """Three texts, embedded by the local model, in an embedded Qdrant."""
    (here / "texts").mkdir()
    for name, text in TOPICS.items():
        (here / "texts" / name).write_text(text)
    nodes = [
        {"id": "docs", "type": "source", "connector": "local", "params": {"path": "texts"}},
        action("chunk", size=300, overlap=10),
        action("embed"),
        {
            "id": "index",
            "type": "sink",
            "connector": "qdrant",
            "connection": "vectors",
            "params": {"collection": "topics"},
        },
    ]
    connections = {"vectors": {"type": "qdrant", "path": str(here / "vectors")}}
    (here / "connections.json").write_text(json.dumps(connections))
    graph = write_graph(here / "g.json", nodes)
    result = nvisy("run", graph, "--engine-only", "--quiet")
    assert result.exit_code == 0, result.output
    return graph


def test_search_finds_the_answer_and_its_file(nvisy, here, indexed):
    text = nvisy("search", indexed, "which instrument do astronomers use?", "--limit", 2).stdout
    first = text.split("2. score")[0]
    assert "A telescope gathers light" in first
    assert f"from   {(here / 'texts' / 'stars.txt').as_uri()}, characters" in first
    assert re.search(r"trace  [0-9a-f-]{36} <- parent [0-9a-f-]{36} <- root [0-9a-f-]{36}", first)


def test_hit_keeps_the_lines_of_its_text():
    code = "\n\ndef f():   \n    return [\x1b[31m\n\n\tx]  \n\n" + "word " * 30
    source = {"uri": "file:///a.jsonl", "position": 0}
    hit = Hit("1", 0.5, {"text": code, "_source": source})
    _, *lines = searching.draw_hit(1, hit, whole=False)
    assert lines[:4] == ["   def f():", "       return [[31m", "", "       x]"]
    assert lines[4] == ""
    assert all(line.startswith("   word") and len(line) <= searching.WIDEST for line in lines[5:7])
    assert "file:///a.jsonl at position 0" in lines[7]


@pytest.mark.parametrize(
    ("params", "whole"), [({}, True), ({"format": "jsonl", "columns": {"text": "string"}}, False)]
)
def test_position_is_told_where_an_object_has_several_records(here, params, whole):
    nodes = [
        {"id": "a", "type": "source", "connector": "local", "params": {"path": "a", **params}},
        {"id": "b", "type": "sink", "connector": "local", "params": {"path": "b"}},
    ]
    assert searching.reads_whole_objects(compile_file(write_graph(here / "g.json", nodes))) is whole


def test_search_as_json(nvisy, here, indexed):
    result = nvisy("search", indexed, "baking", "--json")
    hits = json.loads(result.stdout)["hits"]
    assert len(hits) == 3
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    assert hits[0]["text"] == TOPICS["bread.txt"]
    assert hits[0]["trace"]["source"] == (here / "texts" / "bread.txt").as_uri()


def test_search_says_which_nodes_there_are(nvisy, here, indexed):
    result = nvisy("search", indexed, "x", "--sink", "docs")
    assert result.exit_code == 2
    assert 'no sink that can be searched with the id "docs"' in result.stderr
    assert "there are: index" in result.stderr
    nodes = [
        {"id": n, "type": t, "connector": "local", "params": {"path": n}}
        for n, t in (("a", "source"), ("b", "sink"))
    ]
    result = nvisy("search", write_graph(here / "h.json", nodes), "x")
    assert result.exit_code == 2
    assert "has no sink that can be searched" in result.stderr


def test_list_and_page(nvisy):
    listed = nvisy("connectors").stdout
    assert re.search(r"^local \(source\) +Read files below a folder", listed, re.MULTILINE)
    page = nvisy("connectors", "qdrant").stdout
    assert "guarantee:  effectively once" in page
    assert "  collection: string, required\n" in page
    assert "  api_key: secret, default none\n" in page
    assert 'connection of type "qdrant" (required)' in page


def test_describe_as_json(nvisy):
    document = json.loads(nvisy("actions", "chunk", "--json").stdout)
    component = document["components"][0]
    assert component["kind"] == "action"
    size = next(field for field in component["params"] if field["name"] == "size")
    assert (size["default"], size["required"]) == (512, False)
    everything = json.loads(nvisy("actions", "--json").stdout)["actions"]
    assert "chunk" in [one["name"] for one in everything]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["actions", "chnk"], 'did you mean "chunk"?'),
        (["connectors", "pgvector"], "is not built yet"),
        (["connectors", "zzz"], "valid here: "),
        (["rnu"], 'Did you mean "run"?'),
        (["run"], "Missing argument 'GRAPH'"),
        (["run", "g.json", "--nope"], "No such option"),
    ],
)
def test_wrong_usage(nvisy, arguments, told):
    result = nvisy(*arguments)
    assert result.exit_code == 2
    assert told in result.stderr


def test_broken_component_does_not_hide_the_others(nvisy, site, here, monkeypatch):
    (here / "broken_module.py").write_text("1 / 0")
    info = here / "broken-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[nvisy.connectors]\nbroken = broken_module\n")
    monkeypatch.syspath_prepend(str(here))
    installed.cache_clear()
    try:
        result = nvisy("connectors")
    finally:
        installed.cache_clear()
    assert result.exit_code == 0
    assert re.search(
        r"^broken +broken: nvisy.connectors 'broken' cannot be imported from broken_module: "
        r"ZeroDivisionError",
        result.stdout,
        re.MULTILINE,
    )
    assert "local (source)" in result.stdout


def test_docs_are_written_checked_and_cleaned(nvisy, here):
    assert nvisy("docs", "--output", "ref").exit_code == 0
    assert nvisy("docs", "--output", "ref", "--check").exit_code == 0
    page = here / "ref" / "actions" / "chunk.md"
    page.write_text(page.read_text() + "edited")
    obsolete = here / "ref" / "actions" / "gone.md"
    obsolete.write_text("<!-- Generated by `nvisy docs`. Do not edit. -->\n")
    by_hand = here / "ref" / "by_hand.md"
    by_hand.write_text("# Mine")
    (here / "ref" / "cli.md").unlink()
    result = nvisy("docs", "--output", "ref", "--check")
    assert result.exit_code == 1
    named = [line.strip() for line in result.stderr.splitlines()]
    assert named == [
        "stale docs: run `nvisy docs`",
        "ref/actions/chunk.md",
        "ref/actions/gone.md",
        "ref/cli.md",
    ]
    nvisy("docs", "--output", "ref")
    assert nvisy("docs", "--output", "ref", "--check").exit_code == 0
    assert not obsolete.exists()
    assert by_hand.exists()


def test_pages_tell_what_components_declare(nvisy, here):
    nvisy("docs", "--output", "ref")
    qdrant = (here / "ref" / "connectors" / "qdrant.md").read_text()
    assert "| `collection` | string | **required** |" in qdrant
    assert "Guarantee: **effectively once**" in qdrant
    assert '"type": "qdrant"' in qdrant
    cli = (here / "ref" / "cli.md").read_text()
    assert all(f"## nvisy {name}" in cli for name in COMMANDS if name != "docs")
    assert "| 3 | interrupted" in cli
    primitives = (here / "ref" / "primitives.md").read_text()
    assert "| `vector` | `fixed_size_list<item: float>[d]` | no |" in primitives
    schema = json.loads((here / "ref" / "graph.schema.json").read_text())
    assert "ActionNode.chunk" in schema["$defs"]


def test_examples_on_the_pages_compile(nvisy, here):
    """An action's example, between a source's and a sink's, is a right graph."""
    nvisy("docs", "--output", "ref")
    blocks = re.compile(r"^```json\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    local = (here / "ref" / "connectors" / "local.md").read_text()
    source, sink = (json.loads(text) for text in blocks.findall(local))
    sink["id"] = "my_sink"
    # Where it reads, a graph may not write.
    sink["params"]["path"] = "elsewhere"
    for name in ("chunk", "embed", "map", "filter"):
        page = (here / "ref" / "actions" / f"{name}.md").read_text()
        (example,) = (json.loads(text) for text in blocks.findall(page))
        if name in {"map", "filter"}:
            # Its columns are those of a table.
            source["params"] |= {
                "format": "jsonl",
                "columns": {"text": "string", "lang": "string", "score": "double"},
            }
        result = nvisy("validate", write_graph(here / f"{name}.json", [source, example, sink]))
        assert result.exit_code == 0, result.output


def test_wrong_example_is_an_error(monkeypatch, nvisy):
    monkeypatch.setattr(reference_component, "_example_value", lambda field: object())
    result = nvisy("docs", "--output", "ref")
    assert result.exit_code == 2
    assert "`examples`" in result.stderr


def test_help_and_version(nvisy):
    text = nvisy("--help").stdout
    assert "nvisy validate graph.json" in text
    assert "3  interrupted" in text
    assert "docs" not in re.findall(r"^  (\w+)", text, re.MULTILINE)
    assert re.match(r"nvisy-dagster \d", nvisy("--version").stdout)
    assert "python" in json.loads(nvisy("version", "--json").stdout)
    for name in COMMANDS:
        assert nvisy(name, "--help").exit_code == 0


def test_light_commands_never_import_dagster(environment, here):
    write_graph(
        here / "g.json",
        [
            {"id": "a", "type": "source", "connector": "local", "params": {"path": "a"}},
            {"id": "b", "type": "sink", "connector": "local", "params": {"path": "b"}},
        ],
    )
    for arguments, banned in (
        (["--help"], {"dagster", "pyarrow", "rich", "pydantic"}),
        (["validate", "g.json"], {"dagster", "rich", "duckdb", "litellm"}),
        (["run", "g.json", "--engine-only"], {"dagster"}),
    ):
        (here / "a").mkdir(exist_ok=True)
        code = (
            "import sys\nfrom nvisy_dagster.cli import main\n"
            f"sys.argv[1:] = {arguments!r}\n"
            "try: main()\nexcept SystemExit: pass\n"
            "print(','.join(m for m in sys.modules if '.' not in m), file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            cwd=here,
            env=environment,
            capture_output=True,
            text=True,
        )
        loaded = set(done.stderr.splitlines()[-1].split(","))
        assert "click" in loaded
        assert not loaded & banned, arguments


def test_dev_without_graphs(nvisy):
    result = nvisy("dev", ".")
    assert result.exit_code == 2
    assert "there is no graph in" in result.stderr


def test_dev_without_the_webserver(nvisy, monkeypatch):
    monkeypatch.setattr("nvisy_dagster.cli.dev.find_spec", lambda name: None)
    result = nvisy("dev", ".")
    assert result.exit_code == 2
    assert "pip install 'nvisy-dagster[ui]'" in result.stderr


def test_dev_on_a_port_that_is_taken(nvisy, here):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = nvisy("dev", here, "--port", port)
    assert result.exit_code == 2
    assert f"cannot listen on 127.0.0.1, port {port}: another program listens" in result.stderr
    assert "--port" in result.stderr
    assert "graphs of" not in result.stdout


def test_dev_on_an_address_that_is_none(nvisy, here):
    result = nvisy("dev", here, "--host", "203.0.113.7")
    assert result.exit_code == 2
    assert "cannot listen on 203.0.113.7, port 3000: " in result.stderr
    assert "--host" in result.stderr


def test_dev_serves_the_graphs_of_a_folder(start, here):
    (here / "graphs").mkdir()
    (here / "graphs" / "texts").mkdir()
    nodes = [
        {"id": "a", "type": "source", "connector": "local", "params": {"path": "texts"}},
        {"id": "b", "type": "sink", "connector": "local", "params": {"path": "out"}},
    ]
    write_graph(here / "graphs" / "copy.json", nodes)
    (here / "graphs" / "wrong.txt").write_text("not a graph")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (here / "log").open("w")
    # As a shell starts what it puts in the background; it must stop on SIGTERM all the same.
    process = start(
        "dev",
        "graphs",
        "--port",
        port,
        stdout=log,
        stderr=log,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    query = json.dumps({
        "query": "{repositoriesOrError {__typename ... on RepositoryConnection "
        "{nodes {jobs {name}}}}}"
    }).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql", query, {"Content-Type": "application/json"}
    )
    answer = ""
    try:
        deadline = time.monotonic() + 120
        while '"copy"' not in answer and time.monotonic() < deadline:
            assert process.poll() is None, (here / "log").read_text()
            try:
                with urllib.request.urlopen(request, timeout=5) as response:
                    answer = response.read().decode()
            except OSError:
                time.sleep(0.3)
        assert '"name": "copy"' in answer.replace('":"', '": "'), answer
        assert (here / ".nvisy" / "dagster" / "dagster.yaml").is_file()
        # Dagster would first of all recommend another command than the one that was given.
        assert "Warning" not in (here / "log").read_text()
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        log.close()
