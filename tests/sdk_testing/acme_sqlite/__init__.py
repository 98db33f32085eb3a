"""SQLite: read, write, cut and route texts."""

from acme_sqlite.action import Lines as Lines
from acme_sqlite.router import ByLength as ByLength
from acme_sqlite.sink import SqliteSink as SqliteSink
from acme_sqlite.source import SqliteSource as SqliteSource
