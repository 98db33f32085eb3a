"""Field types of records: what pydantic checks, and the Arrow type that stores it."""

import datetime as dt
import math
from dataclasses import dataclass
from typing import Annotated, Any

import pyarrow as pa
from pydantic import AfterValidator, AwareDatetime, Field

_FLOAT32_MAX = 3.4028234663852886e38


@dataclass(frozen=True)
class Arrow:
    """Marks, within `Annotated`, the Arrow type that stores a field.

    Every value of that type must satisfy the validator functions that stand beside the mark: a
    column of the type is not checked against them again. Limits such as `ge` are always checked.
    """

    type: pa.DataType


@dataclass(frozen=True)
class ArrowVector:
    """Marks a list of floats stored as `fixed_size_list<float32>[d]`; the edge knows `d`."""


def _utc(value: dt.datetime) -> dt.datetime:
    try:
        return value.astimezone(dt.UTC)
    except OverflowError as error:
        raise ValueError("out of range in UTC (years 1 to 9999)") from error


def _float32(values: list[float]) -> list[float]:
    for index, value in enumerate(values):
        if not math.isfinite(value) or abs(value) > _FLOAT32_MAX:
            raise ValueError(f"component {index} is not a finite 32-bit float")
    return values


Int32 = Annotated[int, Field(ge=-(2**31), le=2**31 - 1), Arrow(pa.int32())]
"""A signed 32-bit integer."""

Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1), Arrow(pa.int64())]
"""A signed 64-bit integer."""

Count = Annotated[int, Field(ge=0, le=2**31 - 1), Arrow(pa.int32())]
"""A number of things, 32 bits."""

Offset = Annotated[int, Field(ge=0, le=2**63 - 1), Arrow(pa.int64())]
"""A position or a size, 64 bits."""

Seconds = Annotated[float, Field(ge=0)]
"""A duration in seconds."""

Bytes = Annotated[bytes, Arrow(pa.large_binary())]
"""Content that may be large."""

MimeType = Annotated[str, Field(pattern=r"^[0-9A-Za-z!#$&^_.+-]+/[0-9A-Za-z!#$&^_.+-]+( *;.*)?$")]
"""A media type such as `image/png`."""

UtcDatetime = Annotated[AwareDatetime, AfterValidator(_utc), Arrow(pa.timestamp("us", "UTC"))]
"""A moment, microseconds, in UTC; a value without a timezone is refused."""

Vector = Annotated[list[float], Field(min_length=1), AfterValidator(_float32), ArrowVector()]
"""An embedding vector; stored with 32 bits per component."""

JsonObject = dict[str, Any]
"""A JSON object, stored as JSON text."""
