"""Plan -> Dagster: one file per concept of Dagster, and nothing private of it.

Importing this package does not import Dagster; its modules do. `definitions.build_definitions` is
the way in. May import everything below it, never `server` or `cli`.
"""
