"""The engine's progress against a reference model: crashes, drains, refusals, retries at will."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import anyio
import oracle
import progress_parts as parts
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from nvisy_dagster.compiler import Plan, compile_graph
from nvisy_dagster.engine.drain import RunStoppedError
from nvisy_dagster.engine.run import RunResult, run_plan
from nvisy_dagster.graph.load import build_graph

ROWS = 120
TRIES = 3


def plan(interval_rows: int) -> Plan:
    nodes: list[dict[str, Any]] = [
        {"id": "told", "type": "source", "connector": "told"},
        {"id": "judge", "type": "action", "action": "judge", "on_error": "dead_letter"},
        {"id": "memory", "type": "sink", "connector": "memory"},
    ]
    document = {
        "name": "model",
        "nodes": nodes,
        "edges": [{"from": "told", "to": "judge"}, {"from": "judge", "to": "memory"}],
        "checkpoint": {"interval_rows": interval_rows},
        "retry": {"max_retries": TRIES, "initial_delay_seconds": 0.001},
    }
    return compile_graph(build_graph(document), registry=parts.registry())


class Progress(RuleBasedStateMachine):
    """The model: a number's fate is fixed by what is refused, and whatever is done is done once."""

    @initialize(interval=st.integers(1, 40), batch=st.integers(1, 12))
    def begin(self, interval: int, batch: int) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.plan = plan(interval)
        parts.world = parts.World(rows=ROWS, batch_rows=batch)
        self.cursor = 0
        self.ended = False

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    def fates(self, before: int) -> tuple[set[int], set[int]]:
        """Which of the numbers before this one are written, and which are dead letters."""
        numbers = set(range(before))
        dead = numbers & parts.world.refused
        return {n for n in numbers - dead if n % 7}, dead

    def reads_up_to(self, steps: int) -> int:
        """Where the batch begins that is so many numbers on, or the first one behind."""
        return self.cursor - -steps // parts.world.batch_rows * parts.world.batch_rows

    @rule(numbers=st.sets(st.integers(0, ROWS - 1), max_size=6))
    def refuse_records(self, numbers: set[int]) -> None:
        # What was never read: the fate of the others may be decided already.
        parts.world.refused |= {n for n in numbers if n >= parts.world.furthest}

    @rule(number=st.integers(0, ROWS - 1), times=st.integers(1, TRIES))
    def stumble(self, number: int, times: int) -> None:
        parts.world.stumbles[number] = times

    @precondition(lambda self: not self.ended)
    @rule(steps=st.integers(0, 60))
    def crash(self, steps: int) -> None:
        parts.world.crash_at = self.cursor + steps
        if self.reads_up_to(steps) < ROWS:
            assert self.attempt() == "crashed"
        parts.world.crash_at = None

    @precondition(lambda self: not self.ended)
    @rule(steps=st.integers(0, 60))
    def drain(self, steps: int) -> None:
        parts.world.drain_at = self.cursor + steps
        if self.reads_up_to(steps) < ROWS:
            assert self.attempt() == "drained"
            # Everything that was read is whole: a drain leaves nothing to repeat.
            written, _ = self.fates(self.cursor)
            assert set(parts.world.table.values()) == written
            assert self.cursor >= parts.world.drain_at
        parts.world.drain_at = None

    @precondition(lambda self: not self.ended)
    @rule(number=st.integers(0, ROWS - 1))
    def fail(self, number: int) -> None:
        parts.world.stumbles[number] = TRIES + 1
        outcome = self.attempt()
        parts.world.stumbles.pop(number)
        reached = number % 7 and number not in parts.world.refused and outcome != "ended"
        assert outcome in {"failed", "ended"}
        if outcome == "failed":
            assert reached

    @precondition(lambda self: not self.ended)
    @rule()
    def run_to_the_end(self) -> None:
        assert self.attempt() == "ended"

    def attempt(self) -> str:
        """Run until it ends one way or another, and read what it left."""
        parts.world.buffer.clear()
        parts.world.stop = parts.StopRequest()
        before = self.cursor
        outcome = "ended"
        result: RunResult | None = None
        try:
            result = anyio.run(self.run)
        except BaseException as error:  # noqa: BLE001 - a crash is none of Exception
            outcome = self.outcome(error)
        self.read()
        assert self.cursor >= before, "the cursor went back"
        if result is not None:
            self.ended = True
            self.check_counts(result)
        return outcome

    async def run(self) -> RunResult:
        with anyio.fail_after(60):
            return await run_plan(
                self.plan, {}, storage=self.folder / "state", stop=parts.world.stop
            )

    def outcome(self, error: BaseException) -> str:
        if isinstance(error, RunStoppedError):
            assert error.drained
            return "drained"
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, parts.CrashError):
            return "crashed"
        assert "it stumbled" in str(error), error
        return "failed"

    def read(self) -> None:
        """The cursor and the dead letters, from their files."""
        self.letters: list[int] = []
        for file in (self.folder / "state").rglob("checkpoint.json"):
            document = json.loads(file.read_text())
            position = document["sources"].get("told", {"cursor": None, "done": False})
            cursor = position["cursor"] or {"after": 0}
            self.cursor = ROWS if position["done"] else cursor["after"]
            for name, listed in document["parts"].items():
                folder = (
                    self.folder / "state/graphs/model/dead_letters" / file.parent.parent.name
                ) / name.removeprefix(oracle.LETTERS)
                for part in listed:
                    table = pa.ipc.open_file(str(folder / part["file"])).read_all()
                    self.letters += [record["n"] for record in table["record"].to_pylist()]

    def check_counts(self, result: RunResult) -> None:
        written, dead = self.fates(ROWS)
        counts = {node: metrics.counts for node, metrics in result.metrics.items()}
        assert counts["told"].records_out == ROWS
        assert counts["judge"].dead == len(dead)
        assert counts["memory"].records_out == len(written)
        assert counts["judge"].dropped == ROWS - len(written) - len(dead)

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        if not hasattr(self, "letters"):
            return
        table = list(parts.world.table.values())
        written, dead = self.fates(self.cursor)
        assert len(table) == len(set(table))
        assert written <= set(table), "the cursor is ahead of what is durable"
        assert set(table) <= self.fates(parts.world.furthest)[0]
        assert sorted(self.letters) == sorted(dead)


def explore(examples: int) -> None:
    run_state_machine_as_test(
        Progress,
        settings=settings(
            max_examples=examples,
            stateful_step_count=10,
            deadline=None,
            print_blob=True,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


def test_progress() -> None:
    explore(10)


@pytest.mark.soak
def test_progress_at_length() -> None:
    explore(500)
