"""Where a PostgreSQL is."""

from typing import Any, ClassVar, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from nvisy_dagster.sdk import Connection

DEFAULT_PORT = 5432

SslMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]


class PostgresConnection(Connection):
    """A PostgreSQL database: its address in one (`url`), or in fields.

    The sessions must be the sink's own from beginning to end: connect to the server itself, or to a
    pooler in session mode.
    """

    type: ClassVar[str] = "postgres"

    url: SecretStr | None = None
    """The whole address with its credentials, `postgresql://user:password@host:port/database`;
    other settings of libpq may follow as `?name=value`. A secret, since it may hold a password."""
    host: str | None = None
    """Name or address of the server."""
    port: int = Field(default=DEFAULT_PORT, ge=1, le=65_535)
    """Port of the server."""
    database: str | None = None
    """Name of the database."""
    username: str | None = None
    """User to log in as."""
    password: SecretStr | None = None
    """Password of the user."""
    sslmode: SslMode | None = None
    """Whether the connection is encrypted and whom it trusts, as libpq defines it; by default
    `prefer`, or what the URL says."""
    application_name: str = "nvisy"
    """Name of the sessions, as the server shows it in `pg_stat_activity`."""
    connect_timeout_seconds: int = Field(default=10, ge=2, le=600)
    """Longest wait for a session."""

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: SecretStr | None) -> SecretStr | None:
        if url is None:
            return None
        try:
            parts = urlsplit(url.get_secret_value())
            known = parts.scheme in {"postgres", "postgresql"} and parts.hostname
            _ = parts.port
        except ValueError:
            known = False
        if not known:
            # Never the value: it may hold a password.
            raise ValueError("must be postgresql://user:password@host:port/database")
        return url

    @model_validator(mode="after")
    def _one_address(self) -> Self:
        if self.url is None:
            missing = [name for name in ("host", "database", "username") if not getattr(self, name)]
            if missing:
                raise ValueError(f"give 'url', or else {', '.join(map(repr, missing))} too")
        elif self.model_fields_set & {"host", "port", "database", "username", "password"}:
            raise ValueError(
                "'url' is the whole address: leave out host, port, database, username, password"
            )
        return self

    def location(self) -> str:
        """`postgres://host:port/database`."""
        host, port, database = self._address()
        shown = f"[{host}]" if ":" in host else host
        return f"postgres://{shown}:{port}/{database}"

    def settings(self) -> dict[str, Any]:
        """What the client connects with."""
        shared = {
            "application_name": self.application_name,
            "connect_timeout": self.connect_timeout_seconds,
            # A server that vanished is noticed within a minute.
            "keepalives_idle": 20,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "tcp_user_timeout": 60_000,
        }
        if self.sslmode is not None:
            shared["sslmode"] = self.sslmode
        if self.url is not None:
            return {"conninfo": self.url.get_secret_value(), **shared}
        return {
            "host": self.host,
            "port": self.port,
            "dbname": self.database,
            "user": self.username,
            "password": self.password.get_secret_value() if self.password else None,
            **shared,
        }

    def _address(self) -> tuple[str, int, str]:
        if self.url is None:
            return str(self.host), self.port, str(self.database)
        parts = urlsplit(self.url.get_secret_value())
        database = unquote(parts.path.lstrip("/")) or unquote(parts.username or "")
        return str(parts.hostname), parts.port or DEFAULT_PORT, database
