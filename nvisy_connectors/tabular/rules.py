"""Rules with names, in SQL."""

from collections.abc import Iterator, Mapping, Sequence
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
    counts: dict[str, int] = field(default_factory=dict[str, int])
    """How many rows break each rule, by what it is called in reasons."""


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
    broken = Broken(counts={_called(rule): 0 for rule in rules})
    for rule, found in _breaches(rules, batch):
        broken.counts[_called(rule)] = len(found)
        warns = rule.severity == "warn"
        for row, reason in found.items():
            if warns:
                broken.warnings.setdefault(row, []).append(rule.name)
            else:
                broken.reasons.setdefault(row, []).append(f"rule {rule.name!r}: {reason}")
    return broken


def _breaches(
    rules: Sequence[Rule], batch: pa.RecordBatch
) -> Iterator[tuple[Rule, dict[int, str]]]:
    """The rows that break each rule, and how."""
    evaluated = evaluate(bound_rules(rules, batch.schema), batch)
    failing = sorted(evaluated.failures)
    failed = batch.take(pa.array(failing)) if failing and len(rules) > 1 else None
    for rule, values in zip(rules, evaluated.values, strict=True):
        untrue = f"{_short(rule.check)} is not true"
        known = (row for row in _not_true(values).tolist() if row not in evaluated.failures)
        found = dict.fromkeys(known, untrue)
        failures: Mapping[int, str] = evaluated.failures
        if failed is not None:
            # Where one rule fails, nothing is known of the others: each is asked by itself.
            alone = evaluate(bound_rules((rule,), batch.schema), failed)
            untrue_ones = _not_true(alone.values[0]).tolist()
            found |= dict.fromkeys((failing[row] for row in untrue_ones), untrue)
            failures = {failing[row]: reason for row, reason in alone.failures.items()}
        begin = f"expression {f'rules.{rule.name}.check'!r}: "
        yield rule, found | {row: one.removeprefix(begin) for row, one in failures.items()}


def _called(rule: Rule) -> str:
    return f"rule {rule.name!r}" + (", a warning" if rule.severity == "warn" else "")


def _not_true(values: pa.Array) -> npt.NDArray[np.int64]:
    if values.true_count == len(values):
        return np.empty(0, np.int64)
    true = values.fill_null(fill_value=False).to_numpy(zero_copy_only=False)
    return np.flatnonzero(~true)


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
