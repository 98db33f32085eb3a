"""A commit longer than `timeout.call_seconds`: told as such, made again, nothing doubled."""

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from nvisy_connectors.object.sink import ObjectSink
from nvisy_dagster.compiler import compile_document
from nvisy_dagster.engine.failure import NodeError
from nvisy_dagster.engine.run import RunResult, run_plan

pytestmark = pytest.mark.anyio

ROWS = 50


async def run(folder: Path) -> RunResult:
    (folder / "in.jsonl").write_text("\n".join(json.dumps({"n": n}) for n in range(ROWS)))
    read = {"path": str(folder / "in.jsonl"), "format": "jsonl"}
    write = {"path": str(folder / "out"), "format": "jsonl"}
    document = {
        "name": "slow",
        "nodes": [
            {"id": "read", "type": "source", "connector": "local", "params": read},
            {"id": "write", "type": "sink", "connector": "local", "params": write},
        ],
        "edges": [{"from": "read", "to": "write"}],
        "timeout": {"call_seconds": 1},
        "retry": {"max_retries": 1, "initial_delay_seconds": 0.01},
    }
    return await run_plan(compile_document(document), {}, storage=folder / "state")


def written(folder: Path) -> list[int]:
    files = sorted((folder / "out").rglob("*.jsonl"))
    return sorted(json.loads(line)["n"] for f in files for line in f.read_text().splitlines())


def slow_down(monkeypatch: pytest.MonkeyPatch, times: int) -> list[int]:
    """The first commits are done, and then do not return in time."""
    commit: Any = ObjectSink.commit
    commits: list[int] = []

    async def slow(self: Any, epoch: int) -> None:
        await commit(self, epoch)
        commits.append(epoch)
        if len(commits) <= times:
            await anyio.sleep(5)

    monkeypatch.setattr(ObjectSink, "commit", slow)
    return commits


async def test_it_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = slow_down(monkeypatch, 1)
    result = await run(tmp_path)
    assert len(commits) == 2
    assert result.metrics["write"].counts.retries == 1
    assert written(tmp_path) == list(range(ROWS))


async def test_always_too_slow_it_is_told_and_the_next_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_down(monkeypatch, 2)
    with pytest.raises(NodeError, match="a commit took longer than 1") as caught:
        await run(tmp_path)
    assert caught.value.tag == "timeout"
    assert "call_seconds" in (caught.value.remedy or "")
    await run(tmp_path)
    assert written(tmp_path) == list(range(ROWS))
