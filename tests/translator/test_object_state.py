"""State in an object store, through Dagster: manifests, parts and progress, on two machines."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster_project import Project
from obstore.store import S3Store
from servers.seaweedfs import S3Server, seaweedfs

from nvisy_dagster.engine.object_storage import open_object_storage

BUCKET = "nvisy-dagster-state"


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


def test_a_failed_run_goes_on_on_another_machine(
    project: Project, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_access_key)
    monkeypatch.setenv("AWS_REGION", s3_server.region)
    monkeypatch.setenv("NVISY_WORK", str(tmp_path / "here"))
    open_object_storage.cache_clear()
    bucket = S3Store(BUCKET, client_options={"allow_http": True})
    bucket.put("exists", b"")  # an upload makes its bucket
    storage = f"s3://{BUCKET}/state"
    project.settings = {"retry": {"max_retries": 0}}
    project.path("fail").touch()
    assert not project.run(job=project.job(storage=storage)).success
    assert project.paid_for() == list(range(100))

    project.path("fail").unlink()
    shutil.rmtree(tmp_path / "here")
    monkeypatch.setenv("NVISY_WORK", str(tmp_path / "there"))
    result = project.run(job=project.job(storage=storage))

    assert result.success
    # What was paid for came from the store.
    assert project.paid_for() == list(range(100))
    assert project.written("paid") == list(range(100))
    kept = [found["path"] for batch in bucket.list("state") for found in batch]
    assert any(path.endswith(".arrow") for path in kept)
    assert any("/manifests/" in path for path in kept)
