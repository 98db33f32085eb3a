"""Why a function is not allowed, in words that help the one who wrote it."""

import difflib
from typing import Any

from nvisy_connectors.tabular.allow_list import NAMES
from nvisy_connectors.tabular.database import ask
from nvisy_connectors.tabular.syntax import RefusedError

_KIND = """
    SELECT function_type, stability FROM duckdb_functions()
    WHERE lower(function_name) = lower($1) ORDER BY function_type = 'scalar' DESC LIMIT 1
"""


def not_allowed(name: str, offset: int | None) -> RefusedError:
    """The refusal of a function that is not on the allow-list."""
    if name == "row":
        return RefusedError("there must be exactly one expression, not a row of several")
    if name in {"list_apply", "list_filter", "list_reduce", "list_transform"}:
        return RefusedError("lambdas and list comprehensions are not allowed", offset=offset)
    kind, stability = _kind(name)
    # A function of DuckDB was meant as it was written: one that is spelled alike is another one.
    remedy = _nearest(name) if kind is None else None
    if kind == "aggregate":
        reason = f"the aggregate {name!r} is not allowed: an expression sees one record at a time"
    elif kind and kind.startswith("table"):
        reason = f"the table function {name!r} is not allowed"
    elif kind is None:
        reason = f"there is no function {name!r}"
    elif stability in {"VOLATILE", "CONSISTENT_WITHIN_QUERY"} or name.lower() in _OF_THE_MOMENT:
        reason = f"{name!r} is volatile, so a replay would make other records"
        remedy = "use a column, such as _created_at or _id"
    else:
        reason = f"the function {name!r} is not allowed"
    return RefusedError(reason, offset=offset, remedy=remedy)


_OF_THE_MOMENT = frozenset(["ago", "current_localtime", "current_localtimestamp"])


def _kind(name: str) -> tuple[Any, ...]:
    found = ask(_KIND, name)
    return found[0] if found else (None, None)


def _nearest(name: str) -> str | None:
    words = [known for known in NAMES if known[0].isalpha()]
    found = difflib.get_close_matches(name.lower(), words, 1, 0.6)
    return f"did you mean {NAMES[found[0]]!r}?" if found else None
