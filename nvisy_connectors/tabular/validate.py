"""The action `validate`."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Self

import pyarrow as pa
from pydantic import Field, JsonValue, model_validator

from nvisy_connectors.tabular import bulk
from nvisy_connectors.tabular.binding import told
from nvisy_connectors.tabular.evaluation import sound
from nvisy_connectors.tabular.expression import existing, nearest
from nvisy_connectors.tabular.json_schema import JsonSchema
from nvisy_connectors.tabular.model_rules import Model
from nvisy_connectors.tabular.plain_values import Values, json_values, python_values
from nvisy_connectors.tabular.rules import Rule, bound_rules, broken_rules, parsed, tagged
from nvisy_dagster.sdk import (
    Capabilities,
    ConfigError,
    DataError,
    EdgeType,
    KernelAction,
    Params,
    raise_mistakes,
    tell_findings,
)

LONGEST_REASON = 1000


class ValidateParams(Params):
    """What records must follow; at least one of `rules`, `json_schema` and `model`."""

    rules: Annotated[tuple[Rule, ...], Field(max_length=500)] = Field(
        default=(), examples=[[{"name": "positive", "check": "quantity > 0"}]]
    )
    """Rules in SQL, each with a name: `[{"name": "positive", "check": "quantity > 0"}]`."""
    json_schema: dict[str, JsonValue] | None = None
    """JSON Schema (drafts 4 to 2020-12, formats such as `email` and `date-time` are checked) of the
    record as a JSON object: a member for each column that is not NULL, bytes as base64, dates and
    times as ISO 8601 has them. It may not refer to other documents."""
    model: Annotated[
        str | None, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$", max_length=255)
    ] = None
    """A pydantic model, as `module:Class`, that takes the columns of a record as its fields. Only
    models of the modules that the deployment names in the environment variable
    `NVISY_MODEL_MODULES` can be used: `acme.models, acme.schemas.*`."""
    column: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    """Column that `json_schema` and `model` look at, instead of the whole record: JSON text, a
    struct, or any other value."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.rules and self.json_schema is None and self.model is None:
            raise ValueError("name at least one of rules, json_schema and model")
        names = [rule.name for rule in self.rules]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"rules must have different names: {doubled[0]!r}")
        if self.column is not None and self.json_schema is None and self.model is None:
            raise ValueError("column is what json_schema or model look at: name one of them")
        return self


class Validate(KernelAction[ValidateParams]):
    """Refuse the records that break a rule, do not follow a JSON Schema or are none of a model.

    Records that follow all of them go on as they are. Of any other the reason names each rule that
    it breaks, or the JSON path and the keyword of the schema, and what becomes of it is up to
    `on_error`: with `dead_letter` it is kept with that reason, and the others go on. How many
    records broke each rule is shown with the run; one that breaks two counts for both.
    """

    name = "validate"
    capabilities = Capabilities(row_wise=True, concurrency=2, checks=True)
    requires = ("duckdb", "jsonschema_rs")
    extra = "tabular"

    @classmethod
    def prepare(cls, params: Sequence[ValidateParams]) -> None:
        """Parse the rules of all nodes together."""
        bulk.prepare(cls.name, (rule.check for one in params for rule in one.rules))

    def output(self, incoming: EdgeType) -> EdgeType:
        """The type that came in.

        Raises:
            ConfigError: A rule, the schema or the model cannot be used, or does not fit the
                columns.
        """
        errors: list[ConfigError] = []
        schema = incoming.schema
        with told(errors):
            if schema is None:
                raise_mistakes(parsed(self.params.rules)[1])
            else:
                bound_rules(self.params.rules, schema)
        for kind in (self._json_schema, self._model):
            with told(errors):
                self._check_columns(kind(), schema)
        raise_mistakes(errors)
        return incoming

    def transform(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Check a batch.

        Raises:
            ConfigError: The params do not fit the columns of the batch.
            DataError: Some rows are refused.
        """
        broken = broken_rules(self.params.rules, batch)
        reasons = broken.reasons
        if schema := self._json_schema():
            values = json_values(batch, self.params.column)
            broken.counts["JSON Schema"] = _ask("JSON Schema", schema, values, reasons)
        if model := self._model():
            values = python_values(batch, self.params.column)
            what = f"model {self.params.model}"
            broken.counts[what] = _ask(what, model, values, reasons)
        tell_findings(broken.counts)
        result = tagged(batch, broken.warnings)
        if reasons:
            raise _refusal(reasons, batch.num_rows, result)
        return result

    def _json_schema(self) -> JsonSchema | None:
        schema = self.params.json_schema
        return None if schema is None else JsonSchema(schema)

    def _model(self) -> Model | None:
        return None if self.params.model is None else Model(self.params.model)

    def _check_columns(self, kind: JsonSchema | Model | None, schema: pa.Schema | None) -> None:
        """Refuse what no record with these columns can follow."""
        if kind is None or schema is None:
            return
        param = "json_schema" if isinstance(kind, JsonSchema) else "model"
        column = self.params.column
        required = [column] if column else _required(kind)
        missing = [name for name in required if name not in schema.names]
        if missing:
            asks = "'column' names" if column else f"{param!r} requires"
            raise ConfigError(
                f"{asks} column {missing[0]!r}, which is not there",
                remedy=nearest(missing[0], schema.names) or existing(schema.names),
                tag="schema",
                place=("column",) if column else (param,),
            )


def _required(kind: JsonSchema | Model) -> Sequence[str]:
    return kind.required if isinstance(kind, JsonSchema) else kind.required()


def _ask(what: str, kind: JsonSchema | Model, values: Values, reasons: dict[int, list[str]]) -> int:
    """Ask of every value why it is refused; how many are."""
    found = {**kind.errors(values.values), **values.unreadable}
    for row, reason in found.items():
        reasons.setdefault(row, []).append(f"{what}: {reason}")
    return len(found)


def _refusal(reasons: Mapping[int, list[str]], rows: int, result: pa.RecordBatch) -> DataError:
    said = {row: "; ".join(reasons[row])[:LONGEST_REASON] for row in sorted(reasons)}
    kept = result.filter(pa.array(sound(said, rows)))
    first = said[next(iter(said))]
    return DataError(f"{len(said)} of {rows} rows are not valid: {first}", rows=said, result=kept)
