"""Workers that are killed in a real deployment: Dagster's daemon launches their runs again."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli.conftest import action, counter, table, write_graph
from cli.served import Served, serving
from engine.counting import numbers_in
from obstore.store import S3Store
from servers.seaweedfs import S3Server, seaweedfs

pytestmark = [pytest.mark.timeout(300), pytest.mark.soak]

ROWS = 600
EPOCH_ROWS = 50
BUCKET = "nvisy-dev-state"


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


def slow_graph(folder: Path, name: str, pause_seconds: float = 0.15, **more: Any) -> None:
    """600 numbers in some ten seconds, one stage, a checkpoint every 50 of them."""
    (folder / name).mkdir()
    nodes = [
        counter(rows=ROWS, batch_rows=10, pause_seconds=pause_seconds),
        {**action("pay", ledger=str(folder / name / "ledger")), "materialize": False},
        table(folder / name),
    ]
    write_graph(folder / f"{name}.json", nodes, checkpoint={"interval_rows": EPOCH_ROWS}, **more)


def paid(folder: Path, name: str) -> list[int]:
    ledger = folder / name / "ledger"
    return [int(line) for line in ledger.read_text().split()] if ledger.exists() else []


def kill_half_way(served: Served, folder: Path, name: str, run: str) -> None:
    worker = served.worker(run)
    served.wait(lambda: len(paid(folder, name)) > ROWS // 3)
    os.kill(worker, signal.SIGKILL)


def check_retried(served: Served, folder: Path, name: str, run: str) -> dict[str, Any]:
    """The daemon launches it again, and it goes on; returns the second run."""
    again = served.wait(lambda: [r for r in served.runs(name) if r["runId"] != run], 120)[0]
    assert again["tags"]["dagster/parent_run_id"] == run
    assert served.ended(again["runId"], 120) == "SUCCESS", served.messages(again["runId"])[-3000:]
    statuses = {one["runId"]: one["status"] for one in served.runs(name)}
    assert statuses == {run: "FAILURE", again["runId"]: "SUCCESS"}
    # None is lost, none is doubled, and what is done again is at most what no checkpoint covers:
    # an epoch, and what was under way behind it.
    assert numbers_in(folder / name / "t.db") == list(range(ROWS))
    assert set(paid(folder, name)) == set(range(ROWS))
    assert len(paid(folder, name)) <= ROWS + 3 * EPOCH_ROWS
    return again


def test_a_killed_run_is_launched_again_and_goes_on(start, here, environment):
    """By the tags of its graph, and by those of the run."""
    tags = {"dagster/max_retries": "2", "dagster/priority": "3", "team": "sales"}
    slow_graph(here, "tagged", tags=tags)
    slow_graph(here, "plain")
    slow_graph(here, "never")
    with serving(start, here, environment=environment) as served:
        runs = {
            "tagged": served.launch("tagged"),
            "plain": served.launch("plain", max_retries="1"),
            "never": served.launch("never"),
        }
        for name, run in runs.items():
            kill_half_way(served, here, name, run)
        again = check_retried(served, here, "tagged", runs["tagged"])
        assert again["tags"].items() >= {**tags, "nvisy/graph": "tagged"}.items()
        check_retried(served, here, "plain", runs["plain"])
        # Nobody asked for it.
        assert [one["status"] for one in served.runs("never")] == ["FAILURE"]


def test_so_it_is_with_its_state_in_an_object_store(start, here, environment, s3_server):
    variables = {
        "AWS_ENDPOINT_URL": s3_server.endpoint,
        "AWS_ACCESS_KEY_ID": s3_server.access_key_id,
        "AWS_SECRET_ACCESS_KEY": s3_server.secret_access_key,
        "AWS_REGION": s3_server.region,
        "NVISY_STORAGE": f"s3://{BUCKET}/state",
    }
    bucket = S3Store(
        BUCKET,
        endpoint=s3_server.endpoint,
        access_key_id=s3_server.access_key_id,
        secret_access_key=s3_server.secret_access_key,
        region=s3_server.region,
        client_options={"allow_http": True},
    )
    bucket.put("exists", b"")  # an upload makes its bucket
    slow_graph(here, "far", tags={"dagster/max_retries": "1"})
    with serving(start, here, environment={**environment, **variables}) as served:
        run = served.launch("far")
        kill_half_way(served, here, "far", run)
        check_retried(served, here, "far", run)
    kept = [found["path"] for batch in bucket.list("state") for found in batch]
    assert any(path.endswith("checkpoint.json") for path in kept)
    assert any("/lease/" in path for path in kept)
