"""Published Nvisy graphs load unchanged; every name in their tables has one of ours."""

import json
from itertools import pairwise
from typing import Any

import duckdb
import pytest
from nvisy_documents import CONNECTIONS, PUBLISHED, action, chain, mistakes, read, translated

from nvisy_dagster.graph import nvisy_tables as tables
from nvisy_dagster.graph.connections import build_connections
from nvisy_dagster.graph.load import build_graph, load_graph
from nvisy_dagster.graph.planned import (
    PLANNED_ACTIONS,
    PLANNED_CONNECTORS,
    PLANNED_PROVIDERS,
)


def test_documents_to_vectors():
    graph = load_graph(PUBLISHED / "rag.json", connections=CONNECTIONS)
    assert graph.name == "handbook_to_qdrant"
    assert graph.metadata == {
        "team": "docs",
        "nvisy_id": "7f0f3c52-5a52-4c0e-8d53-0c1d8a3f6b01",
        "nvisy_name": "Handbook to Qdrant",
    }
    docs, chunk, embed, index = graph.nodes
    assert (docs.connector, docs.params) == ("s3", {"prefix": "handbook/", "format": "text"})
    assert docs.retry.model_dump(exclude_none=True) == {
        "max_retries": 5,
        "backoff": "jitter",
        "initial_delay_seconds": 0.5,
        "max_delay_seconds": 10.0,
    }
    assert (chunk.action, chunk.params) == (
        "chunk",
        {"strategy": "fixed", "size": 800, "overlap": 80, "unit": "characters"},
    )
    assert (embed.action, embed.params) == (
        "embed",
        {
            "dimensions": 512,
            "batch_rows": 64,
            "provider": "openai",
            "model": "text-embedding-3-small",
        },
    )
    assert embed.timeout.model_dump(exclude_unset=True) == {"node_seconds": 600}
    assert embed.concurrency.model_dump(exclude_none=True) == {"max_per_node": 4}
    assert (index.type, index.connector, index.params) == (
        "sink",
        "qdrant",
        {"collection": "handbook"},
    )
    assert graph.timeout.graph_seconds == 3600
    assert graph.concurrency.max_global == 10
    ids = [docs.id, chunk.id, embed.id, index.id]
    assert [(edge.from_, edge.to) for edge in graph.edges] == list(pairwise(ids))


def test_rows_to_rows():
    graph = load_graph(PUBLISHED / "crm.json", connections=CONNECTIONS)
    assert graph.name == "crm"
    assert [node.params for node in graph.nodes] == [
        {
            "table": "people",
            "columns": ["id", "name", "age", "country"],
            "key": "id",
            "tiebreaker": "updated_at",
            "batch_rows": 1000,
        },
        {"where": "(\"age\" >= 18) AND (\"country\" IN ('DE', 'FR'))"},
        {"set": {"age": 'CAST("age" AS VARCHAR)'}},
        {"rename": {"name": "full_name"}},
        {"select": ["id", "full_name"]},
        {"table": "adults", "columns": [], "key": "id", "batch_rows": 500},
    ]
    assert [getattr(node, "action", None) for node in graph.nodes[1:5]] == [
        "filter",
        "map",
        "map",
        "map",
    ]


def test_paths_point_into_the_authors_document():
    graph = load_graph(PUBLISHED / "rag.json", connections=CONNECTIONS)
    assert graph.path("nodes", 3, "connector") == "$.nodes[4].provider"
    assert graph.path("nodes", 1, "params", "size") == "$.nodes[2].params.size"
    assert graph.path("nodes", 1, "params", "unit") == "$.nodes[2].params.strategy"
    assert graph.path("nodes", 2, "params", "batch_rows") == "$.nodes[3].params.batchSize"
    assert graph.path("nodes", 2, "params", "provider") == "$.nodes[3].provider"
    assert graph.path("nodes", 0, "params", "format") == "$.nodes[0].stream"
    assert graph.path("nodes", 0, "retry", "max_delay_seconds") == "$.nodes[0].retry.maxDelayMs"
    assert graph.path("nodes", 0, "retry", "max_retries") == "$.nodes[0].retry.maxRetries"
    assert graph.path("timeout", "graph_seconds") == "$.timeout.graphTimeoutMs"
    assert graph.path("edges", 1) == "$.edges[2]"


