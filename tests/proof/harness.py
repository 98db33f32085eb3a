"""Runs in processes of their own, killed and run again, and judged after every death.

The processes are forked from a server that has imported everything: a start costs milliseconds, so
that a hundred kills fit into a minute.
"""

import importlib
import itertools
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import oracle
import records
import target
from living_files import living_json

SEED = int(os.environ.get("NVISY_TEST_SEED", "0"))
SECONDS = 180

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["target", "duckdb", "wordllama", "qdrant_edge", "psycopg"])


_numbers = itertools.count()


def _run(folder: Path, environment: Mapping[str, str], log: Path) -> None:
    os.environ.update(environment)
    with log.open("a") as errors:
        os.dup2(errors.fileno(), 2)
        # It reads the environment when it is imported, which it was before.
        importlib.reload(sys.modules["nvisy_dagster.engine.failpoint"])
        try:
            target.main(folder)
        except BaseException:
            traceback.print_exc()
            raise


class Victim:
    """A run in a process of its own."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._log = folder / f"errors.{next(_numbers)}.txt"
        self._process: BaseProcess = _processes.Process(
            target=_run, args=(folder, environment, self._log)
        )
        self._process.start()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def kill(self) -> bool:
        """Kill it; returns whether it was still alive."""
        self._process.kill()
        return self.wait() == -signal.SIGKILL

    def wait(self, seconds: float = SECONDS) -> int | None:
        """Its exit code."""
        self._process.join(seconds)
        if self._process.exitcode is None:
            self._process.kill()
            raise TimeoutError(f"a run took longer than {seconds} s")
        return self._process.exitcode

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    @property
    def errors(self) -> str:
        """What it wrote before it ended badly."""
        return self._log.read_text() if self._log.exists() else ""

    @property
    def stopped(self) -> bool:
        """Whether it was stopped by a signal, and not yet revived."""
        if not self.alive:
            return False
        told = Path(f"/proc/{self._process.pid}/stat").read_text()
        return told.rpartition(")")[2].split()[0] == "T"

    def wait_until_stopped(self, seconds: float = SECONDS) -> None:
        """Wait for the signal that stops it to arrive."""
        deadline = time.monotonic() + seconds
        while not self.stopped:
            assert self.alive, f"it ended: {self.errors}"
            assert time.monotonic() < deadline
            time.sleep(0.005)


@dataclass
class Case:
    """One graph in a folder of its own, run until it is done."""

    folder: Path
    kind: str = "both"
    rows: int = 1500
    interval_rows: int = 100
    batch_rows: int = 25
    edges: str = "auto"
    refused: float = 2e-3
    seed: int = SEED
    environment: dict[str, str] = field(default_factory=dict)
    connections: dict[str, Any] = field(default_factory=dict)
    before: oracle.Json | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        records.write_records(
            self.folder / "rows.jsonl", self.rows, refused=self.refused, seed=self.seed
        )
        document = target.graph(
            self.kind,
            interval_rows=self.interval_rows,
            batch_rows=self.batch_rows,
            edges=self.edges,
            table=f"rows_{uuid.uuid4().hex}",
        )
        (self.folder / "proof.json").write_text(json.dumps(document))
        connections = {"vectors": {"type": "qdrant", "path": "vectors"}, **self.connections}
        used = {node.get("connection") for node in document["nodes"]}
        connections = {name: one for name, one in connections.items() if name in used}
        (self.folder / "connections.json").write_text(json.dumps(connections))

    def start(self, **environment: str) -> Victim:
        """Begin a run, or go on with the one that died."""
        return Victim(self.folder, {**self.environment, **environment})

    def judge(self, *, complete: bool = False) -> oracle.Verdict:
        """What the oracle says of it now."""
        verdict = oracle.judge(
            self.folder, complete=complete, before=self.before, replayed=self.most_replayed
        )
        self.before = asdict(verdict)
        return verdict

    @property
    def most_replayed(self) -> int:
        """Records of one epoch: its interval, and what was on its way when it was asked for."""
        return 0 if self.kind == "table" else self.interval_rows + 20 * self.batch_rows

    def check(self, *, complete: bool = False) -> oracle.Verdict:
        """The same; it must find no fault."""
        verdict = self.judge(complete=complete)
        assert verdict.ok, f"seed {self.seed}, {self.folder}: {verdict.faults}"
        return verdict

    def finish(self, **environment: str) -> oracle.Verdict:
        """Run to the end, where all must be well."""
        victim = self.start(**environment)
        assert victim.wait() == 0, victim.errors
        return self.check(complete=True)

    @property
    def completed(self) -> bool:
        """Whether a run has come to its end."""
        return (self.folder / "counts.json").exists()

    def wait_for_checkpoint(self, victim: Victim, count: int = 1) -> None:
        """Wait until so many epochs are on record, or it has ended."""
        deadline = time.monotonic() + SECONDS
        while victim.alive and self.epoch() < count:
            assert time.monotonic() < deadline, victim.errors
            time.sleep(0.002)

    def epoch(self) -> int:
        """The last epoch of any stage."""
        found = living_json(self.folder / "state", "checkpoint.json")
        return max((one["epoch"] for one in found), default=0)
