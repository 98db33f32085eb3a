"""Rules with names, in SQL."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from nvisy_connectors.tabular.binding import Bound, bind, told
from nvisy_connectors.tabular.evaluation import evaluate
from nvisy_connectors.tabular.expression import Expression, parse_expressions
from nvisy_connectors.tabular.predicate import check_predicate
from nvisy_connectors.tabular.syntax import MAX_CHARACTERS
from nvisy_dagster.sdk import ConfigError, Params, raise_mistakes

SHOWN = 200
"""Longest expression that a reason shows."""


class Rule(Params):
    """A rule that records must follow."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    """Name of the rule, which dead letters tell."""
    check: Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS)]
    """SQL expression over the columns of a record: true for a record that follows the rule. NULL
    counts as false: where a NULL is right, say so, as in `score IS NULL OR score >= 0`."""
    severity: Literal["error", "warn"] = "error"
    """`error`: a record that breaks the rule fails. `warn`: it goes on, with the tag
    `broken:` and the rule's name among its `_tags`."""


@dataclass(frozen=True)
class Broken:
    """Which rows break which rules."""

    reasons: dict[int, list[str]] = field(default_factory=dict[int, list[str]])
    """Of rules that are errors."""
    warnings: dict[int, list[str]] = field(default_factory=dict[int, list[str]])
    """Names of the rules that only warn."""


def parsed(rules: Sequence[Rule]) -> tuple[tuple[Expression, ...], list[ConfigError]]:
    """Those that can be used, and what is wrong with the others."""
    sound, errors = parse_expressions(
        (f"rules.{rule.name}.check", rule.check, ("rules", index, "check"))
        for index, rule in enumerate(rules)
    )
    return tuple(sound), errors


def bound_rules(rules: Sequence[Rule], schema: pa.Schema) -> Bound:
    """The rules, for records of a schema.

    Raises:
        ConfigError: A rule is not allowed, does not fit the schema or is no BOOLEAN.
    """
    expressions, errors = parsed(rules)
    for expression in expressions:
        with told(errors):
            check_predicate(expression, bind((expression,), schema).types[0])
    raise_mistakes(errors)
    return bind(expressions, schema)


def broken_rules(rules: Sequence[Rule], batch: pa.RecordBatch) -> Broken:
    """Which rows of a batch break which rules.

    Raises:
        ConfigError: The rules do not fit the columns of the batch.
    """
    evaluated = evaluate(bound_rules(rules, batch.schema), batch)
    warn = {rule.name for rule in rules if rule.severity == "warn"}
    broken = Broken()
    for rule, values in zip(rules, evaluated.values, strict=True):
        rows = _not_true(values)
        if not len(rows):
            continue
        reason = f"rule {rule.name!r}: {_short(rule.check)} is not true"
        into, said = (broken.warnings, rule.name) if rule.name in warn else (broken.reasons, reason)
        for row in rows.tolist():
            if row not in evaluated.failures:
                into.setdefault(row, []).append(said)
    for row, reason in evaluated.failures.items():
        rule, said = _failing(rules, reason)
        if rule is not None and rule.severity == "warn":
            broken.warnings.setdefault(row, []).append(rule.name)
        else:
            broken.reasons.setdefault(row, []).append(said)
    return broken


def _not_true(values: pa.Array) -> npt.NDArray[np.int64]:
    if values.true_count == len(values):
        return np.empty(0, np.int64)
    true = values.fill_null(fill_value=False).to_numpy(zero_copy_only=False)
    return np.flatnonzero(~true)


def _failing(rules: Sequence[Rule], reason: str) -> tuple[Rule | None, str]:
    """The rule whose expression failed, and the reason in its name."""
    for rule in rules:
        begin = f"expression {f'rules.{rule.name}.check'!r}: "
        if reason.startswith(begin):
            return rule, f"rule {rule.name!r}: {reason.removeprefix(begin)}"
    return None, reason


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= SHOWN else words[:SHOWN] + "..."


def tagged(batch: pa.RecordBatch, warnings: Mapping[int, Sequence[str]]) -> pa.RecordBatch:
    """The batch, with a tag for every rule that a record breaks and that only warns."""
    if not warnings:
        return batch
    rows = sorted(warnings)
    tags = batch.column("_tags")
    before = tags.take(pa.array(rows)).to_pylist()
    added = [
        list(dict.fromkeys([*(was or ()), *(f"broken:{name}" for name in warnings[row])]))
        for row, was in zip(rows, before, strict=True)
    ]
    places = np.arange(batch.num_rows)
    places[rows] = batch.num_rows + np.arange(len(rows))
    new = pa.concat_arrays([tags, pa.array(added, tags.type)]).take(pa.array(places))
    place = batch.schema.names.index("_tags")
    arrays = [*batch.columns[:place], new, *batch.columns[place + 1 :]]
    return pa.RecordBatch.from_arrays(arrays, schema=batch.schema)