@pytest.mark.parametrize("provider", tables.PROVIDER_CONNECTORS)
def test_every_provider_resolves(provider):
    module = provider.partition("/")[0]
    for stream in (name for name in tables.STREAMS if name.startswith(module)):
        kind = "target" if tables.STREAMS[stream] == "sink" else "source"
        node = {"type": kind, "provider": provider, "stream": stream, "params": {}}
        made = build_graph(chain(node)).nodes[0]
        assert made.connector == provider.partition("/")[2]
        assert made.connector in PLANNED_CONNECTORS
        assert made.type == tables.STREAMS[stream]


@pytest.mark.parametrize("provider", tables.MODEL_PROVIDERS)
def test_every_model_provider_resolves(provider):
    node = {**action("ai/embed"), "provider": provider, "connection": "c"}
    credentials = {"apiKey": "k", "baseUrl": "http://x", "model": "m"}
    connections = build_connections({
        "c": {"type": provider.partition("/")[2], "credentials": credentials}
    })
    params = build_graph(chain(node), connections=connections).nodes[0].params
    assert params == {"provider": provider.partition("/")[2].partition("-")[0], "model": "m"}
    assert params["provider"] in PLANNED_PROVIDERS
    assert connections["c"].type == params["provider"]
    assert connections["c"].fields == {"api_key": "k", "base_url": "http://x"}


ACTIONS = [
    ("sql/filter", {"conditions": []}, "filter", {"where": "TRUE"}),
    ("sql/project", {"keep": ["a"]}, "map", {"select": ["a"]}),
    ("sql/project", {"drop": ["a"]}, "map", {"drop": ["a"]}),
    ("sql/rename", {"mapping": {"a": "b"}}, "map", {"rename": {"a": "b"}}),
    (
        "sql/coerce",
        {"columns": {'a"': "number"}},
        "map",
        {"set": {'a"': 'TRY_CAST("a""" AS DOUBLE)'}},
    ),
    ("ai/embed", {"batchSize": 9}, "embed", {"batch_rows": 9}),
    (
        "ai/chunk",
        {"strategy": "character", "size": 9, "overlap": 1},
        "chunk",
        {"strategy": "fixed", "size": 9, "overlap": 1, "unit": "characters"},
    ),
    (
        "ai/chunk",
        {"strategy": "section", "level": 3},
        "chunk",
        {"strategy": "section", "level": 3},
    ),
    ("ai/chunk", {"strategy": "page"}, "chunk", {"strategy": "page"}),
    ("ai/chunk_similarity", {"threshold": 0.7}, "chunk_similarity", {"threshold": 0.7}),
    ("ai/chunk_contextual", {"maxChunkSize": 900}, "chunk_contextual", {"max_size": 900}),
    ("ai/partition", {"strategy": "auto"}, "partition", {"strategy": "auto"}),
    (
        "ai/partition",
        {"strategy": "rule", "pattern": "x+", "includeDelimiter": True},
        "partition",
        {"strategy": "rule", "pattern": "x+", "include_delimiter": True},
    ),
    ("ai/partition_contextual", {}, "partition_contextual", {}),
    (
        "ai/enrich",
        {"type": "ner", "entityTypes": ["ORG"]},
        "enrich",
        {"type": "ner", "entity_types": ["ORG"]},
    ),
    (
        "ai/enrich",
        {"type": "metadata", "fields": ["a"]},
        "enrich",
        {"type": "metadata", "fields": ["a"]},
    ),
]


@pytest.mark.parametrize(("name", "params", "ours", "expected"), ACTIONS)
def test_every_action_resolves(name, params, ours, expected):
    assert translated(name, **params) == (ours, expected)
    assert ours in PLANNED_ACTIONS


def test_no_action_is_left_out():
    assert {name for name, *_ in ACTIONS} == set(tables.ACTIONS) == set(tables.ACTION_PARAMS)
    assert set(tables.STREAMS) == set(tables.STREAM_PARAMS)


