"""Dead letters in an object store: listed and replayed where there is nothing else."""

import shutil
from pathlib import Path

import pytest
from counting import numbers_in
from test_dead_letters import chain, counter, pay, table
from test_object_storage import environment, s3_server

from nvisy_dagster.engine.dead_letter_box import ALL, DeadLetterBox
from nvisy_dagster.engine.failure import NodeError
from nvisy_dagster.engine.replay import Replay
from nvisy_dagster.engine.run import run_plan
from nvisy_dagster.engine.storage_place import storage_root

__all__ = ["environment", "s3_server"]

pytestmark = pytest.mark.anyio


@pytest.mark.usefixtures("environment")
async def test_another_machine_replays(tmp_path: Path) -> None:
    root = storage_root()
    box = DeadLetterBox(root, "g")
    await run_plan(chain(counter(), pay(tmp_path, poison=[7, 500]), table(tmp_path)), {})
    shutil.rmtree(tmp_path / "work")
    assert box.letters()["position"].to_pylist() == [7, 500]
    failing = chain(counter(), pay(tmp_path), {**table(tmp_path, refuse=[7]), "on_error": "fail"})
    with pytest.raises(NodeError, match="7 is refused"):
        await Replay(failing, root, "first").run({})
    shutil.rmtree(tmp_path / "work")
    assert box.letters().num_rows == 2
    (tmp_path / "ledger").write_text("")
    half = chain(counter(), pay(tmp_path), table(tmp_path, refuse=[7]))
    result = await Replay(half, root, "second").run({})
    # What was paid for in the first attempt was kept.
    assert (tmp_path / "ledger").read_text() == ""
    assert (result.letters, result.through, result.failed) == (2, 2, 1)
    shutil.rmtree(tmp_path / "work")
    assert numbers_in(tmp_path / "out.db") == [n for n in range(1000) if n != 7]
    [left] = box.letters().to_pylist()
    assert (left["node"], left["position"]) == ("out", 7)
    assert box.letters(ALL)["status"].to_pylist().count("replayed") == 2
