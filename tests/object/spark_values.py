"""The rows of `spark_samples`: what the script wrote, and the tests must read."""

import datetime as dt
from decimal import Decimal
from typing import Any

UTC = dt.UTC

ROWS: list[dict[str, Any]] = [
    {
        "id": 1,
        "full name": 'Müller, "Otto"',
        "price": Decimal("12345.67"),
        "share": Decimal("-0.000000000000000001"),
        "huge": Decimal(12345678901234567890123456789012345678),
        "score": 1.5,
        "ok": True,
        "day": dt.date(2026, 1, 2),
        "at": dt.datetime(2026, 1, 2, 3, 4, 5, 678_901, UTC),
        "raw": b"\x00\xff",
        "tags": ["a", None, ""],
        "counts": {"x": 1, "y": None},
        "author": {"name": "Ü", "at": [{"city": "Köln", "zip": 1067}, {"city": None, "zip": None}]},
    },
    {
        "id": 2,
        "full name": "two\nlines \\ and a tab\t.",
        "price": Decimal("0.00"),
        "share": Decimal(0),
        "huge": Decimal(-1),
        "score": float("-inf"),
        "ok": False,
        "day": dt.date(1582, 10, 15),
        "at": dt.datetime(1960, 2, 29, 23, 59, 59, 999_999, UTC),
        "raw": b"",
        "tags": [],
        "counts": {},
        "author": {"name": None, "at": []},
    },
    {
        "id": 3,
        "full name": "",
        "price": Decimal("-99999.99"),
        "share": Decimal("0.5"),
        "huge": Decimal(0),
        "score": 1e300,
        "ok": None,
        "day": dt.date(9999, 12, 31),
        "at": dt.datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC),
        "raw": None,
        "tags": [None],
        "counts": {"": 2**40},
        "author": {"name": "", "at": None},
    },
    {"id": 4}
    | dict.fromkeys((
        "full name", "price", "share", "huge", "score", "ok", "day", "at", "raw", "tags", "counts",
        "author",
    )),
]  # fmt: skip
"""Rows of every type, the last of nulls."""

PARTITIONED = [
    {"n": n, "day": day, "region": region}
    for n, (day, region) in enumerate([
        (dt.date(2026, 1, 2), "eu"),
        (dt.date(2026, 1, 2), "a/b=c %"),
        (dt.date(2026, 1, 3), None),
        (None, "eu"),
        (dt.date(2026, 1, 3), "ü:'x'"),
    ])
]
"""Rows of which `day` and `region` tell the folder."""

LINES: list[dict[str, Any]] = [
    {"id": 1, "name": "plain", "note": "x", "score": 1.5, "ok": True,
     "day": dt.date(2026, 1, 2), "at": dt.datetime(2026, 1, 2, 3, 4, 5, 678_000, UTC)},
    {"id": 2, "name": 'Müller, "Otto"', "note": '"', "score": -3.0, "ok": False,
     "day": dt.date(2026, 1, 2), "at": dt.datetime(2026, 1, 2, tzinfo=UTC)},
    {"id": 3, "name": "back\\slash, C:\\new\\", "note": '\\"', "score": None, "ok": None,
     "day": None, "at": None},
    {"id": 4, "name": "", "note": None, "score": 0.25, "ok": True,
     "day": dt.date(1999, 12, 31), "at": dt.datetime(1999, 12, 31, 23, 59, 59, 999_000, UTC)},
    {"id": 5, "name": None, "note": "", "score": 1e22, "ok": False,
     "day": dt.date(2026, 1, 2), "at": dt.datetime(2026, 1, 2, tzinfo=UTC)},
    {"id": 6, "name": "#, ;|'", "note": "bare \\ and \\\\", "score": 7.0, "ok": True,
     "day": dt.date(2026, 1, 2), "at": dt.datetime(2026, 1, 2, tzinfo=UTC)},
    {"id": 7, "name": 'she said ""', "note": '"quoted", and \\"', "score": 7.0, "ok": True,
     "day": dt.date(2026, 1, 2), "at": dt.datetime(2026, 1, 2, tzinfo=UTC)},
    {"id": 8, "name": "two\nlines", "note": 'a "\n" b', "score": 7.0, "ok": True,
     "day": dt.date(2026, 1, 2), "at": dt.datetime(2026, 1, 2, tzinfo=UTC)},
]  # fmt: skip
"""Rows as lines hold them."""

TEXTS = ["first", "", "ü 😀", "last"]
"""Lines of the texts."""