CREDENTIALS = [
    (
        "s3",
        {"region": 1, "bucket": 2, "accessKeyId": 3, "secretAccessKey": 4, "endpoint": 5},
        {"region": 1, "bucket": 2, "access_key_id": 3, "secret_access_key": 4, "endpoint": 5},
        {},
    ),
    (
        "gcs",
        {"projectId": 1, "bucket": 2, "keyFilename": 3},
        {"project_id": 1, "bucket": 2, "key_filename": 3},
        {},
    ),
    (
        "azure",
        {"accountName": 1, "containerName": 2, "accountKey": 3, "connectionString": 4},
        {"account_name": 1, "container": 2, "account_key": 3, "connection_string": 4},
        {},
    ),
    *(
        (name, dict.fromkeys(keys, 1), dict.fromkeys(keys, 1), {})
        for keys in [("host", "port", "database", "username", "password")]
        for name in ("postgres", "mysql", "mssql")
    ),
    (
        "qdrant",
        {"url": 1, "apiKey": 2, "collectionName": 3},
        {"url": 1, "api_key": 2},
        {"collection": 3},
    ),
    ("pinecone", {"apiKey": 1, "indexName": 2}, {"api_key": 1}, {"index": 2}),
    (
        "milvus",
        {"address": 1, "token": 2, "collectionName": 3},
        {"url": 1, "token": 2},
        {"collection": 3},
    ),
    (
        "weaviate",
        {"host": 1, "grpcPort": 2, "apiKey": 3, "collectionName": 4},
        {"host": 1, "grpc_port": 2, "api_key": 3},
        {"collection": 4},
    ),
    (
        "pgvector",
        {"connectionString": 1, "tableName": 2},
        {"connection_string": 1},
        {"table": 2},
    ),
]


@pytest.mark.parametrize(("kind", "credentials", "fields", "params"), CREDENTIALS)
def test_every_credential_resolves(kind, credentials, fields, params):
    entry = {"type": kind, "credentials": credentials, "context": {"lastKey": "k"}}
    one = build_connections({"c": entry})["c"]
    assert (one.type, one.fields, one.params) == (kind, fields, params)
    assert one.context == {"lastKey": "k"}


def test_the_format_of_objects_is_what_the_next_node_takes():
    def formats(*following: dict[str, Any]) -> str:
        return build_graph(chain(read(), *following)).nodes[0].params["format"]

    write = {"type": "target", "provider": "object/s3", "stream": "object/write"}
    assert formats(action("ai/partition", strategy="auto")) == "text"
    assert formats({"type": "fanout"}, {"type": "fanin"}, action("ai/enrich", type="ner")) == "text"
    assert formats(action("sql/filter", conditions=[])) == "binary"
    assert formats(write) == "binary"
    assert build_graph(chain(read(), write)).nodes[1].params["format"] == "binary"
    made = build_graph(chain(read(), action("ai/chunk", strategy="page"), write))
    assert made.nodes[2].params["format"] == "jsonl"


def test_declared_dependencies_become_edges():
    document = chain(read(), action("ai/chunk", strategy="page"))
    document["edges"] = []
    document["nodes"][1]["dependsOn"] = ["n0"]
    graph = build_graph(document)
    assert [(edge.from_, edge.to) for edge in graph.edges] == [("n0", "n1")]
    assert graph.path("edges", 0) == "$.nodes[1].dependsOn[0]"


def test_a_branch_with_predicates():
    condition = {"column": "age", "op": "gt", "value": 17}
    routes = [{"name": "adults", "predicate": condition}, {"name": "x", "predicate": "a = 1"}]
    node = {"type": "branch", "routes": routes, "defaultRoute": "rest"}
    graph = build_graph(chain(node))
    made = graph.nodes[0]
    assert [(route.name, route.when) for route in made.routes] == [
        ("adults", '("age" > 17)'),
        ("x", "a = 1"),
    ]
    assert made.default == "rest"
    assert graph.path("nodes", 0, "routes", 0, "when") == "$.nodes[0].routes[0].predicate"
    node["routes"] = [{"name": "a", "predicate": {"conditions": [{**condition, "op": "more"}]}}]
    assert mistakes(chain(node))[0][0] == "$.nodes[0].routes[0].predicate.conditions[0].op"


