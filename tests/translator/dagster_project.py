"""A project folder: a graph that counts, pays and writes, and a Dagster instance on disk."""

import json
import os
import sqlite3
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
from toys import registry

from nvisy_dagster.translator.definitions import LoadedGraph, build_definitions, load_one

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass
class Project:
    """A folder with a graph, its storage and its Dagster instance."""

    folder: Path
    home: Path
    instance: dg.DagsterInstance
    rows: int = 100
    settings: dict[str, Any] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        return self.folder / name

    @property
    def graph(self) -> dict[str, Any]:
        """count -> pay (materialized) -> paid, and count -> same -> free."""
        return {
            "name": "bill",
            "nodes": [
                {
                    "id": "count",
                    "type": "source",
                    "connector": "toy",
                    "params": {"rows": self.rows},
                },
                {
                    "id": "pay",
                    "type": "action",
                    "action": "pay",
                    "params": {"ledger": str(self.path("ledger"))},
                },
                {"id": "same", "type": "action", "action": "same"},
                {
                    "id": "paid",
                    "type": "sink",
                    "connector": "toy",
                    "params": {
                        "path": str(self.path("paid.db")),
                        "fail_if": str(self.path("fail")),
                        "busy_if": str(self.path("busy")),
                    },
                },
                {
                    "id": "free",
                    "type": "sink",
                    "connector": "toy",
                    "params": {"path": str(self.path("free.db")), "uri": "toy://host/free"},
                },
            ],
            "edges": [
                {"from": "count", "to": "pay"},
                {"from": "pay", "to": "paid"},
                {"from": "count", "to": "same"},
                {"from": "same", "to": "free"},
            ],
            "retry": {"max_retries": 1, "initial_delay_seconds": 0.01},
            "checkpoint": {"interval_rows": 100},
            **self.settings,
        }

    def write(self, graph: dict[str, Any] | None = None, name: str = "bill") -> Path:
        path = self.path(f"{name}.json")
        path.write_text(json.dumps(graph or self.graph))
        return path

    def definitions(self, **options: Any) -> dg.Definitions:
        options = {"storage": self.path("state"), "registry": registry(), **options}
        return build_definitions(self.write(), **options)

    def loaded(self) -> LoadedGraph:
        return load_one(self.write(), registry=registry())

    def job(self, **options: Any) -> dg.JobDefinition:
        return self.definitions(**options).resolve_job_def("bill")

    def run(self, *, job: dg.JobDefinition | None = None, **options: Any) -> Any:
        return (job or self.job()).execute_in_process(
            instance=self.instance, raise_on_error=False, run_config=QUIET, **options
        )

    def launch(self, **environment: str) -> subprocess.Popen[str]:
        """`dagster job execute` in a process of its own."""
        self.write()
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "dagster", "job", "execute"),
                *("-f", str(Path(__file__).parent / "deployed.py"), "-j", "bill"),
            ],
            env={
                **os.environ,
                "DAGSTER_HOME": str(self.home),
                "NVISY_TEST_PROJECT": str(self.folder),
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def latest_run(self) -> dg.DagsterRun:
        return self.instance.get_runs(limit=1)[0]

    def paid_for(self) -> list[int]:
        """What the ledger says, in order."""
        ledger = self.path("ledger")
        return [int(line) for line in ledger.read_text().split()] if ledger.exists() else []

    def written(self, table: str = "paid") -> list[int]:
        db = sqlite3.connect(self.path(f"{table}.db"))
        try:
            return sorted(n for (n,) in db.execute("select n from t"))
        finally:
            db.close()

    def written_at(self, table: str = "paid") -> float:
        db = sqlite3.connect(self.path(f"{table}.db"))
        try:
            return db.execute("select max(at) from t").fetchone()[0]
        finally:
            db.close()
