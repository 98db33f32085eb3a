"""State in Google Cloud Storage and in Azure: the same promises as in S3, on their emulators."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from object_target import check_complete
from servers.azurite import REQUIRED_VARIABLE, azurite
from servers.fault_proxy import KINDS, fault_proxy
from servers.gcs import gcs

from nvisy_dagster.engine import object_storage, storage
from nvisy_dagster.engine.checkpoint import Checkpoint, CheckpointStore
from nvisy_dagster.engine.documents import VersionedDocument
from nvisy_dagster.engine.failure import StorageError
from nvisy_dagster.engine.lease import FencedError, Lease
from nvisy_dagster.engine.object_storage import ObjectStorage, open_object_storage
from nvisy_dagster.engine.progress import ProgressStore
from nvisy_dagster.engine.storage_place import storage_root

# Azurite is installed at its first use.
pytestmark = pytest.mark.timeout(400)
BUCKET = "nvisy-state"
SERVERS = {"gs": gcs, "az": azurite}


@dataclass(frozen=True)
class Place:
    """An emulator, and how the environment names it."""

    scheme: str
    server: Any


@pytest.fixture(scope="session", params=SERVERS)
def place(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp(request.param)
    running = SERVERS[request.param](folder, BUCKET)
    try:
        server = running.__enter__()
    except FileNotFoundError as error:
        if os.environ.get(REQUIRED_VARIABLE):
            raise
        pytest.skip(str(error))
    yield Place(request.param, server)
    running.__exit__(None, None, None)


@pytest.fixture
def root(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    variables = {
        **place.server.environment,
        "NVISY_WORK": str(tmp_path / "work"),
        "NVISY_STORAGE": f"{place.scheme}://{BUCKET}/{tmp_path.name}",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    open_object_storage.cache_clear()
    return storage_root()


@pytest.fixture
def store(root: Path) -> ObjectStorage:
    return open_object_storage(os.environ["NVISY_STORAGE"])


def start(folder: Path, **environment: str) -> "subprocess.Popen[str]":
    here = Path(__file__).parent
    return subprocess.Popen(
        [sys.executable, str(here / "object_target.py"), str(folder)],
        env={**os.environ, "PYTHONPATH": str(here), "NVISY_LEASE_SECONDS": "2", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_objects_are_kept_listed_and_removed(store: ObjectStorage, tmp_path: Path) -> None:
    assert store.get("a/b") is None
    assert store.names("") == []
    store.put("a/b", b"1")
    store.put("a/c d/e", b"2")
    store.put("a", b"3")
    found = store.get("a/b")
    assert found is not None
    assert found.data == b"1"
    assert sorted(store.names("a")) == ["b", "c d"]
    assert sorted(store.names_below("a")) == ["b", "c d/e"]
    assert store.is_file("a/b")
    assert not store.is_file("a/c d")
    assert store.is_kept("a/c d")
    assert not store.is_kept("a/x")
    large = tmp_path / "large"
    large.write_bytes(os.urandom(12_000_000))
    store.upload("large", large)
    store.download("large", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == large.read_bytes()
    with pytest.raises(FileNotFoundError, match="is gone"):
        store.download("none", tmp_path / "none")
    store.delete(["large", "never there"])
    store.delete_below("a")
    assert store.names_below("a") == []
    assert store.is_file("a")


def test_of_two_writers_of_one_version_one_loses(store: ObjectStorage) -> None:
    assert store.put_if("document", b"0", {**_version(store, b"x"), "e_tag": '"other"'}) is None
    version = store.put_if("document", b"0", None)
    assert version is not None
    assert store.put_if("document", b"1", None) is None
    for round_ in range(5):
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
    found = store.get("document")
    assert found is not None
    assert found.version == version


def _version(store: ObjectStorage, data: bytes) -> Any:
    version = store.put_if("another", data, None)
    assert version is not None
    return version


@pytest.mark.parametrize("kind", KINDS)
def test_a_write_whose_answer_was_lost_is_known_again(
    root: Path, place: Place, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    environment = place.server.environment
    name = next(name for name, value in environment.items() if value.startswith("http"))
    address, slash, path = environment[name].removeprefix("http://").partition("/")
    with fault_proxy(f"http://{address}") as proxy:
        monkeypatch.setenv(name, f"{proxy.endpoint}{slash}{path}")
        monkeypatch.setattr(object_storage, "RETRIES", 1)
        store = ObjectStorage(os.environ["NVISY_STORAGE"])
        proxy.fail(1, kind)
        first = store.put_if("document", b"1", None)
        assert first is not None, "its own write is taken for another's"
        proxy.fail(1, kind)
        second = store.put_if("document", b"2", first)
        assert second is not None
        proxy.fail(0, "")
        assert store.put_if("document", b"3", first) is None
        assert store.put_if("document", b"3", second) is not None


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
        lease = folder / "lease" / max(storage.names(folder / "lease"))
        storage.replace_json(lease, {**storage.read_json(lease), "renewed_uptime": 0.0})
        with Lease(folder, "second") as new:
            assert new.token > old.token
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
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(chains)) == 1
    state = storage.read_json(root / "graphs" / "g" / "chains.json")
    assert sorted(state["chains"][chains[0]]["runs"]) == sorted(f"r{n}" for n in range(8))


@pytest.mark.parametrize(
    "failpoint",
    ["checkpoint.before_write:3", pytest.param("object.after_upload:3", marks=pytest.mark.soak)],
)
def test_a_killed_run_goes_on_where_nothing_local_is_left(
    root: Path, tmp_path: Path, failpoint: str
) -> None:
    killed = start(tmp_path, NVISY_FAILPOINT=failpoint)
    _, errors = killed.communicate(timeout=180)
    assert killed.returncode == -signal.SIGKILL, errors
    shutil.rmtree(tmp_path / "work", ignore_errors=True)
    paid = (tmp_path / "ledger").read_text().split("\n")[:-1]
    (tmp_path / "ledger").unlink()

    again = start(tmp_path, NVISY_WORK=str(tmp_path / "elsewhere"))
    output, errors = again.communicate(timeout=180)

    assert again.returncode == 0, errors
    check_complete(tmp_path, output)
    twice = set(paid) & set((tmp_path / "ledger").read_text().split("\n")[:-1])
    assert len(twice) < len(paid), "it began anew"


def test_a_bucket_that_is_not_there_is_named(root: Path, place: Place) -> None:
    there = ObjectStorage(f"{place.scheme}://no-such-bucket/state")
    for call in (lambda: there.names(""), lambda: there.put_if("x", b"", None)):
        with pytest.raises(StorageError, match=r"://no-such-bucket/state.*bucket is there") as told:
            call()
        assert told.value.tag == "not_found"
