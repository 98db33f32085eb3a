"""pydantic's findings in the words of a person."""

from collections.abc import Callable, Iterable, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from nvisy_dagster.graph.errors import GraphError, nearest, shown, suggest
from nvisy_dagster.graph.json_text import MAX_ERRORS
from nvisy_dagster.graph.model import (
    ID_PATTERN,
    OWNER_PATTERN,
    Graph,
)
from nvisy_dagster.graph.places import Places, Step, Steps
from nvisy_dagster.graph.run_tags import (
    RUN_TAG_KEY_PATTERN,
    TAG_KEY_PATTERN,
    TAG_VALUE_PATTERN,
    why_refused,
)
from nvisy_dagster.sdk.params import camel

IDENTIFIER_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*$"
"""As in the SDK's `Identifier`."""
Words = tuple[str, str | None]
"""Message and remedy."""

_A = {
    "string_type": "a string",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_parsing": "true or false",
    "int_parsing": "a whole number",
    "float_parsing": "a number",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "tuple_type": "an array",
    "list_type": "an array",
    "invalid_key": "a string",
}
_PATTERNS = {
    ID_PATTERN: "letters, digits, _, - and .; it starts with a letter, a digit or _",
    IDENTIFIER_PATTERN: "letters, digits and _; it does not start with a digit",
    TAG_KEY_PATTERN: "letters, digits, _, - and ., at most 63 of them",
    RUN_TAG_KEY_PATTERN: "letters, digits, _, - and ., at most 63 of them",
    TAG_VALUE_PATTERN: "letters, digits, _, - and ., at most 63 of them",
    OWNER_PATTERN: 'an e-mail address or "team:name"',
    r"^\S+$": "a word without spaces",
}


def describe(value: Any) -> str:  # noqa: ANN401 - any JSON
    """What a JSON value is, in two words; never its content."""
    names = {str: "a string", bool: "true or false", int: "a number", float: "a number"}
    names |= {dict: "an object", list: "an array", type(None): "null"}
    return names.get(type(value), f"a {type(value).__name__}")  # type: ignore[arg-type]


def explain(
    error: ValidationError, model: type[BaseModel], places: Places, base: Steps = ()
) -> list[GraphError]:
    """Every finding, with its place in the author's document and a remedy.

    Args:
        error: What pydantic found.
        model: The model it validated.
        places: Where the author wrote what.
        base: Where in the document the validated value stands.
    """
    findings = error.errors(include_url=False)[:MAX_ERRORS]
    return [_explain(found, model, places, base) for found in findings if not _echo(found)]


def _echo(finding: ErrorDetails) -> bool:
    """An array counts as too short for pydantic when its entries are wrong; those are reported."""
    return (
        finding["type"] == "too_short"
        and isinstance(finding["input"], list)
        and len(cast("list[Any]", finding["input"])) >= finding.get("ctx", {})["min_length"]
    )


def _explain(
    finding: ErrorDetails, root: type[BaseModel], places: Places, base: Steps
) -> GraphError:
    steps, model = _steps(finding["loc"], root)
    kind = finding["type"]
    context: Mapping[str, Any] = finding.get("ctx", {})
    steps = (*steps, *context.get("at", ()))
    if kind == "missing":
        message, remedy = f'"{steps[-1]}" is missing', "add it"
        return GraphError(places.path((*base, *steps[:-1])), message, remedy)
    if kind == "extra_forbidden":
        message, remedy = _unknown(str(steps[-1]), model)
    elif kind == "union_tag_not_found":
        message, remedy = f'"{_tag_key(context)}" is missing', "add it"
        if root is Graph:
            remedy = 'one of "source", "action", "sink", "branch"'
    elif kind == "union_tag_invalid":
        key = _tag_key(context)
        steps = (*steps, key)
        message, remedy = _unknown_tag(key, context, finding["input"])
    else:
        message, remedy = _worded(kind, context, finding)
    return GraphError(places.path((*base, *steps)), message, remedy)


def _unknown(key: str, model: type[BaseModel]) -> Words:
    valid = keys_of(model)
    if key in valid or key in map(camel, valid):
        return f"{shown(key)} is said twice, in two spellings", "keep one of them"
    return f"unknown key {shown(key)}", suggest(key, valid)


def _tag_key(context: Mapping[str, Any]) -> str:
    """The key whose value chooses the member of a union."""
    return str(context["discriminator"]).strip("'")


def _unknown_tag(key: str, context: Mapping[str, Any], value: Any) -> Words:  # noqa: ANN401
    own = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    tag = own.get(key, own.get(camel(key)))
    expected = [word.strip(" '") for word in str(context["expected_tags"]).split(",")]
    if isinstance(tag, str):
        return f"unknown {key} {shown(tag)}", suggest(tag, expected)
    return f"unknown {key} ({describe(tag)})", f"one of {', '.join(expected)}"


