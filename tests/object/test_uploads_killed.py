"""A run that is killed while its parts are on their way: nothing is seen of them, nothing lost."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import upload_target
from object_servers import BUCKET
from upload_target import BATCH_ROWS, EPOCH_ROWS, ROWS, SENT, TEXT_BYTES

STORMS = [f"{place}:{n}" for n in range(1, 25) for place in ("sink.after_write",)] + [
    f"{place}:{n}"
    for n in (1, 2, 3)
    for place in ("sink.before_commit", "sink.after_commit", "checkpoint.after_write")
]
FEW = {"sink.after_write:7", "sink.after_commit:1"}
WITH_COPIES = "sink.after_write:7"


@pytest.fixture
def environment(s3_server, place: str) -> dict[str, str]:
    fields = {
        "type": "s3",
        "bucket": BUCKET,
        "region": s3_server.region,
        "endpoint": s3_server.endpoint,
        "access_key_id": s3_server.access_key_id,
        "secret_access_key": s3_server.secret_access_key,
    }
    return {**os.environ, "NVISY_TEST_STORE": json.dumps(fields), "NVISY_TEST_PREFIX": place}


def run(folder: Path, environment: dict[str, str]) -> int:
    command = [sys.executable, upload_target.__file__, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in {0, -signal.SIGKILL}, done.stderr
    return done.returncode


def parts(s3, place: str) -> dict[str, list[int]]:
    """The numbers of the records of each part that can be seen."""
    keys = sorted(found["path"] for batch in s3.list(place) for found in batch)
    return {
        key: [json.loads(line)["n"] for line in bytes(s3.get(key).bytes()).splitlines()]
        for key in keys
    }


@pytest.mark.parametrize(
    ("failpoint", "copies"),
    [
        pytest.param(one, copies, marks=[] if few else pytest.mark.soak)
        for copies in (False, True)
        for one in STORMS
        for few in [one == WITH_COPIES if copies else one in FEW]
    ],
)
def test_nothing_is_lost_or_doubled(tmp_path, s3, place, environment, failpoint, copies) -> None:
    if copies:
        environment["NVISY_TEST_COPIES"] = "kept"
    text = random.Random(7).randbytes(TEXT_BYTES // 2).hex()
    lines = (json.dumps({"n": n, "text": text}) for n in range(ROWS))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))

    assert run(tmp_path, {**environment, "NVISY_FAILPOINT": failpoint}) == -signal.SIGKILL
    seen = parts(s3, place)
    where, count = failpoint.split(":")
    committed = {
        "sink.after_write": int(count) * BATCH_ROWS // EPOCH_ROWS,
        "sink.before_commit": int(count) - 1,
    }.get(where, int(count))
    assert len(seen) <= committed
    assert len(seen) == committed or where == "sink.after_write"
    found = [n for numbers in seen.values() for n in numbers]
    assert found == list(range(len(found)))
    assert len(found) <= int(count) * BATCH_ROWS or where != "sink.after_write"
    if failpoint in FEW:
        assert (tmp_path / SENT).exists(), "nothing was sent before its part was whole"

    assert run(tmp_path, environment) == 0
    written = parts(s3, place)
    assert [n for numbers in written.values() for n in numbers] == list(range(ROWS))
    kept = list(seen)[: len(seen) - (where == "sink.after_commit")]
    assert list(written)[: len(kept)] == kept, "what a checkpoint holds was written again"
