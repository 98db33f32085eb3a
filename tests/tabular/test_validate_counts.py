"""How many records break each rule: counted like records, whatever happens on the way."""

import itertools
import json
from pathlib import Path
from typing import Any

import anyio
import pytest
from click.testing import CliRunner
from tabular_graphs import OUT, action, document, rows_source, write_rows

from nvisy_connectors.object.local import LocalSink
from nvisy_connectors.tabular.validate import Validate
from nvisy_dagster.cli.app import cli
from nvisy_dagster.compiler import Plan, compile_document
from nvisy_dagster.engine.failure import NodeError
from nvisy_dagster.engine.run import run_plan
from nvisy_dagster.sdk import TransientError

RULES = [
    {"name": "positive", "check": "n > 0"},
    {"name": "whole", "check": "n::INTEGER >= 0 OR n % 10 > 0"},
    {"name": "odd", "check": "n % 2 = 1", "severity": "warn"},
]
SCHEMA = {"properties": {"n": {"maximum": 180}}}
FOUND = {
    "rule 'positive'": 21,
    "rule 'whole'": 20,
    "rule 'odd', a warning": 120,
    "JSON Schema": 19,
}


def graph(**more: Any) -> dict[str, Any]:
    check = action("validate", "check", rules=RULES, json_schema=SCHEMA)
    source = rows_source("rows", {"n": "int64"}, batch_rows=10)
    return document([source, {**check, "on_error": "drop"}, OUT], "rows check", "check out", **more)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    write_rows(tmp_path, "rows", [{"n": n} for n in range(-20, 200)])
    soon = {"initial_delay_seconds": 0.01, "backoff": "fixed"}
    often = graph(checkpoint={"interval_rows": 20, "interval_seconds": 1000}, retry=soon)
    return compile_document(often, folder=tmp_path)


def findings(folder: Path, plan: Plan) -> dict[str, int]:
    result = anyio.run(lambda: run_plan(plan, {}, storage=folder / "state"))
    check = result.metrics["check"]
    assert check.counts.records_in == 220
    assert check.counts.dropped == check.counts.failed == 40
    return check.findings


def test_a_run_that_goes_on_counts_each_record_once(
    tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = LocalSink.write, []

    async def failing(self: LocalSink, batch: Any) -> None:
        calls.append(batch.num_rows)
        if len(calls) == 11:
            raise RuntimeError("the process might as well have died")
        await write(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(LocalSink, "write", failing)
        with pytest.raises(NodeError, match="as well have died"):
            findings(tmp_path, plan)
    assert findings(tmp_path, plan) == FOUND


def test_calls_that_are_made_again_count_once(
    tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    transform, calls, failed = Validate.transform, itertools.count(), []

    def flaky(self: Validate, batch: Any) -> Any:
        call = next(calls)  # Several at once: each has a number of its own.
        done = transform(self, batch)
        if call % 8 == 0:
            failed.append(call)
            raise TransientError("not now")
        return done

    monkeypatch.setattr(Validate, "transform", flaky)
    assert findings(tmp_path, plan) == FOUND
    assert failed


def test_the_end_of_a_run_tells_them(tmp_path: Path, plan: Plan) -> None:
    (tmp_path / "g.json").write_text(json.dumps(graph()))
    arguments = ["run", "--engine-only", "--storage", str(tmp_path / "state"), "--fresh"]
    told = CliRunner().invoke(cli, [*arguments, str(tmp_path / "g.json")])
    line = next(line for line in told.output.splitlines() if line.startswith("check: "))
    assert line.startswith("check: 120 broke rule 'odd', a warning, 21 broke rule 'positive'")
    told = CliRunner().invoke(cli, [*arguments, "--json", str(tmp_path / "g.json")])
    nodes = {one["id"]: one for one in json.loads(told.output)["nodes"]}
    assert nodes["check"]["findings"] == FOUND
