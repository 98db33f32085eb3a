"""Params take numbers and booleans as they are written, and other types from their text."""

import datetime as dt
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, SecretStr, ValidationError

from nvisy_dagster.sdk import Params


class Colour(Enum):
    """An enum, written as its value."""

    RED = "red"


class Inner(Params):
    """Nested params."""

    count: int = 0


class Everything(Params):
    """Fields of many types, one with a name that means something to the walk over them."""

    planned = {"kind": ("later",)}  # noqa: RUF012 - pydantic knows it

    max_rows: int | None = Field(default=1, ge=1)
    flag: bool = False
    ratio: float = 0.0
    many: list[int] = Field(default=[])
    by_name: dict[str, float] = Field(default={})
    lax: Annotated[int, Field(strict=False)] = 0
    inner: Inner = Inner()
    type: int = 0
    default: int = 0
    colour: Colour = Colour.RED
    path: Path = Path()
    moment: dt.datetime | None = None
    secret: SecretStr | None = None
    pair: tuple[int, ...] = ()
    kind: Literal["a", "b"] | None = None


@pytest.mark.parametrize(
    "document",
    [
        {"maxRows": "2"},
        {"max_rows": True},
        {"max_rows": 1.0},
        {"flag": 1},
        {"flag": "true"},
        {"ratio": "1"},
        {"ratio": True},
        {"many": ["1"]},
        {"byName": {"a": True}},
        {"inner": {"count": "1"}},
        {"type": "1"},
        {"default": "1"},
    ],
)
def test_other_spellings_are_refused(document):
    with pytest.raises(ValidationError) as caught:
        Everything.model_validate(document)
    assert [found["type"] for found in caught.value.errors()] in (
        ["int_type"],
        ["bool_type"],
        ["float_type"],
    )


def test_what_json_can_only_say_as_text_or_whole_number_is_taken():
    params = Everything.model_validate({
        "maxRows": 2,
        "flag": True,
        "ratio": 1,
        "many": [1],
        "byName": {"a": 2},
        "lax": "3",
        "inner": {"count": 4},
        "colour": "red",
        "path": "a/b",
        "moment": "2026-01-01T00:00:00Z",
        "secret": "hush",
        "pair": [1, 2],
    })
    assert (params.ratio, params.lax, params.inner.count) == (1.0, 3, 4)
    assert (params.colour, params.path, params.pair) == (Colour.RED, Path("a/b"), (1, 2))
    assert params.moment == dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    assert Everything.model_validate_json(params.model_dump_json()).max_rows == 2


def test_a_planned_word_is_the_only_finding():
    with pytest.raises(ValidationError) as caught:
        Everything.model_validate({"kind": "later", "unknown": 1})
    (found,) = caught.value.errors()
    assert found["msg"] == 'kind "later" is not built yet'
    assert found["ctx"]["remedy"] == 'use "a" or "b"'
    assert found["ctx"]["at"] == ("kind",)
