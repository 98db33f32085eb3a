"""Which of our errors a failure of PostgreSQL is, by its SQLSTATE."""

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from nvisy_dagster.sdk import ConfigError, DataError, NvisyError, TransientError

if TYPE_CHECKING:
    import psycopg

_SHOWN = 300

_RETRIED = {
    "08": "connection",
    "40": "server",  # deadlock, serialization
    "53": "server",  # no memory, too many connections
    "55": "server",  # a lock is not to be had
    "57": "connection",  # the server stops, or an administrator ended the session
    "58": "server",
    "XX": "server",
}
_ONLY_READS = "25006"
"""A standby; or a primary that became one, and is found again by connecting anew."""
_OF_DATA = frozenset({"22", "23", "44", "P0"})
"""Values out of range or not to be read, constraints, checks of views, exceptions of triggers."""
_CONFIG = {
    "28": ("auth", "check the user and the password of the connection"),
    "3D": ("not_found", "check the name of the database, or create it"),
    "3F": ("not_found", "create the schema, or name one that exists"),
    "42": ("schema", "compare the table with the records; a changed table needs a new run"),
}
_CONFIG_EXACTLY = {
    "42501": ("auth", "grant the user what is missing"),
    "42P01": ("not_found", "create the table, or run again with 'create'"),
    "53100": ("disk_full", "make room on the disk of the database"),
}
_LONG = "cut checkpoints more often, or raise that limit for the user of the connection"
_TIMEOUTS = {"57014": None, "25P03": _LONG, "25P04": _LONG}
"""Of a statement; and the end of a session whose transaction was idle, or open, for too long."""

_TIMEOUT_OF_PAGE = (
    "lower 'batch_rows', add an index over the key (and the cursor column), or raise the timeout "
    "for the user of the connection"
)
_DENIED = "42501"

_AUTH_WORDS = (
    "password authentication failed",
    "no password supplied",
    "authentication failed",
    "no pg_hba.conf entry",
    "certificate",
    "does not support SSL",
)
_NO_ROLE = re.compile(r'role ".*" (does not exist|is not permitted to log in)')
"""Not every word of a role: it may have too many sessions, for now."""


def classify(error: "psycopg.Error", place: str) -> NvisyError:  # noqa: PLR0911 - one per kind
    """The error of ours that tells the engine what to do next.

    Args:
        error: What the client raised.
        place: What was worked with, without credentials.
    """
    state = error.sqlstate
    if state is None:
        return _of_connection(error, place)
    text = f"{place}: {told(error)}"
    if state in _TIMEOUTS:
        return TransientError(text, remedy=_TIMEOUTS[state], tag="timeout")
    if state == _ONLY_READS:
        remedy = "connect to the primary server; this one only reads"
        return TransientError(text, remedy=remedy, tag="server")
    group = state[:2]
    if state in _CONFIG_EXACTLY or (group in _CONFIG and state not in _CONFIG_EXACTLY):
        tag, remedy = _CONFIG_EXACTLY.get(state) or _CONFIG[group]
        return ConfigError(text, remedy=remedy, tag=tag)
    if group in _OF_DATA:
        return DataError(text, rows={})
    if group in _RETRIED:
        return TransientError(text, tag=_RETRIED[group])
    return ConfigError(f"{text} (SQLSTATE {state})", tag="refused")


@asynccontextmanager
async def classify_reading(place: str, condition: str | None) -> AsyncGenerator[None]:
    """Translate what fails while a table is read.

    Args:
        place: The table.
        condition: The user's own part of the query, if there is one.
    """
    import psycopg

    try:
        yield
    except psycopg.Error as error:
        failure = classify(error, place)
        state = error.sqlstate or ""
        if state in _TIMEOUTS:
            raise TransientError(failure.message, remedy=_TIMEOUT_OF_PAGE, tag="timeout") from error
        # Of the rest of the query only an altered table makes a mistake.
        mistaken = state[:2] in {"22", "42"} and state != _DENIED
        if condition is not None and mistaken:
            raise ConfigError(
                f"param 'where' does not go with {place}: {told(error)}",
                remedy="put the condition right; it is PostgreSQL's SQL",
                tag="expression",
                place=("where",),
            ) from error
        if isinstance(failure, DataError) or mistaken:
            raise ConfigError(
                failure.message,
                remedy="see whether the table was altered, and run the graph again",
                tag="schema",
            ) from error
        raise failure from error


def told(error: "psycopg.Error") -> str:
    """What the server said, without the values of any row."""
    diagnosis = error.diag
    text = diagnosis.message_primary or str(error).strip() or type(error).__name__
    return " ".join(text.split())[:_SHOWN]


def _of_connection(error: "psycopg.Error", place: str) -> NvisyError:
    # The client tells no SQLSTATE of a session that never came to be, only the server's words.
    text = " ".join(str(error).split())
    told_text = f"{place}: {text[:_SHOWN]}"
    if any(word in text for word in _AUTH_WORDS) or _NO_ROLE.search(text):
        tag, remedy = _CONFIG["28"]
        return ConfigError(told_text, remedy=remedy, tag=tag)
    if "database " in text and "does not exist" in text:
        tag, remedy = _CONFIG["3D"]
        return ConfigError(told_text, remedy=remedy, tag=tag)
    return TransientError(told_text, remedy="check that the server is up", tag="connection")
