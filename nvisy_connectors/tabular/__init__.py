"""Relational actions: SQL expressions run by an embedded, locked-down DuckDB.

`filter`, `map` and `branch` are the components. `expression` checks a text against `allow_list` and
`growth`, `binding` types it against a schema, `evaluation` runs it on a batch, all in the one
`database` of the process. May import the SDK, pyarrow and, when used, duckdb.
"""