def _worded(kind: str, context: Mapping[str, Any], finding: ErrorDetails) -> Words:
    if kind in _A:
        said = finding["input"]
        fraction = kind == "int_type" and isinstance(said, float)
        return f"should be {_A[kind]}, not {said if fraction else describe(said)}", None
    if kind == "string_pattern_mismatch":
        return _mismatch(str(context["pattern"]), str(finding["input"]))
    if kind == "literal_error":
        return _literal(str(context["expected"]), finding["input"])
    if kind == "int_from_float":
        return f"should be a whole number, not {finding['input']}", None
    bound = _BOUNDS.get(kind)
    if bound is not None:
        said = finding["input"]
        but = f", not {said:,.12g}" if isinstance(said, int | float) else ""
        return bound(context) + but, None
    said = str(finding["msg"]).removeprefix("Value error, ")
    return said, cast("str | None", context.get("remedy"))


def _mismatch(pattern: str, said: str) -> Words:
    why = why_refused(pattern, said)
    if why is not None:
        return why
    return (
        f"{shown(said)} is not allowed",
        f"use {_PATTERNS.get(pattern, f'what matches {pattern}')}",
    )


def _literal(expected: str, value: Any) -> Words:  # noqa: ANN401 - any JSON
    words = [word.strip("' ") for word in expected.replace(" or ", ",").split(",")]
    listed = ", ".join(f'"{word}"' for word in words)
    said = shown(value) if isinstance(value, str) else describe(value)
    near = nearest(value, words) if isinstance(value, str) else None
    return f"should be one of {listed}, not {said}", f'did you mean "{near}"?' if near else None


_BOUNDS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "greater_than": lambda c: f"should be more than {c['gt']:g}",
    "greater_than_equal": lambda c: f"should be at least {c['ge']:,.12g}",
    "less_than": lambda c: f"should be less than {c['lt']:,.12g}",
    "less_than_equal": lambda c: f"should be at most {c['le']:,.12g}",
    "finite_number": lambda _: "should be a finite number",
    "string_too_long": lambda c: f"should have at most {c['max_length']:,} characters",
    "string_too_short": lambda _: "should not be empty",
    "too_short": lambda c: (
        f"should have at least {c['min_length']:,} entries"
        if c["min_length"] > 1
        else "should not be empty"
    ),
    "too_long": lambda c: f"should have at most {c['max_length']:,} entries",
}


def keys_of(model: type[BaseModel]) -> list[str]:
    """The keys of a model as we write them."""
    special = {"from_": "from", "schema_": "$schema"}
    return [special.get(name, name) for name in model.model_fields]


def steps_of(finding: ErrorDetails, model: type[BaseModel]) -> Steps:
    """Where in the document that was validated a finding is."""
    context: Mapping[str, Any] = finding.get("ctx", {})
    return (*_steps(finding["loc"], model)[0], *context.get("at", ()))


def _steps(loc: Iterable[Step], root: type[BaseModel]) -> tuple[Steps, type[BaseModel]]:
    """A place as the document has it, and the model around it.

    pydantic's own place also names the member of a union that it chose.
    """
    steps: list[Step] = []
    around, kind = root, cast("Any", root)
    for step in loc:
        members = _members(kind)
        if members and isinstance(step, str):
            kind = members.get(step, kind)
            continue
        if step == "[key]":
            continue
        steps.append(step)
        if isinstance(step, str) and isinstance(kind, type) and issubclass(kind, BaseModel):
            around, kind = kind, _field(kind, step)
        elif isinstance(step, int):
            kind = next((a for a in get_args(kind) if a is not Ellipsis), None)
            kind = _bare(kind)
    return tuple(steps), around


def _field(model: type[BaseModel], key: str) -> Any:  # noqa: ANN401 - a type
    for name, field in model.model_fields.items():
        if key in {name, field.alias}:
            return _bare(field.annotation)
    return None


def _bare(kind: Any) -> Any:  # noqa: ANN401 - a type
    """A type without `Annotated` and without `None`."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in {Union, UnionType}:
        rest = [a for a in get_args(kind) if a is not type(None)]
        return _bare(rest[0]) if len(rest) == 1 else kind
    return kind


def _members(kind: Any) -> dict[str, type[BaseModel]]:  # noqa: ANN401 - a type
    """Members of a union of models, by the words that choose each."""
    if get_origin(kind) not in {Union, UnionType}:
        return {}
    models = [a for a in get_args(kind) if isinstance(a, type) and issubclass(a, BaseModel)]
    return {
        str(word): model
        for model in models
        for field in model.model_fields.values()
        if get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1
        for word in get_args(field.annotation)
    }
