"""PostgreSQL: records in tables, with the progress of the run beside them, and rows as records.

`sink.py` and `source.py` say when what happens. Of the sink, `session.py`, `staging.py` and
`checkpoints.py` talk to the server; `types.py`, `fitting.py`, `encoding.py`, `binary_copy.py` and
`json_text.py` are pure. Of the source, `copy_out.py`, `source_table.py` and `highest.py` talk to
it; `reading.py`, `binary_read.py`, `pages.py` and `watermark.py` are pure. May import the SDK and
psycopg (when used).
"""

from nvisy_connectors.sql.postgres.connection import PostgresConnection as PostgresConnection
from nvisy_connectors.sql.postgres.sink import PostgresSink as PostgresSink
from nvisy_connectors.sql.postgres.source import PostgresSource as PostgresSource

__all__ = ["PostgresConnection", "PostgresSink", "PostgresSource"]
