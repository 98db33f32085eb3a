"""Whatever write to an object store fails, and however: old or new, and nothing lost or doubled."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import BrokenResourceError
from counting import numbers_in, registry
from servers.fault_proxy import KINDS, FaultProxy, fault_proxy
from servers.seaweedfs import S3Server
from test_object_storage import BUCKET, environment, s3_server

from nvisy_dagster.compiler import Plan, compile_graph
from nvisy_dagster.engine import object_storage, storage
from nvisy_dagster.engine.checkpoint import Checkpoint, CheckpointStore, SourcePosition
from nvisy_dagster.engine.documents import update_model
from nvisy_dagster.engine.failure import NodeError, StorageError, first_node_error, node_error
from nvisy_dagster.engine.lease import Lease
from nvisy_dagster.engine.object_errors import kind_of, reason_of
from nvisy_dagster.engine.object_storage import open_object_storage
from nvisy_dagster.engine.run import run_plan
from nvisy_dagster.engine.storage_place import storage_root
from nvisy_dagster.graph.load import build_graph
from nvisy_dagster.sdk import NvisyError

__all__ = ["environment", "s3_server"]

BATCH_ROWS = 4
REFUSED = [7, 23]
WRITES = 60
CHECKPOINTS = 6
LONG = pytest.mark.soak


@pytest.fixture(scope="module")
def running_proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    with fault_proxy(s3_server.endpoint) as proxy:
        yield proxy


@pytest.fixture
def proxy(
    environment: Any, running_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> FaultProxy:
    """Between the state and its store; what is tried again is tried soon, and not for long."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", running_proxy.endpoint)
    monkeypatch.setattr(object_storage, "RETRIES", 1)
    monkeypatch.setattr(object_storage, "PUT_SECONDS", 0.01)
    open_object_storage.cache_clear()
    running_proxy.fail(0, "")
    return running_proxy


def checkpoint(epoch: int) -> Checkpoint:
    """One that is a few kilobytes long, and torn if it is not read whole."""
    cursor = {"epoch": epoch, "padding": f"{epoch:04d}" * 500}
    return Checkpoint(generation="g", epoch=epoch, sources={"rows": SourcePosition(cursor=cursor)})


def write_checkpoints(folder: Path) -> tuple[list[int], list[int]]:
    """Checkpoint after checkpoint; returns which were begun, and which are said to be durable."""
    begun: list[int] = [0]
    ended: list[int] = [0]
    with suppress(StorageError), Lease(folder, "run") as lease:
        store = CheckpointStore(folder / "checkpoint.json", lease)
        store.claim()
        for epoch in range(1, CHECKPOINTS):
            begun.append(epoch)
            store.write(checkpoint(epoch))
            ended.append(epoch)
    return begun, ended


@pytest.mark.parametrize(
    ("kind", "always"),
    [
        pytest.param(kind, always, marks=LONG if (kind, always) == ("refused", False) else [])
        for kind in KINDS
        for always in (False, True)
    ],
)
def test_the_nth_write_of_checkpoints_fails(
    proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, kind: str, always: bool
) -> None:
    # The lease is not renewed meanwhile: the numbers are those of the writes below.
    monkeypatch.setenv("NVISY_LEASE_SECONDS", "300")
    root = storage_root()
    failed = 0
    for number in range(1, CHECKPOINTS + 4):
        folder = root / f"{number}"
        proxy.fail(number, kind, always=always)
        begun, ended = write_checkpoints(folder)
        struck = proxy.strike is not None and proxy.strike.happened > 0
        assert struck == (number <= len(proxy.puts))
        proxy.fail(0, "")
        failed += begun != ended or ended[-1] == 0

        found = CheckpointStore(folder / "checkpoint.json").read()
        assert found.epoch in {begun[-1], ended[-1]}, (number, begun, ended)
        if found.epoch:
            assert found.model_copy(update={"token": 0}) == checkpoint(found.epoch)
        # Its successor goes on, whatever was left.
        kill_lease(folder)
        with Lease(folder, "another") as lease:
            store = CheckpointStore(folder / "checkpoint.json", lease)
            assert store.claim().epoch == found.epoch
            store.write(checkpoint(99))
        assert CheckpointStore(folder / "checkpoint.json").read().epoch == 99
    # Once is survived; and a lost answer too, as its writer finds what it wrote.
    assert (failed > 0) == (always and kind in {"refused", "torn"})


