"""A graph that carries records from one store to another and back, by way of its published form."""

import json
from pathlib import Path
from typing import Any

import anyio
import pyarrow.parquet as pq
import pytest
from servers.azurite import ACCOUNT, KEY
from servers.stores import running

from nvisy_dagster.compiler import compile_document
from nvisy_dagster.engine.connections import open_connections
from nvisy_dagster.engine.run import run_plan
from nvisy_dagster.graph.connections import build_connections

# An emulator is installed at its first use.
pytestmark = pytest.mark.timeout(400)
ROWS = 30_000
GOOGLE, AZURE = (f"00000000-0000-4000-8000-00000000000{n}" for n in (1, 2))


@pytest.fixture(scope="module")
def gcs(tmp_path_factory):
    with running("gcs", tmp_path_factory.mktemp("gcs")) as store:
        yield store


@pytest.fixture(scope="module")
def azure(tmp_path_factory):
    with running("azure", tmp_path_factory.mktemp("azure")) as store:
        yield store


def node(place: tuple[str, str], kind: str, **params: Any) -> dict[str, Any]:
    connector, prefix = place
    params["prefix"] = f"{prefix}/"
    return {
        "id": f"{kind}_{connector}",
        "type": kind,
        "connector": connector,
        "connection": connector,
        "params": params,
    }


def carry(source: dict[str, Any], sink: dict[str, Any], connections: Any, state: Path) -> Any:
    document = {
        "name": f"{source['id']}_to_{sink['id']}",
        "nodes": [source, sink],
        "edges": [{"from": source["id"], "to": sink["id"]}],
        "checkpoint": {"interval_rows": 10_000},
    }
    plan = compile_document(document, connections=connections)
    opened = open_connections(plan, connections, {})
    return anyio.run(lambda: run_plan(plan, opened.by_name, storage=state))


def test_jsonl_there_parquet_and_back(gcs, azure, tmp_path, monkeypatch):
    rows = [{"id": n, "text": f"text {n} ü", "in": {"a": [n]}} for n in range(ROWS)]
    for part in range(3):
        lines = [json.dumps(row) for row in rows[part::3]]
        gcs.client.put(f"raw/{part}.jsonl", "\n".join(lines).encode())
    (tmp_path / "key.json").write_text(gcs.fields["service_account_key"])
    connections = build_connections({
        # Where secrets may not be written, files and references stand for them.
        "gcs": {
            "type": "gcs",
            "bucket": "tests",
            "endpoint": gcs.endpoint,
            "key_filename": str(tmp_path / "key.json"),
        },
        "azure": {
            "type": "azure",
            "container": "tests",
            "account_name": ACCOUNT,
            "endpoint": azure.endpoint,
            "account_key": KEY,
        },
    })
    at = tmp_path / "state"
    result = carry(
        node(("gcs", "raw"), "source", format="jsonl", batch_rows=5_000),
        node(("azure", "tables"), "sink", format="parquet"),
        connections,
        at,
    )
    assert sum(metrics.counts.dropped for metrics in result.metrics.values()) == 0
    stored = azure.objects("tables")
    assert len(stored) >= 2
    assert all(key.endswith(".parquet") for key in stored)
    for number, data in enumerate(stored.values()):
        (tmp_path / f"{number}.parquet").write_bytes(data)
    tables = [pq.read_table(tmp_path / f"{n}.parquet").to_pylist() for n in range(len(stored))]
    assert sorted((row for table in tables for row in table), key=lambda row: row["id"]) == rows

    carry(
        node(("azure", "tables"), "source", format="parquet"),
        node(("gcs", "back"), "sink", format="jsonl"),
        connections,
        at,
    )
    back = [json.loads(line) for d in gcs.objects("back").values() for line in d.splitlines()]
    assert sorted(back, key=lambda row: row["id"]) == rows


def published(kind: str, number: int, provider: str, connection: str, prefix: str) -> dict:
    return {
        "id": f"00000000-0000-4000-8000-0000000001{number:02}",
        "type": kind,
        "provider": provider,
        "stream": "object/read" if kind == "source" else "object/write",
        "connection": connection,
        "params": {"prefix": prefix},
    }


def test_published_graphs_reach_them(gcs, azure, tmp_path):
    azure.client.put("published/a.txt", b"text")
    (tmp_path / "key.json").write_text(gcs.fields["service_account_key"])
    string = f"AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={azure.endpoint}"
    connections = build_connections({
        GOOGLE: {
            "type": "gcs",
            "credentials": {
                "projectId": "p",
                "bucket": "tests",
                "keyFilename": str(tmp_path / "key.json"),
            },
            "context": {},
        },
        AZURE: {
            "type": "azure",
            "credentials": {
                "accountName": ACCOUNT,
                "containerName": "tests",
                "connectionString": string,
            },
            "context": {},
        },
    })
    there = published("source", 1, "object/azure", AZURE, "published/")
    sinks = {
        "object/azure": published("target", 2, "object/azure", AZURE, "written/"),
        "object/gcs": published("target", 3, "object/gcs", GOOGLE, "written/"),
    }
    for provider, sink in sinks.items():
        document = {
            "id": "00000000-0000-4000-8000-000000000100",
            "nodes": [there, sink],
            "edges": [{"from": there["id"], "to": sink["id"]}],
        }
        plan = compile_document(document, connections=connections)
        opened = open_connections(plan, connections, {})
        if provider == "object/gcs":  # published ones are always Google's own
            assert opened.by_name[GOOGLE].location() == "gs://tests"
        else:
            state = tmp_path / "state"
            anyio.run(lambda: run_plan(plan, opened.by_name, storage=state))  # noqa: B023 - at once
    (data,) = azure.objects("written").values()
    assert b"text" in data
