"""What a small run costs before it does anything. `startup.py FOLDER`: the parts, in one process.

The folder holds `graph.json`, three nodes over ten records; its state goes there too. The whole is
measured from outside, as `nvisy run graph.json`.
"""

import json
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from measure import tell

RECORDS = 10


def prepare(folder: Path) -> Path:
    """Write the graph and its records; returns the graph's path."""
    folder.mkdir(parents=True)
    lines = (f'{{"n": {n}, "text": "Record {n}"}}\n' for n in range(RECORDS))
    (folder / "records.jsonl").write_text("".join(lines), encoding="utf-8")
    graph = {
        "name": "startup",
        "nodes": [
            {
                "id": "read",
                "type": "source",
                "connector": "local",
                "params": {"path": str(folder / "records.jsonl"), "format": "jsonl"},
            },
            {"id": "keep", "type": "action", "action": "filter", "params": {"where": "n > 4"}},
            {
                "id": "write",
                "type": "sink",
                "connector": "local",
                "params": {"path": str(folder / "out"), "format": "jsonl"},
            },
        ],
        "edges": [{"from": "read", "to": "keep"}, {"from": "keep", "to": "write"}],
    }
    path = folder / "graph.json"
    path.write_text(json.dumps(graph), encoding="utf-8")
    return path


class Parts:
    """Seconds by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Generator[None]:
        """Time what is done inside."""
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 3)


def main(folder: Path) -> None:
    parts = Parts()
    path = prepare(folder)
    with parts.part("import compiler and engine"):
        import_module("nvisy_dagster.cli.running")
    with parts.part("compile (imports the connectors)"):
        loaded = import_module("nvisy_dagster.cli.loading").load(path)
    with parts.part("import dagster"):
        import_module("dagster")
    with parts.part("import translator"):
        from nvisy_dagster.translator.execute import execute_plan
        from nvisy_dagster.translator.instance import open_instance
    with parts.part("create the instance"):
        home = folder / "dagster"
        with open_instance(home) as instance:
            instance.get_runs(limit=1)
    with parts.part("run"):
        result = execute_plan(
            loaded.plan, loaded.connections, instance_home=home, storage=folder / "state"
        )
    assert result.success
    tell(seconds=sum(parts.seconds.values()), parts=parts.seconds)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
