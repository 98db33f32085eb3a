"""The rate limit of a connection holds over the processes that Dagster gives to the stages."""

import json
import sqlite3
from bisect import bisect_left

from dagster_project import Project

LIMIT = 10
ROWS = 400
CALLS = 2 * ROWS // 10
LATE_SECONDS = 0.2
"""A busy machine may stop a process between its leave to make a call and the call."""


def test_stages_in_processes_of_their_own_share_the_limit(project: Project):
    limit = {"requests": LIMIT, "per": "second"}
    project.path("connections.json").write_text(
        json.dumps({"shop": {"type": "toy", "rate_limit": limit}})
    )
    tables = ("paid", "free")
    nodes = [
        node
        for name in tables
        for node in (
            {
                "id": f"count_{name}",
                "type": "source",
                "connector": "toy",
                "params": {"uri": f"toy://host/{name}", "rows": ROWS},
            },
            {
                "id": name,
                "type": "sink",
                "connector": "toy",
                "connection": "shop",
                "params": {"path": str(project.path(f"{name}.db"))},
            },
        )
    ]
    project.settings = {
        "nodes": nodes,
        "edges": [{"from": f"count_{name}", "to": name} for name in tables],
        "execution": {"executor": "multiprocess"},
    }
    process = project.launch()
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output

    moments: dict[str, list[float]] = {}
    for name in tables:
        db = sqlite3.connect(project.path(f"{name}.db"))
        moments[name] = [at for (at,) in db.execute("select distinct at from t")]
        db.close()
        assert project.written(name) == list(range(ROWS))
    every = sorted(moment for name in tables for moment in moments[name])
    assert len(every) == CALLS
    # They did run at the same time.
    assert max(min(m) for m in moments.values()) < min(max(m) for m in moments.values())
    # A limit for each of them would let twice as many through.
    span = 1 - LATE_SECONDS
    assert max(bisect_left(every, m + span) - n for n, m in enumerate(every)) <= LIMIT
