"""The example with a bucket, an API and a server, against servers that speak their protocols."""

import json
import socket
import subprocess
import sys
import time

import pytest
from servers.seaweedfs import seaweedfs

from nvisy_dagster.compiler import compile_file

SERVERS = "tests/servers"
GRAPH = "examples/articles/articles.json"
ARTICLES = [
    {"title": "Arrow", "text": "Columns in memory, the same for every language.", "lang": "en"},
    {"title": "Pfeil", "text": "Spalten im Speicher.", "lang": "de"},
    {"title": "Qdrant", "text": "A database of vectors that finds what is near.", "lang": "en"},
]


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    from obstore.store import S3Store

    with seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
        store = S3Store(
            "lake",
            endpoint=server.endpoint,
            access_key_id=server.access_key_id,
            secret_access_key=server.secret_access_key,
            region=server.region,
            client_options={"allow_http": True},
        )
        lines = "".join(json.dumps(article) + "\n" for article in ARTICLES)
        store.put("articles/2026/01.jsonl", lines.encode())
        yield server


@pytest.fixture
def openai(request):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = str(request.config.rootpath / SERVERS / "openai_stub.py")
    with subprocess.Popen([sys.executable, script, str(port), "--dimensions", "1536"]) as process:
        try:
            _wait(port, process)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()


def _wait(port, process):
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail("the embeddings server does not answer")


@pytest.fixture
def qdrant(request):
    script = str(request.config.rootpath / SERVERS / "qdrant_facade.py")
    command = [sys.executable, script, "--api-key", "test-key"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def test_compiles_without_its_secrets(checkout):
    plan = compile_file(checkout / GRAPH)
    assert [stage.nodes for stage in plan.stages][-1] == ["index"]
    assert plan.schedule is not None


def test_articles(run, s3, openai, qdrant):
    env = {
        "ARTICLES_BUCKET": "lake",
        "S3_ENDPOINT": s3.endpoint,
        "AWS_ACCESS_KEY_ID": s3.access_key_id,
        "AWS_SECRET_ACCESS_KEY": s3.secret_access_key,
        "OPENAI_BASE_URL": openai,
        "OPENAI_API_KEY": "sk-test",
        "QDRANT_URL": qdrant,
        "QDRANT_API_KEY": "test-key",
    }
    said = run("nvisy", "run", GRAPH, env=env)
    assert "3 records read, 2 written" in said

    # The stub's vectors follow from the text: asking for a text finds that text.
    question = ARTICLES[2]["text"]
    answer = run("nvisy", "search", GRAPH, question, "--json", env=env)
    hits = json.loads(answer)["hits"]
    assert {hit["payload"]["title"] for hit in hits} == {"Arrow", "Qdrant"}
    assert hits[0]["text"] == question
    assert hits[0]["score"] == pytest.approx(1, abs=1e-4)
    assert (
        hits[0]["trace"]["source"]
        == f"s3://{s3.endpoint.removeprefix('http://')}/lake/articles/2026/01.jsonl"
    )
    assert hits[0]["trace"]["position"] == 3  # the line