def kill_lease(folder: Path) -> None:
    """Make the lease look as if it was not renewed for long: it may not have been given back."""
    names = storage.names(folder / "lease")
    if names:
        path = folder / "lease" / max(names)
        storage.replace_json(path, {**storage.read_json(path), "renewed_uptime": 0.0})


def test_a_write_whose_answer_was_lost_is_known_again(proxy: FaultProxy) -> None:
    store = open_object_storage(os.environ["NVISY_STORAGE"])
    for always in (False, True):
        for kind in ("unanswered", "misreported"):
            name = f"{kind}-{always}"
            proxy.fail(1, kind, always=always)
            first = store.put_if(name, b"1", None)
            assert first is not None, "its own write is taken for another's"
            proxy.fail(1, kind, always=always)
            second = store.put_if(name, b"2", first)
            proxy.fail(0, "")
            assert second is not None
            assert store.put_if(name, b"3", second) is not None
            # But that of another is not.
            assert store.put_if(name, b"4", second) is None


def test_a_change_whose_answer_was_lost_is_made_once(proxy: FaultProxy) -> None:
    path = storage_root() / "counter.json"

    def more(before: Checkpoint | None) -> tuple[Checkpoint, int]:
        epoch = 1 + (before.epoch if before else 0)
        return Checkpoint(epoch=epoch), epoch

    for number, kind in enumerate(KINDS * 2, 1):
        proxy.fail(1, kind)
        assert update_model(path, Checkpoint, more, "") == number
    assert CheckpointStore(path).read().epoch == len(KINDS) * 2


def plan(folder: Path, rows: int) -> Plan:
    """Count, pay (kept between stages; some are refused), write; and write what is even."""
    document = {
        "name": "faults",
        "nodes": [
            {
                "id": "count",
                "type": "source",
                "connector": "counter",
                "params": {"rows": rows, "batch_rows": BATCH_ROWS, "pause_seconds": 0.01},
            },
            {"id": "even", "type": "action", "action": "even"},
            {
                "id": "pay",
                "type": "action",
                "action": "pay",
                "params": {"ledger": str(folder / "ledger"), "poison": REFUSED},
                "on_error": "dead_letter",
            },
            {
                "id": "paid",
                "type": "sink",
                "connector": "table",
                "params": {"path": str(folder / "paid.db")},
            },
            {
                "id": "even_out",
                "type": "sink",
                "connector": "table",
                "params": {"path": str(folder / "even.db")},
            },
        ],
        "edges": [
            {"from": "count", "to": "pay"},
            {"from": "pay", "to": "paid"},
            {"from": "count", "to": "even"},
            {"from": "even", "to": "even_out"},
        ],
        "checkpoint": {"interval_rows": BATCH_ROWS},
    }
    return compile_graph(build_graph(document), registry=registry())


def run(folder: Path, rows: int) -> dict[str, list[int]]:
    """Run it to the end; returns its counts."""
    result = anyio.run(lambda: run_plan(plan(folder, rows), {}))
    return {
        one.node: [one.counts.records_in, one.counts.records_out, one.counts.dead]
        for one in result.metrics.values()
    }


