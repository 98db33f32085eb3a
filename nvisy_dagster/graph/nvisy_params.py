"""Params of published actions whose shape differs from ours."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from nvisy_dagster.graph.errors import GraphError, shown, suggest
from nvisy_dagster.graph.explain import describe
from nvisy_dagster.graph.places import Step, Steps, json_path

COMPARISONS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_CONDITION_KEYS = frozenset({"column", "op", "value"})
OPERATORS = ("eq", "neq", *COMPARISONS, "in", "notIn", "isNull", "isNotNull")
# Text that is no number becomes NULL, as it does there. A text is true unless it is empty or
# spells a false value; there "false" and "0" are true too, which no author can have meant.
ANYTHING = "TRUE"
"""Stands where the condition that was meant is not known."""
CASTS = {
    "string": "CAST({0} AS VARCHAR)",
    "number": "TRY_CAST({0} AS DOUBLE)",
    "boolean": "coalesce(TRY_CAST({0} AS BOOLEAN), CAST({0} AS VARCHAR) <> '')",
}

Report = Callable[[GraphError], None]


class _MistakeError(Exception):
    """Leaves a nested place with what is wrong there."""

    def __init__(self, steps: Steps, message: str, remedy: str | None = None) -> None:
        super().__init__(message)
        self.steps = steps
        self.message = message
        self.remedy = remedy


def identifier(name: str) -> str:
    """A column's name as SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: Any) -> str:  # noqa: ANN401 - any JSON scalar
    """A JSON scalar as SQL.

    Raises:
        TypeError: It is an object or an array.
    """
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, int | float):
        return json.dumps(value)
    raise TypeError(f"{describe(value)} is no SQL literal")


def where(params: Mapping[str, Any], steps: Steps, report: Report) -> str | None:
    """Conditions as one DuckDB expression; `None` after reporting what is wrong with them.

    A condition that meets a NULL is false, except `neq` and `notIn`, which are true.
    """
    conditions = params.get("conditions")
    if not isinstance(conditions, list):
        report(_wanted(steps, "conditions", "an array of conditions", conditions))
        return None
    mode = params.get("mode", "and")
    known = mode in ("and", "or")
    if not known:
        path = json_path((*steps, "mode"))
        said = shown(mode) if isinstance(mode, str) else describe(mode)
        report(GraphError(path, 'should be "and" or "or", not ' + said))
    parts: list[str] = []
    for index, condition in enumerate(cast("list[Any]", conditions)):
        try:
            parts.append(f"({_condition(condition)})")
        except _MistakeError as error:
            place = (*steps, "conditions", index, *error.steps)
            report(GraphError(json_path(place), error.message, error.remedy))
    if not known or len(parts) != len(cast("list[Any]", conditions)):
        return None
    return f" {mode.upper()} ".join(parts) or ("TRUE" if mode == "and" else "FALSE")


def _condition(condition: Any) -> str:  # noqa: ANN401 - any JSON
    if not isinstance(condition, dict):
        raise _MistakeError((), f"should be an object, not {describe(condition)}")
    said = cast("dict[str, Any]", condition)
    unknown = next((key for key in said if key not in _CONDITION_KEYS), None)
    if unknown is not None:
        remedy = suggest(unknown, _CONDITION_KEYS)
        raise _MistakeError((unknown,), f"unknown key {shown(unknown)}", remedy)
    column, op, value = said.get("column"), said.get("op"), said.get("value")
    if not isinstance(column, str) or not column:
        raise _MistakeError((), '"column" should be the name of a column', "add it")
    if not isinstance(op, str) or op not in OPERATORS:
        word = op if isinstance(op, str) else ""
        raise _MistakeError(("op",), f"unknown operator {shown(str(op))}", suggest(word, OPERATORS))
    name = identifier(column)
    if op in {"in", "notIn"}:
        return _membership(name, op, value)
    return _comparison(name, op, value)


def _comparison(name: str, op: str, value: Any) -> str:  # noqa: ANN401 - any JSON
    if op in {"isNull", "isNotNull"}:
        return f"{name} IS NULL" if op == "isNull" else f"{name} IS NOT NULL"
    try:
        right = literal(value)
    except TypeError as error:
        raise _MistakeError(("value",), f"should be one value, not {describe(value)}") from error
    if op in COMPARISONS:
        return f"{name} {COMPARISONS[op]} {right}"
    if value is None:
        return f"{name} IS NULL" if op == "eq" else f"{name} IS NOT NULL"
    return f"{name} = {right}" if op == "eq" else f"{name} IS DISTINCT FROM {right}"


def _membership(name: str, op: str, value: Any) -> str:  # noqa: ANN401 - any JSON
    if not isinstance(value, list):
        raise _MistakeError(("value",), f"should be an array, not {describe(value)}")
    items = cast("list[Any]", value)
    try:
        listed = ", ".join(literal(item) for item in items if item is not None)
    except TypeError as error:
        raise _MistakeError(
            ("value",), "should be an array of strings, numbers or booleans"
        ) from error
    has_null = None in items
    if op == "in":
        parts = ([f"{name} IN ({listed})"] if listed else []) + [f"{name} IS NULL"] * has_null
        return " OR ".join(parts) or "FALSE"
    if not listed:
        return f"{name} IS NOT NULL" if has_null else "TRUE"
    outside = f"{name} NOT IN ({listed})"
    return f"{outside} AND {name} IS NOT NULL" if has_null else f"{name} IS NULL OR {outside}"


def casts(params: Mapping[str, Any], steps: Steps, report: Report) -> dict[str, str]:
    """`sql/coerce` as the `set` of a `map`."""
    columns = params.get("columns")
    if not isinstance(columns, dict):
        report(_wanted(steps, "columns", "an object of column names and types", columns))
        return {}
    made: dict[str, str] = {}
    for column, kind in cast("dict[str, Any]", columns).items():
        template = CASTS.get(kind) if isinstance(kind, str) else None
        if template is None:
            path = json_path((*steps, "columns", column))
            word = kind if isinstance(kind, str) else ""
            report(GraphError(path, f"unknown type {shown(str(kind))}", suggest(word, CASTS)))
        else:
            made[column] = template.format(identifier(column))
    return made


def _wanted(steps: Steps, key: str, what: str, value: Any) -> GraphError:  # noqa: ANN401 - any JSON
    if value is None:
        return GraphError(json_path(steps), f'"{key}" is missing', f"add {what}")
    return GraphError(json_path((*steps, key)), f"should be {what}, not {describe(value)}")


def shaped(
    action: str, params: Mapping[str, Any], steps: Steps, report: Report
) -> Iterator[tuple[str, Any, Step]]:
    """What an action of ours needs that a renaming cannot give: (param, value, its origin)."""
    if action == "sql/filter":
        expression = where(params, steps, report)
        # After a mistake anything will do that is none itself.
        yield "where", expression or ANYTHING, "conditions"
    elif action == "sql/coerce":
        yield "set", casts(params, steps, report), "columns"
    elif action == "sql/project" and ("keep" in params) == ("drop" in params):
        message = 'should say either "keep" or "drop"'
        report(GraphError(json_path(steps), message, "keep one of them"))
    elif action == "ai/chunk" and params.get("strategy") == "character":
        yield "strategy", "fixed", "strategy"
        yield "unit", "characters", "strategy"


SHAPED_KEYS: Mapping[str, frozenset[str]] = {
    "sql/filter": frozenset({"conditions", "mode"}),
    "sql/coerce": frozenset({"columns"}),
}
"""Published params that `shaped` reads."""