def test_both_formats_mix():
    native = {"type": "sink", "connector": "local", "params": {"path": "x"}, "on_error": "drop"}
    graph = build_graph(chain(read(), native))
    assert graph.nodes[1].connector == "local"
    assert graph.nodes[1].params == {"path": "x"}


def test_no_pause_is_the_shortest_pause():
    graph = build_graph(chain(read(retry={"initialDelayMs": 0, "maxDelayMs": 5})))
    assert graph.nodes[0].retry.initial_delay_seconds == 0.001


MISTAKES = [
    (read(provider="object/s4"), ".provider", 'unknown provider "object/s4"', "object/s3"),
    (read(stream="object/raed"), ".stream", 'unknown stream "object/raed"', "object/read"),
    (read(stream="object/write"), ".stream", '"object/write" is no stream of a source', ""),
    (read(stream="sql/read"), ".stream", '"object/s3" has no stream "sql/read"', ""),
    (read(params={"prefx": ""}), ".params.prefx", '"object/read" has no param "prefx"', "prefix"),
    (read(params=3), ".params", "should be an object, not a number", ""),
    (read(provider=3), ".provider", "should be a string, not a number", ""),
    (
        {"type": "target", "provider": "vector/qdrant"},
        "",
        '"stream" is missing',
        "object/read",
    ),
    (read(retry={"maxDelayMs": -1}), ".retry.maxDelayMs", "should be more than 0, not -0.001", ""),
    (
        read(retry={"maxDelayMs": "x"}),
        ".retry.maxDelayMs",
        "should be a number, not a string",
        "",
    ),
    (action("ai/embeds"), ".action", 'unknown action "ai/embeds"', "ai/embed"),
    (
        {**action("ai/embed"), "provider": "ai/openai"},
        ".provider",
        'unknown provider "ai/openai"',
        "ai/openai-embedding",
    ),
    (action("sql/filter"), ".params", '"conditions" is missing', ""),
    (
        action("sql/filter", conditions=[], mode=["and"]),
        ".params.mode",
        'should be "and" or "or", not an array',
        "",
    ),
    (
        action("sql/filter", conditions=[{"column": "a", "op": "notin", "value": []}]),
        ".params.conditions[0].op",
        'unknown operator "notin"',
        "notIn",
    ),
    (
        action("sql/filter", conditions=[{"column": "a", "op": "in", "value": 1}]),
        ".params.conditions[0].value",
        "should be an array, not a number",
        "",
    ),
    (
        action("sql/filter", conditions=[{"column": "a", "op": "eq", "value": {}}]),
        ".params.conditions[0].value",
        "should be one value, not an object",
        "",
    ),
    (
        action("sql/filter", conditions=[{"col": "a", "op": "eq"}]),
        ".params.conditions[0].col",
        'unknown key "col"',
        "column",
    ),
    (
        action("sql/coerce", columns={"a": "int"}),
        ".params.columns.a",
        'unknown type "int"',
        "",
    ),
    (action("sql/project"), ".params", 'should say either "keep" or "drop"', ""),
]


@pytest.mark.parametrize(("node", "place", "message", "hint"), MISTAKES)
def test_a_mistake_is_told_where_the_author_made_it(node, place, message, hint):
    document = chain({"type": "fanout"}, node)
    document["edges"] += [{"from": "n1", "to": "n0"}]
    found = mistakes(document)
    assert [(path, said) for path, said, _ in found] == [(f"$.nodes[1]{place}", message)]
    assert hint in (found[0][2] or "")


def test_casts_do_what_they_do_there():
    made = translated("sql/coerce", columns={"s": "number", "n": "string", "b": "boolean"})[1][
        "set"
    ]
    sql = ", ".join(f"{expression} AS {column}" for column, expression in made.items())
    rows = duckdb.sql(
        f"SELECT {sql} FROM (VALUES ('1.5', 1, 'x'), ('x', NULL, ''), (NULL, 0, NULL)) t(s, n, b)"
    )
    assert rows.fetchall() == [(1.5, "1", True), (None, None, False), (None, "0", None)]


def test_the_fixtures_are_what_the_runtime_publishes():
    for file in ("rag.json", "crm.json"):
        document = json.loads((PUBLISHED / file).read_text())
        assert {node["type"] for node in document["nodes"]} <= {
            "source",
            "action",
            "target",
            "fanout",
        }
