"""Values of records as JSON, and as text that a terminal can be given."""

import base64
import datetime as dt
import math
import re
from typing import Any, cast

from nvisy_dagster.sdk.identity import format_uuid

ID_BYTES = 16
_IDS = {"letter_id", "_id", "_root_id", "_parent_ids"}
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""What a text may hold that a terminal takes for orders."""


def plain(value: Any, name: str = "") -> Any:  # noqa: ANN401 - any value of a record
    """A value as JSON: ids as UUIDs, bytes as the text that they are, else as base64."""
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {str(key): plain(one, str(key)) for key, one in items}
    if isinstance(value, list | tuple):
        return [plain(one, name) for one in cast("list[Any]", value)]
    return _scalar(value, name)


def _scalar(value: Any, name: str) -> Any:  # noqa: ANN401 - any value of a record
    if isinstance(value, bytes):
        return _bytes(value, name)
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float) or value is None else str(value)


def _bytes(value: bytes, name: str) -> Any:  # noqa: ANN401 - a text, or an object that says it is none
    if name in _IDS and len(value) == ID_BYTES:
        return format_uuid(value)
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def readable(text: str, *, lines: bool = False) -> str:
    """A text without what a terminal takes for orders.

    Args:
        text: The text.
        lines: Whether it may have several lines; they are indented then.
    """
    clean = _CONTROL.sub("", text.expandtabs(4))
    return clean.replace("\n", "\n    ") if lines else clean.replace("\n", " ")
