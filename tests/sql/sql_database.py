"""A database of a test server, read and written without the connector."""

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import dict_row
from pydantic import SecretStr
from servers.postgres import PostgresServer

from nvisy_connectors.sql.postgres import PostgresConnection


@dataclass(frozen=True)
class Database:
    """A database, read and written without the connector."""

    server: PostgresServer
    name: str

    @classmethod
    def emptied(cls, server: PostgresServer) -> "Database":
        """The first database of a server, with nothing in it."""
        database = cls(server, "postgres")
        # Dropping schemas takes milliseconds; a new database is a copy of some megabytes.
        names = database.query(
            "SELECT quote_ident(nspname) FROM pg_namespace "
            "WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema'"
        )
        server.terminate_sessions()
        for (name,) in names:
            database.query(f"DROP SCHEMA {name} CASCADE")
        database.query("CREATE SCHEMA public")
        return database

    @property
    def url(self) -> str:
        return self.server.url_of(self.name)

    @property
    def connection(self) -> PostgresConnection:
        return PostgresConnection(
            host=self.server.host,
            port=self.server.port,
            database=self.name,
            username=self.server.user,
            password=SecretStr(self.server.password),
        )

    def query(self, sql: Any, values: Any = None) -> list[Any]:
        return self.server.query(sql, values, self.name)

    def rows(self, sql: Any) -> list[dict[str, Any]]:
        """Rows by column; of two columns of one name, the later one."""
        with psycopg.connect(self.url, row_factory=dict_row) as connection:
            return connection.execute(sql).fetchall()

    def numbers(self, table: str = "t", column: str = "n") -> list[Any]:
        """The values of a column, in their order."""
        return [n for (n,) in self.query(f"SELECT {column} FROM {table} ORDER BY 1")]
