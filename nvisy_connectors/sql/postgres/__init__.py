"""PostgreSQL: records in tables, with the progress of the run beside them.

`sink.py` says when what happens; `session.py`, `staging.py` and `checkpoints.py` talk to the
server; `types.py`, `fitting.py`, `encoding.py`, `binary_copy.py` and `json_text.py` are pure. May
import the SDK and psycopg (when used).
"""

from nvisy_connectors.sql.postgres.connection import PostgresConnection as PostgresConnection
from nvisy_connectors.sql.postgres.sink import PostgresSink as PostgresSink

__all__ = ["PostgresConnection", "PostgresSink"]