def check_complete(folder: Path, rows: int, counts: dict[str, list[int]]) -> None:
    assert numbers_in(folder / "paid.db") == [n for n in range(rows) if n not in REFUSED]
    assert numbers_in(folder / "even.db") == list(range(0, rows, 2))
    paid = rows - len(REFUSED)
    assert counts == {
        "count": [rows, rows, 0],
        "even": [rows, rows // 2, 0],
        "pay": [rows, paid, len(REFUSED)],
        "paid": [paid, paid, 0],
        "even_out": [rows // 2, rows // 2, 0],
    }


def fail_the_nth(proxy: FaultProxy, folder: Path, number: int, kind: str, *, always: bool) -> str:
    """A run whose n-th write goes wrong, and another if it fails; returns what came of it."""
    folder.mkdir()
    os.environ["NVISY_STORAGE"] = f"s3://{BUCKET}/{folder.parent.name}/{folder.name}"
    # Long enough to write so often: mostly, as barriers wait for one another.
    rows = BATCH_ROWS * (number + 10)
    proxy.fail(number, kind, always=always)
    failure: NvisyError | None = None
    counts: dict[str, list[int]] = {}
    try:
        counts = run(folder, rows)
    except (NodeError, StorageError) as error:
        failure = error
    struck = proxy.strike is not None and proxy.strike.happened
    proxy.fail(0, "")
    if failure is not None:
        assert failure.remedy, failure
        assert failure.tag in {"server", "connection"}, (failure.tag, str(failure))
        counts = run(folder, rows)
    check_complete(folder, rows, counts)
    if failure is not None:
        return "failed"
    return "survived" if struck else "not struck"


@pytest.mark.parametrize(
    ("always", "first", "step"),
    [
        pytest.param(False, 3, 30, id="once"),
        pytest.param(True, 1, 40, id="always"),
        *(pytest.param(False, n, 10, id=f"once-{n}", marks=LONG) for n in range(1, 11)),
        *(pytest.param(True, n, 10, id=f"always-{n}", marks=LONG) for n in range(1, 11)),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_the_nth_write_of_a_run_fails(
    proxy: FaultProxy, tmp_path: Path, kind: str, first: int, step: int, always: bool
) -> None:
    came = [
        fail_the_nth(proxy, tmp_path / f"{number}", number, kind, always=always)
        for number in range(first, WRITES + 1, step)
    ]
    assert came.count("not struck") <= len(came) // 2, came
    if not always:
        assert "failed" not in came, "a hiccup of the store costs no run"


def test_a_store_that_is_full_says_so(proxy: FaultProxy, tmp_path: Path) -> None:
    rows = 100
    full = {
        "507 Insufficient Storage": "XMinioStorageFull",
        "403 Forbidden": "QuotaExceeded",
    }
    for at, (status, code) in enumerate(full.items()):
        text = f"<Error><Code>{code}</Code></Error>"
        proxy.refuse_all(status, text, after=12 + 3 * at)
        with pytest.raises(
            (NodeError, StorageError), match=r"make room or raise its quota"
        ) as told:
            run(tmp_path, rows)
        assert told.value.tag == "quota"
        assert f"{code} ({status})" in str(told.value)
        assert "://" in str(told.value), "where"
    proxy.fail(0, "")
    check_complete(tmp_path, rows, run(tmp_path, rows))


def test_a_store_that_forbids_says_so(proxy: FaultProxy, tmp_path: Path) -> None:
    proxy.refuse_all("403 Forbidden", "<Error><Code>AccessDenied</Code></Error>")
    with pytest.raises(StorageError, match=r"credentials") as told:
        run(tmp_path, 100)
    assert told.value.tag == "auth"
    assert proxy.endpoint not in str(told.value), "an address may hold a signature"
    proxy.fail(0, "")
    check_complete(tmp_path, 100, run(tmp_path, 100))


def test_a_signature_is_not_told() -> None:
    said = (
        "Generic MicrosoftAzure error: Error performing PUT https://a.blob.core/c/x?sig=SECRET in "
        "2.1s, after 5 retries - Server returned 500 for https://a.blob.core/c/x?sv=1&sig=SECRET"
    )
    assert "SECRET" not in reason_of(ValueError(said))


def test_an_answer_in_xml_is_told_by_its_code_and_message() -> None:
    said = (
        "Generic S3 error: Error performing GET http://127.0.0.1:1/b?list-type=2 in 2.1s - Server "
        'returned non-2xx status code: 403 Forbidden: <?xml version="1.0" encoding="UTF-8"?>\n'
        "<Error><Code>AccessDenied</Code><Message>Not &quot;yours&quot;.</Message>"
        "<Resource>/b</Resource><RequestId>18EA</RequestId></Error>\n\nDebug source:\nGeneric {"
    )
    assert reason_of(ValueError(said)) == 'AccessDenied (403 Forbidden): Not "yours".'
    cut = said.replace("Code>", "Cod")
    assert "xml" not in reason_of(ValueError(cut))
    # A listing that is refused is of no class of its own.
    tag, remedy = kind_of(ValueError(said))
    assert tag == "auth"
    assert "credentials" in remedy


def test_what_a_node_is_told_of_its_neighbours_end_is_not_the_reason() -> None:
    """The store fails what writes the parts, and the node before it notices first."""
    broken = node_error("pay", BrokenResourceError())
    broken.__cause__ = BrokenResourceError()
    full = StorageError("s3://b/x: full", tag="quota")
    assert first_node_error(BaseExceptionGroup("", [broken, full])) is full
    own = node_error("other", ValueError("its own"))
    assert first_node_error(BaseExceptionGroup("", [broken, full, own])) is own
    assert first_node_error(BaseExceptionGroup("", [broken])) is broken
