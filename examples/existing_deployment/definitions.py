"""A Dagster deployment with assets of its own, which also runs Nvisy graphs.

dagster dev -f examples/existing_deployment/definitions.py
"""

import json
from pathlib import Path

import dagster as dg

from nvisy_dagster import NvisyConnection, build_definitions

HERE = Path(__file__).parent
TICKETS = HERE / "out" / "tickets.jsonl"


@dg.asset(group_name="support")
def tickets() -> dg.MaterializeResult:
    """Support tickets, as this deployment has always exported them."""
    rows = [
        {"id": 1, "text": "The invoice of March is missing a line.", "team": "billing"},
        {"id": 2, "text": "Login fails after the password was changed.", "team": "access"},
        {"id": 3, "text": "Please delete my account and my invoices.", "team": "billing"},
    ]
    TICKETS.parent.mkdir(exist_ok=True)
    TICKETS.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return dg.MaterializeResult(metadata={"dagster/row_count": len(rows)})


# A connection of the deployment: Dagster's pages show where it leads, never a secret.
vectors = NvisyConnection(type="qdrant", fields={"path": str(HERE / ".nvisy" / "vectors")})

# Dagster wants one `Definitions` in a module: what is merged gets no name of its own.
defs = dg.Definitions.merge(
    dg.Definitions(assets=[tickets]),
    build_definitions(HERE / "graphs", connections={"vectors": vectors}, storage=HERE / ".nvisy"),
)
