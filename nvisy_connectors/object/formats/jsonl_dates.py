"""Dates in JSON lines: texts, which Arrow's reader takes for times and for nothing else."""

import re

import pyarrow as pa

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0:.]*(?:[Zz+-].*|[0-9:.]+[Zz+-].*)?)?")
"""Days, those with the time of midnight, and times with a zone, which may become midnight."""
_TIME = pa.timestamp("s")


def as_times(schema: pa.Schema) -> pa.Schema:
    """The same columns, with times in the place of dates; itself if there are none."""
    if not any(map(_holds_date, schema.types)):
        return schema
    return pa.schema([field.with_type(_as_time(field.type)) for field in schema])


def as_dates(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """What was read as `as_times`, as it was to be.

    Raises:
        pa.ArrowInvalid: A date has a time of day.
    """
    for place, field in enumerate(schema):
        if _holds_date(field.type):
            times = table.column(place)
            dates = times.cast(field.type)
            if not dates.cast(times.type).equals(times):
                raise pa.ArrowInvalid(_first_reason(times, dates.cast(times.type), field.name))
            table = table.set_column(place, field, dates)
    return table


def may_be_date(text: str) -> bool:
    """Whether Arrow may take a text for a day; what it surely does not is told apart sooner so."""
    return _DAY.fullmatch(text) is not None


def _first_reason(times: pa.ChunkedArray, days: pa.ChunkedArray, name: str) -> str:
    """What the salvaging of lines looks for: which row is the first one at fault."""
    same = (one == other for one, other in zip(times.to_pylist(), days.to_pylist(), strict=True))
    row = next((row for row, alike in enumerate(same) if not alike), 0)
    return f"JSON parse error: field {name!r} is a time, not a date in row {row}"


def _holds_date(kind: pa.DataType) -> bool:
    if pa.types.is_nested(kind):
        return any(_holds_date(kind.field(place).type) for place in range(kind.num_fields))
    return pa.types.is_date32(kind)


def _as_time(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind):
        return pa.list_(_as_time(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_as_time(field.type)) for field in kind])
    return _TIME if pa.types.is_date32(kind) else kind
