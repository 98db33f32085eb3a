"""State in an object store: a run is taken up on another machine, and one writer wins."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from obstore.store import S3Store
from servers.seaweedfs import S3Server, seaweedfs
from test_kill import ROWS, check_complete

from nvisy_dagster.engine import storage
from nvisy_dagster.engine.checkpoint import Checkpoint, CheckpointStore
from nvisy_dagster.engine.documents import VersionedDocument
from nvisy_dagster.engine.failure import StorageError
from nvisy_dagster.engine.lease import FencedError, Lease
from nvisy_dagster.engine.object_storage import ObjectStorage, open_object_storage
from nvisy_dagster.engine.progress import ProgressStore
from nvisy_dagster.engine.storage_place import here, storage_name, storage_root

BUCKET = "nvisy-state"
PROGRAM = """
import sys
from pathlib import Path

import anyio
import kill_target

from nvisy_dagster.engine.run import run_plan

plan = kill_target.plan(Path(sys.argv[1]), int(sys.argv[2]))
result = anyio.run(lambda: run_plan(plan, {}))
for node in result.metrics.values():
    print(node.node, node.counts.records_in, node.counts.records_out, node.counts.dropped)
"""
"""A run whose storage the environment names."""


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture
def environment(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    variables = {
        "AWS_ENDPOINT_URL": s3_server.endpoint,
        "AWS_ACCESS_KEY_ID": s3_server.access_key_id,
        "AWS_SECRET_ACCESS_KEY": s3_server.secret_access_key,
        "AWS_REGION": s3_server.region,
        "NVISY_WORK": str(tmp_path / "work"),
        "NVISY_STORAGE": f"s3://{BUCKET}/{tmp_path.name}",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    open_object_storage.cache_clear()
    client(s3_server).put("exists", b"")  # an upload makes its bucket
    return variables


def client(server: S3Server) -> S3Store:
    return S3Store(
        BUCKET,
        endpoint=server.endpoint,
        access_key_id=server.access_key_id,
        secret_access_key=server.secret_access_key,
        region=server.region,
        client_options={"allow_http": True},
    )


@pytest.fixture
def root(environment: Any) -> Path:
    return storage_root()


def start(folder: Path, **environment: str) -> "subprocess.Popen[str]":
    tests = Path(__file__).parent
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            PROGRAM,
            str(folder),
            str(ROWS),
        ],
        env={**os.environ, "PYTHONPATH": str(tests), "NVISY_LEASE_SECONDS": "2", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def keys(server: S3Server, prefix: str) -> list[str]:
    return sorted(found["path"] for batch in client(server).list(prefix) for found in batch)


@pytest.mark.parametrize(
    "place",
    [
        "object.before_put:6",
        "checkpoint.after_write:6",
        "lease.after_create:2",
        *(
            pytest.param(place, marks=pytest.mark.soak)
            for place in (
                "object.after_upload:2",
                "sink.after_commit:3",
                "part.before_close:2",
                "object.before_upload:2",
                "checkpoint.before_write:3",
                "lease.before_create:2",
            )
        ),
    ],
)
def test_a_killed_run_goes_on_where_nothing_local_is_left(
    environment: Any, s3_server: S3Server, tmp_path: Path, place: str
) -> None:
    killed = start(tmp_path, NVISY_FAILPOINT=place)
    killed.communicate(timeout=180)
    assert killed.returncode == -signal.SIGKILL
    shutil.rmtree(tmp_path / "work", ignore_errors=True)

    again = start(tmp_path, NVISY_WORK=str(tmp_path / "elsewhere"))
    output, errors = again.communicate(timeout=180)

    assert again.returncode == 0, errors
    check_complete(tmp_path, output)
    names = [key.rpartition("/")[2] for key in keys(s3_server, tmp_path.name)]
    assert "chains.json" in names
    assert names.count("checkpoint.json") == 2


def test_a_second_run_is_told_that_one_is_going_on(environment: Any, tmp_path: Path) -> None:
    first = start(tmp_path)
    while not (tmp_path / "ledger").exists() and first.poll() is None:
        pass
    # It would be quicker than the start of the second one.
    first.send_signal(signal.SIGSTOP)
    second = start(tmp_path, NVISY_WORK=str(tmp_path / "elsewhere"))
    _, errors = second.communicate(timeout=180)
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 1
    assert "is running this graph now" in errors
    output, errors = first.communicate(timeout=180)
    assert first.returncode == 0, errors
    check_complete(tmp_path, output)


def test_of_two_writers_of_one_version_one_loses(root: Path) -> None:
    store = open_object_storage(os.environ["NVISY_STORAGE"])
    assert store.put_if("document", b"0", None) is not None
    assert store.put_if("document", b"1", None) is None
    version = version_of(store)
    for round_ in range(10):
        won: list[Any] = []
        line = threading.Barrier(4)

        def write(data: bytes, version: Any = version, line: Any = line, won: Any = won) -> None:
            line.wait()
            won.append(store.put_if("document", data, version))

        threads = [
            threading.Thread(target=write, args=(f"{round_} {n}".encode(),)) for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (version,) = [one for one in won if one is not None]
    assert version_of(store) == version


def version_of(store: ObjectStorage) -> Any:
    found = store.get("document")
    assert found is not None
    return found.version


def silence(folder: Path) -> None:
    """Make the lease of a folder look as if it was not renewed for long."""
    path = folder / "lease" / max(storage.names(folder / "lease"))
    storage.replace_json(path, {**storage.read_json(path), "renewed_uptime": 0.0})


def test_an_earlier_holder_cannot_replace_the_checkpoint(root: Path) -> None:
    folder = root / "graphs" / "g" / "chain" / "stage"
    path = folder / "checkpoint.json"
    with Lease(folder, "first") as old:
        before = CheckpointStore(path, old)
        before.claim()
        before.write(Checkpoint(epoch=1))
        # It looked just before the other took over, and writes only now.
        blind = VersionedDocument(path, Checkpoint, "", None)
        assert blind.read() is not None
        silence(folder)
        with Lease(folder, "second") as new:
            after = CheckpointStore(path, new)
            assert after.claim().epoch == 1
            with pytest.raises(StorageError, match="another process replaced"):
                blind.write(Checkpoint(epoch=9))
            with pytest.raises(FencedError, match="run second took over from run first"):
                before.write(Checkpoint(epoch=9))
            after.write(Checkpoint(epoch=2))
    assert CheckpointStore(path).read().epoch == 2


def test_one_chain_for_runs_that_begin_at_once(root: Path) -> None:
    chains: list[str] = []
    threads = [
        threading.Thread(target=lambda n=n: chains.append(ProgressStore(root, "g").begin(f"r{n}")))
        for n in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(chains)) == 1
    state = storage.read_json(root / "graphs" / "g" / "chains.json")
    assert sorted(state["chains"][chains[0]]["runs"]) == sorted(f"r{n}" for n in range(12))


def test_a_store_that_refuses_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageError, match=rf"s3://{BUCKET}/") as caught:
        ObjectStorage(os.environ["NVISY_STORAGE"]).names("")
    assert "credentials" in str(caught.value)
    assert "wrong" not in str(caught.value)


@pytest.mark.parametrize("text", ["s3://b/some/prefix", "s3://b/some/prefix/", "s3:/b/some/prefix"])
def test_a_url_is_told_from_a_folder(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVISY_WORK", str(tmp_path))
    root = storage_root(text)
    assert root.parent == tmp_path
    assert storage_name(root) == "s3://b/some/prefix"
    assert storage_root(str(root)) == root
    assert storage_root(str(tmp_path)) == tmp_path
    assert here(Path("/other/machine") / root.name / "graphs" / "x") == root / "graphs/x"
