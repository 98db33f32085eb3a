"""Records held against a JSON Schema."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from pydantic_core import to_json

from nvisy_dagster.sdk import ConfigError

MOST_ERRORS = 3
"""Errors of one record that are told."""
MAX_PATTERN_BYTES = 1 << 20
MAX_BACKTRACKS = 100_000
"""Steps that a pattern may go back on one text: it comes from a graph, and the text from anywhere.
"""


class JsonSchema:
    """A schema that is ready for use.

    Args:
        schema: The schema; `$ref` within it and to the published meta-schemas only.

    Raises:
        ConfigError: It is no valid JSON Schema, or refers to what is not in it.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._validator = _validator(to_json(schema))
        self.required: Sequence[str] = schema.get("required", ())

    def errors(self, values: Sequence[object]) -> dict[int, str]:
        """Why values do not follow the schema, by their place.

        JSON path, what is wrong, and the keyword. Values are not shown: reasons go where the
        records themselves may not.
        """
        is_valid = self._validator.is_valid
        wrong = [place for place, value in enumerate(values) if not is_valid(value)]
        return {place: self._error(values[place]) for place in wrong}

    def _error(self, value: object) -> str:
        found = list(self._validator.iter_errors(value))
        told = [
            f"{json_path(error.instance_path)}: {error.message} ({_keyword(error.schema_path)})"
            for error in found[:MOST_ERRORS]
        ]
        more = len(found) - len(told)
        return "; ".join(told) + (f"; and {more} more" if more else "")


@lru_cache(maxsize=64)
def _validator(schema: bytes) -> Any:  # noqa: ANN401 - a validator of any draft
    import jsonschema_rs

    try:
        return jsonschema_rs.validator_for(
            schema.decode(),
            validate_formats=True,
            ignore_unknown_formats=False,
            # Nothing is fetched: a graph must not make the deployment call another host.
            offline=True,
            mask="the value",
            pattern_options=jsonschema_rs.FancyRegexOptions(
                backtrack_limit=MAX_BACKTRACKS, size_limit=MAX_PATTERN_BYTES
            ),
        )
    except jsonschema_rs.ValidationError as error:
        said = error.message.splitlines()[0][:300]
        raise _refused(f"{json_path(error.instance_path)}: {said}") from error
    except (jsonschema_rs.ReferencingError, ValueError) as error:
        raise _refused(str(error).splitlines()[0][:300]) from error


def _refused(message: str) -> ConfigError:
    return ConfigError(
        f"'json_schema' is no JSON Schema that can be used: {message}",
        remedy='correct it; what "$ref" refers to must be within the schema, under "$defs"',
        tag="schema",
        place=("json_schema",),
    )


def json_path(steps: Sequence[str | int]) -> str:
    """`$.customer.age`, `$.tags[0]`, `$['first name']`."""
    return "$" + "".join(
        f"[{step}]"
        if isinstance(step, int)
        else f".{step}"
        if step.isidentifier()
        else f"[{step!r}]"
        for step in steps
    )


def _keyword(steps: Sequence[str | int]) -> str:
    return next((step for step in reversed(steps) if isinstance(step, str)), "false")
